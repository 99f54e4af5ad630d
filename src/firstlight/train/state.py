"""The state of training: everything that a checkpoint must contain so that a resumed run is bit-identical."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from firstlight.errors import CheckpointError
from firstlight.model import GPT, HEADS_FILE, from_hf_state_dict, to_hf_state_dict
from firstlight.optim import ExponentialMovingAverage, Optimizer, load_state_tensors, state_tensors

# Keys in checkpoints of counters whose attributes have other names.
_STORED_KEYS = {
    "setup_seconds": "outside_seconds",
    "micro_batch": "micro_rows",
    "nonfinite_steps": "not_finite",
    "spike_steps": "spiking",
    "last_improvement": "gain_loss",
    "evaluations_without_gain": "stale",
}


@dataclass(slots=True)
class Counters:
    """The counters of a run.

    Attributes:
        step: completed steps, skipped updates included.
        tokens: target tokens seen.
        position: next row in the order of the data.
        seconds: wall time since the process started, summed over resumes.
        setup_seconds: the part of it before the loop started: imports, data, compilation.
        micro_batch: rows of one forward pass, as estimated, or halved after an out-of-memory.
        skipped: (first row, number of rows) of the data skipped after loss spikes.
        nonfinite_steps: consecutive updates skipped because loss or gradient was not finite.
        rollbacks: returns to an earlier checkpoint.
        spike_steps: consecutive steps whose loss is a spike.
        spike_position: first row of the first of them.
        losses: recent losses, for the bound of a spike.
        best_loss: lowest validation loss; of a metric that selects the best checkpoint, minus its highest value.
        best_step: its step.
        last_improvement: validation loss of the last evaluation that improved by more than the convergence threshold.
        evaluations_without_gain: evaluations since then.
        evaluated_step: step of the last evaluation; a run that is resumed at that step does not count it again.
        evaluated_loss: its validation loss, as ``best_loss``; None if it was not finite.
    """

    step: int = 0
    tokens: int = 0
    position: int = 0
    seconds: float = 0.0
    setup_seconds: float = 0.0
    micro_batch: int = 0
    skipped: list[tuple[int, int]] = field(default_factory=list)
    nonfinite_steps: int = 0
    rollbacks: int = 0
    spike_steps: int = 0
    spike_position: int = 0
    losses: list[float] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int | None = None
    last_improvement: float | None = None
    evaluations_without_gain: int = 0
    evaluated_step: int | None = None
    evaluated_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; floats survive it exactly."""
        return {_STORED_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Counters":
        """Create from the result of ``to_json``.

        Raises:
            CheckpointError: a key is missing or unknown.
        """
        names = {_STORED_KEYS.get(f.name, f.name): f.name for f in fields(cls)}
        table = {"evaluated_step": None, "evaluated_loss": None, **table}  # checkpoints of earlier versions lack them
        if set(table) != set(names):
            odd = sorted(set(table) ^ set(names))
            raise CheckpointError("the training state has other keys than this version's", found=", ".join(odd))
        values = {names[key]: value for key, value in table.items()}
        return cls(**{**values, "skipped": [(int(a), int(n)) for a, n in table["skipped"]]})

    def record_evaluation(self, loss: float, threshold: float) -> None:
        """Record the validation loss of the current step, once; a non-finite loss is no improvement."""
        if self.evaluated_step == self.step:
            return
        self.evaluated_step = self.step
        self.evaluated_loss = loss if math.isfinite(loss) else None
        if not math.isfinite(loss):
            self.evaluations_without_gain += self.step > 0
            return
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
        if self.last_improvement is None or self.last_improvement - loss > threshold:
            self.last_improvement, self.evaluations_without_gain = loss, 0
        else:
            self.evaluations_without_gain += 1

    def next_position(self, position: int, rows: int) -> int:
        """Return the first position at or after ``position`` whose ``rows`` rows contain no skipped data."""
        moved = True
        while moved:
            moved = False
            for first, n in self.skipped:
                if first < position + rows and position < first + n:
                    position, moved = first + n, True
        return position


class WeightFormat(Protocol):
    """How the weights of a model are stored in a checkpoint."""

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return the tensors to store, with their names in the file."""
        ...

    def load(self, model: GPT, checkpoint: Path) -> None:
        """Load the weights of a checkpoint into the model."""
        ...


class FullWeights:
    """All weights with transformers' names, and heads in a file of their own."""

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return all weights, as views where possible."""
        return to_hf_state_dict(model)

    def load(self, model: GPT, checkpoint: Path) -> None:
        """Load model.safetensors, and the heads if there are any."""
        weights = load_file(checkpoint / "model.safetensors")
        if (checkpoint / HEADS_FILE).is_file():
            weights |= load_file(checkpoint / HEADS_FILE)
        state_dict = from_hf_state_dict(model.config, weights)
        if model.factors:  # the file has their product; the factors are in trainer/
            del state_dict["embed.weight"]
            state_dict |= {f"embed.{name}": factor for name, factor in model.factors.items()}
        model.load_state_dict(state_dict)


@dataclass(slots=True)
class TrainState:
    """Model, optimizer, averaged weights, gradient scaler, counters, and the format of the weights in checkpoints."""

    model: GPT
    optimizer: Optimizer
    ema: ExponentialMovingAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    counters: Counters = field(default_factory=Counters)
    weight_format: WeightFormat = field(default_factory=FullWeights)

    def trainer_tensors(self) -> dict[str, Tensor]:
        """Return all tensors besides the weights, by name; not copied."""
        tensors = {f"optimizer/{k}": v for k, v in state_tensors(self.optimizer).items()}
        tensors.update({f"embed/{k}": v for k, v in self.model.factors.items()})
        if self.ema is not None:
            tensors.update({f"average/{k}": v for k, v in self.ema.state_tensors().items()})
        return tensors

    def load_trainer_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of ``trainer_tensors``.

        Raises:
            CheckpointError: names or shapes differ.
        """
        load_state_tensors(self.optimizer, _with_prefix("optimizer/", tensors))
        factors = _with_prefix("embed/", tensors)
        if {k: v.shape for k, v in factors.items()} != {k: v.shape for k, v in self.model.factors.items()}:
            raise CheckpointError("the factorized embeddings have other shapes than the model's")
        for name, factor in self.model.factors.items():
            factor.data.copy_(factors[name])
        average = _with_prefix("average/", tensors)
        if (self.ema is None) != (not average):
            raise CheckpointError(
                "train.ema_decay is set, but the checkpoint has no averaged weights"
                if self.ema is not None
                else "the checkpoint has averaged weights, but train.ema_decay is not set",
                fix="Set train.ema_decay as in the run's run.toml.",
            )
        if self.ema is not None:
            self.ema.load_state_tensors(average)

    def scalars(self) -> dict[str, Any]:
        """Return the state that is neither tensor nor counter: that of the gradient scaler."""
        return {"scaler": self.scaler.state_dict() if self.scaler is not None else None}

    def load_scalars(self, table: dict[str, Any]) -> None:
        """Load the result of ``scalars``."""
        if self.scaler is not None and table.get("scaler"):
            self.scaler.load_state_dict(table["scaler"])


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class LossModule(nn.Module):
    """The model with its loss as ``forward``, to be compiled and wrapped in DDP."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over (B, T) targets, and their count."""
        loss = self.model.loss(inputs, targets, weights, starts)
        return loss.sum, loss.count
