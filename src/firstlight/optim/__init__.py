"""Optimizers, parameter groups, learning rate schedules, gradient clipping; takes named parameters, never a model.

To add an optimizer: a file with a class that derives from OptimizerSettings, and a line in ``OPTIMIZERS``. To add a
schedule: a function, and a line in ``SCHEDULES``. Either can also be in another package, named ``package.module:Name``.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.config import TaggedUnion
from firstlight.errors import ConfigError
from firstlight.optim.adamw import AdamW, avoid_dynamo_import
from firstlight.optim.ema import ExponentialMovingAverage
from firstlight.optim.groups import GroupSummary, is_hidden, summarize_groups
from firstlight.optim.muon import Muon, MuonOptimizer, has_fast_bf16, orthogonalize
from firstlight.optim.schedule import SCHEDULES, ScheduleSettings, lr_factor, open_ended
from firstlight.optim.settings import OptimizerSettings
from firstlight.optim.state import load_state_tensors, register_parameters, state_bytes, state_tensors

# The optimizers by the name that ``optim.name`` has. Others are named ``package.module:Class``.
OPTIMIZERS: dict[str, type[OptimizerSettings] | str] = {"adamw": AdamW, "muon": Muon}

# What marks a settings field as one of the optimizers: Annotated[OptimizerSettings, OPTIMIZER] = Muon().
OPTIMIZER = TaggedUnion(OPTIMIZERS, kind="optimizer")

__all__ = [
    "OPTIMIZER",
    "OPTIMIZERS",
    "SCHEDULES",
    "AdamW",
    "ExponentialMovingAverage",
    "GroupSummary",
    "Muon",
    "MuonOptimizer",
    "Optimizer",
    "OptimizerSettings",
    "ScheduleSettings",
    "build_optimizer",
    "clip_gradients",
    "has_fast_bf16",
    "is_hidden",
    "load_state_tensors",
    "lr_factor",
    "open_ended",
    "orthogonalize",
    "scale_lr",
    "state_bytes",
    "state_tensors",
    "summarize_groups",
]


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerSettings,
    *,
    fused_splits: Mapping[str, Sequence[int]] | None = None,
    lr_scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """Build the optimizer of the trainable ones among named parameters.

    Args:
        named_parameters: parameters with their names; a shared one once.
        settings: which optimizer, and its settings.
        fused_splits: rows of each part of fused matrices, by parameter name.
        lr_scales: factors of the learning rate, by parameter name; only where ``settings.supports_lr_scales``.

    Raises:
        ConfigError: a class of another package did not build a ``torch.optim.Optimizer``.
    """
    assert lr_scales is None or settings.supports_lr_scales, "the caller checks that"
    avoid_dynamo_import()
    trainable = [(n, p) for n, p in named_parameters if p.requires_grad]
    optimizer = settings.build(trainable, fused_splits=fused_splits or {}, lr_scales=lr_scales or {})
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"{settings.name} does not build an optimizer",
            where="optim.name",
            found=type(optimizer).__name__,
            expected="a torch.optim.Optimizer",
        )
    register_parameters(optimizer, trainable, settings)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def scale_lr(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of each parameter group to its initial one times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clip_gradients(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Tensor:
    """Clip gradients by value, then by norm; return their total norm before either."""
    params = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    if settings.clip_value:
        nn.utils.clip_grad_value_(params, settings.clip_value)
    if settings.clip_norm:
        after = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]) if settings.clip_value else norm
        nn.utils.clip_grads_with_norm_(params, settings.clip_norm, torch.as_tensor(after))
    return norm
