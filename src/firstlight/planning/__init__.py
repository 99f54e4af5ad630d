"""Estimate the parameters, memory, FLOPs, time and disk space of a run before it runs.

Parameter counts are exact; memory is an estimate whose parts are listed in ``Plan``; time is extrapolated from steps
that the caller has measured on this machine.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from firstlight.model import GPT, ModelConfig, count_parameters, flops_per_token, skip_init
from firstlight.optim import OptimizerSettings, state_bytes

_FP32_BYTES = 4  # weights, gradients and optimizer states are kept in fp32


@dataclass(frozen=True, slots=True)
class Plan:
    """The resources that a run needs.

    Attributes:
        parameters: all of them; ``embedding_parameters`` of those are embeddings and head.
        steps: updates, or None where only time or convergence ends the run.
        epochs: passes over the training text, or None likewise.
        memory_bytes: weights, gradients, optimizer state, averaged weights and activations of one forward pass.
        step_seconds: measured, or None.
        timed_tokens: tokens of the part of a step whose time was measured and scaled up; ``step_tokens`` if that was a
            whole step; None without a measurement.
        total_seconds: ``steps`` times that, or the limit in minutes.
        disk_bytes: the checkpoints kept, and the token store.
        total_flops: of all steps.
    """

    parameters: int
    embedding_parameters: int
    steps: int | None
    step_tokens: int
    train_tokens: int
    valid_tokens: int
    epochs: float | None
    memory_bytes: int
    step_seconds: float | None
    total_seconds: float | None
    disk_bytes: int
    total_flops: float | None
    timed_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def estimate(  # noqa: PLR0913 - each is a fact about the run that only the caller knows
    config: ModelConfig,
    *,
    optimizer: OptimizerSettings,
    steps: int | None,
    minutes: float | None,
    step_tokens: int,
    train_tokens: int,
    valid_tokens: int,
    activation_bytes: int,
    ema: bool,
    kept_checkpoints: int,
    store_bytes: int,
    step_seconds: float | None,
    timed_tokens: int | None = None,
) -> Plan:
    """Estimate the resources of a run from its shapes and the measured time of a step."""
    count = count_parameters(config)
    weight_bytes = _FP32_BYTES * count.total
    optimizer_bytes = _optimizer_bytes(config, optimizer)
    checkpoint_bytes = (1 + ema) * weight_bytes + optimizer_bytes
    total_by_steps = None if steps is None or step_seconds is None else steps * step_seconds
    limits = [s for s in (total_by_steps, None if minutes is None else 60 * minutes) if s is not None]
    return Plan(
        parameters=count.total,
        embedding_parameters=count.embedding,
        steps=steps,
        step_tokens=step_tokens,
        train_tokens=train_tokens,
        valid_tokens=valid_tokens,
        epochs=None if steps is None else steps * step_tokens / max(train_tokens, 1),
        memory_bytes=(2 + ema) * weight_bytes + optimizer_bytes + activation_bytes,
        step_seconds=step_seconds,
        total_seconds=min(limits, default=None),
        disk_bytes=store_bytes + (kept_checkpoints + 1) * checkpoint_bytes,
        total_flops=None if steps is None else steps * step_tokens * flops_per_token(config, config.block_size),
        timed_tokens=timed_tokens,
    )


def _optimizer_bytes(config: ModelConfig, optimizer: OptimizerSettings) -> int:
    with torch.device("meta"), skip_init():
        model = GPT(config)
    return state_bytes(list(model.named_parameters()), optimizer)
