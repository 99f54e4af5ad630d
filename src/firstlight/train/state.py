"""All that changes in training, in one place: save, load, step equals step, bit for bit."""

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
    """The plain numbers of a run.

    Attributes:
        step: updates tried so far.
        tokens: target tokens seen so far.
        position: next row in the order of the data.
        seconds: wall time since the process started, added up over resumes.
        outside_seconds: the part of it before the loop began: imports, data, compilation.
        micro_rows: rows of one forward pass, as found or as halved after an out-of-memory.
        skipped: (first row, rows) of data windows left out after spikes.
        not_finite: updates left out in a row because loss or gradient was not finite.
        rollbacks: returns to an earlier checkpoint so far.
        spiking: steps in a row whose loss is a spike.
        spike_position: first row of the first of them.
        losses: recent losses, from which the bound of a spike is made.
        best_loss: lowest valid loss so far.
        best_step: the step that had it.
        gain_loss: valid loss of the last evaluation that gained by more than the threshold of convergence.
        stale: evaluations since that one.
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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; floats survive it exactly."""
        return {_STORED_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Counters":
        """Read what ``to_json`` wrote.

        Raises:
            CheckpointError: a key is missing or unknown.
        """
        names = {_STORED_KEYS.get(f.name, f.name): f.name for f in fields(cls)}
        if set(table) != set(names):
            odd = sorted(set(table) ^ set(names))
            raise CheckpointError("the training state has other keys than this version's", found=", ".join(odd))
        values = {names[key]: value for key, value in table.items()}
        return cls(**{**values, "skipped": [(int(a), int(n)) for a, n in table["skipped"]]})

    def record_evaluation(self, loss: float, threshold: float) -> None:
        """Take up the valid loss of this step; one that is not finite gains nothing."""
        if not math.isfinite(loss):
            self.evaluations_without_gain += 1
            return
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
        if self.last_improvement is None or self.last_improvement - loss > threshold:
            self.last_improvement, self.evaluations_without_gain = loss, 0
        else:
            self.evaluations_without_gain += 1

    def next_position(self, position: int, rows: int) -> int:
        """Return the first position from ``position`` on at which ``rows`` rows touch no skipped window."""
        moved = True
        while moved:
            moved = False
            for first, n in self.skipped:
                if first < position + rows and position < first + n:
                    position, moved = first + n, True
        return position


class WeightFormat(Protocol):
    """How a model's weights stand in a checkpoint."""

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return them in the names that the checkpoint's files have."""
        ...

    def load(self, model: GPT, checkpoint: Path) -> None:
        """Take them up."""
        ...


class FullWeights:
    """All weights, in transformers' names, and heads beside them."""

    def export(self, model: GPT) -> dict[str, Tensor]:
        """Return views where that is possible."""
        return to_hf_state_dict(model)

    def load(self, model: GPT, checkpoint: Path) -> None:
        """Read model.safetensors, and the heads where there are any."""
        weights = load_file(checkpoint / "model.safetensors")
        if (checkpoint / HEADS_FILE).is_file():
            weights |= load_file(checkpoint / HEADS_FILE)
        ours = from_hf_state_dict(model.config, weights)
        if model.factors:  # folded in these files; they are among the trainer's tensors
            del ours["embed.weight"]
            ours |= {f"embed.{name}": factor for name, factor in model.factors.items()}
        model.load_state_dict(ours)


@dataclass(slots=True)
class TrainState:
    """Model, optimiser, averaged weights, loss scale, counters, and how the weights are written."""

    model: GPT
    optimizer: Optimizer
    ema: ExponentialMovingAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    counters: Counters = field(default_factory=Counters)
    weight_format: WeightFormat = field(default_factory=FullWeights)

    def trainer_tensors(self) -> dict[str, Tensor]:
        """Return every tensor beside the weights, by name; not copied."""
        tensors = {f"optimizer/{k}": v for k, v in state_tensors(self.optimizer).items()}
        tensors.update({f"embed/{k}": v for k, v in self.model.factors.items()})
        if self.ema is not None:
            tensors.update({f"average/{k}": v for k, v in self.ema.state_tensors().items()})
        return tensors

    def load_trainer_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``trainer_tensors`` gave.

        Raises:
            CheckpointError: names or shapes differ.
        """
        load_state_tensors(self.optimizer, _below("optimizer/", tensors))
        factors = _below("embed/", tensors)
        if {k: v.shape for k, v in factors.items()} != {k: v.shape for k, v in self.model.factors.items()}:
            raise CheckpointError("has embeddings that are another product of word vectors than the run's")
        for name, factor in self.model.factors.items():
            factor.data.copy_(factors[name])
        average = _below("average/", tensors)
        if (self.ema is None) != (not average):
            raise CheckpointError(
                "averaged weights are asked for but not in the checkpoint"
                if self.ema is not None
                else "the checkpoint has averaged weights that these settings do not ask for",
                fix="Set train.ema_decay as in the run's run.toml.",
            )
        if self.ema is not None:
            self.ema.load_state_tensors(average)

    def scalars(self) -> dict[str, Any]:
        """Return what is neither tensor nor counter: the loss scale."""
        return {"scaler": self.scaler.state_dict() if self.scaler is not None else None}

    def load_scalars(self, table: dict[str, Any]) -> None:
        """Take up what ``scalars`` gave."""
        if self.scaler is not None and table.get("scaler"):
            self.scaler.load_state_dict(table["scaler"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class LossModule(nn.Module):
    """The model with its loss as ``forward``, which is what DDP and the compiler wrap."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over (B, T) targets, and their count."""
        loss = self.model.loss(inputs, targets, weights, starts)
        return loss.sum, loss.count
