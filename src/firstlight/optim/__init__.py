"""Parameter groups, optimisers, schedules, clipping; takes named parameters, never a model."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.optim.adamw import AdamW, build_adamw, spare_the_compiler
from firstlight.optim.average import Average
from firstlight.optim.groups import GroupRow, grouped, is_hidden
from firstlight.optim.muon import Muon, MuonOptimizer, has_bf16_units, orthogonal
from firstlight.optim.schedule import SCHEDULES, Schedule, factor
from firstlight.optim.settings import OptimizerSettings
from firstlight.optim.state import load_state_tensors, name_parameters, state_tensors

# The optimizers by the name that ``optim.name`` has. Others are named ``package.module:Class``.
OPTIMIZERS: dict[str, type[OptimizerSettings] | str] = {"adamw": AdamW, "muon": Muon}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AdamW",
    "Average",
    "GroupRow",
    "Muon",
    "MuonOptimizer",
    "Optimizer",
    "OptimizerSettings",
    "Schedule",
    "build",
    "clip",
    "describe",
    "factor",
    "has_bf16_units",
    "is_hidden",
    "load_state_tensors",
    "orthogonal",
    "resolved",
    "set_lr",
    "state_tensors",
]


def build(
    named: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerSettings,
    *,
    fused_splits: Mapping[str, Sequence[int]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """Return the optimiser that the settings name.

    Args:
        named: parameters with their names; a shared one once.
        settings: which optimiser, and how.
        fused_splits: rows of each part of fused matrices, by name.
        scales: of the learning rate, by a parameter's name; AdamW alone has them.
    """
    assert scales is None or isinstance(settings, AdamW), "the caller checks that"
    spare_the_compiler()
    pairs = [(n, p) for n, p in named if p.requires_grad]
    optimizer: Optimizer
    if isinstance(settings, Muon):
        optimizer = MuonOptimizer(pairs, settings, fused_splits or {})
    else:
        assert isinstance(settings, AdamW)
        optimizer = build_adamw(pairs, settings, scales or {})
    name_parameters(optimizer, pairs)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def resolved(settings: OptimizerSettings, device: torch.device) -> OptimizerSettings:
    """Return the settings with every ``auto`` as it is on a device."""
    if not isinstance(settings, Muon) or settings.ns_precision != "auto":
        return settings
    return settings.model_copy(update={"ns_precision": "bf16" if has_bf16_units(device) else "fp32"})


def describe(named: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings) -> list[GroupRow]:
    """Return the groups that ``build`` makes, with counts, learning rates and decay, for plan and report."""
    rows = []
    for name, members in grouped((n, p) for n, p in named if p.requires_grad).items():
        muon = isinstance(settings, Muon) and name == "hidden"
        lr = settings.adamw_lr if isinstance(settings, Muon) and not muon else settings.lr
        decay = 0.0 if name == "vectors" else settings.weight_decay
        rows.append(
            GroupRow(name, "muon" if muon else "adamw", len(members), sum(p.numel() for _, p in members), lr, decay)
        )
    return rows


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clip(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Tensor:
    """Bound the gradient by value, then by norm; return its norm before either."""
    held = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    if settings.clip_value:
        nn.utils.clip_grad_value_(held, settings.clip_value)
    if settings.clip_norm:
        after = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None]) if settings.clip_value else norm
        nn.utils.clip_grads_with_norm_(held, settings.clip_norm, torch.as_tensor(after))
    return norm
