"""Parameters, memory, FLOPs, time and disk of a run before it runs.

Counts are exact where the model decides them; memory is an estimate whose parts are named; time comes
from steps that the caller has really taken on this machine.
"""

from dataclasses import asdict, dataclass
from typing import Any

from firstlight.model import ModelConfig, count_parameters, flops_per_token

_FLOAT = 4  # weights, gradients and optimiser states are kept in fp32


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will need.

    Attributes:
        parameters: all of them; ``embedding_parameters`` of those are embeddings and head.
        steps: updates, or None where only time or convergence ends the run.
        epochs: passes over the training text, or None likewise.
        memory_bytes: weights, gradients, optimiser states, averaged weights and activations of one forward pass.
        step_seconds: measured, or None.
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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def estimate(  # noqa: PLR0913 - each is a figure of its own, named by the caller
    config: ModelConfig,
    *,
    optimizer: str,
    steps: int | None,
    minutes: float | None,
    step_tokens: int,
    train_tokens: int,
    valid_tokens: int,
    activation_bytes: int,
    averaged: bool,
    kept_checkpoints: int,
    store_bytes: int,
    step_seconds: float | None,
) -> Plan:
    """Put a plan together from the shapes of a run and the measured time of its step."""
    count = count_parameters(config)
    # AdamW keeps two moments a parameter; Muon one for hidden matrices and AdamW's two for the rest.
    hidden = count.non_embedding if optimizer == "muon" else 0
    states = 2 * count.total - hidden
    copies = (2 + averaged) * count.total + states
    by_steps = None if steps is None or step_seconds is None else steps * step_seconds
    limits = [s for s in (by_steps, None if minutes is None else 60 * minutes) if s is not None]
    return Plan(
        parameters=count.total,
        embedding_parameters=count.embedding,
        steps=steps,
        step_tokens=step_tokens,
        train_tokens=train_tokens,
        valid_tokens=valid_tokens,
        epochs=None if steps is None else steps * step_tokens / max(train_tokens, 1),
        memory_bytes=_FLOAT * copies + activation_bytes,
        step_seconds=step_seconds,
        total_seconds=min(limits, default=None),
        disk_bytes=store_bytes + (kept_checkpoints + 1) * _FLOAT * (count.total * (1 + averaged) + states),
        total_flops=None if steps is None else steps * step_tokens * flops_per_token(config, config.block_size),
    )
