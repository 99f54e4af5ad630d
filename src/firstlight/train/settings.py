"""Settings of training: duration, batch size, validation, checkpoints, samples, logging."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from firstlight.config import Settings
from firstlight.train.trackers import load_trackers

Count = Annotated[int, Field(ge=1)]


class ConvergenceSettings(Settings):
    """Settings of early stopping, when the validation loss no longer improves."""

    evaluations: int = Field(0, ge=0, description="stop after this many evaluations without improvement; 0 = never")
    threshold: float = Field(0.0, ge=0, description="smallest improvement in nats that counts")

    def unused_settings(self) -> dict[str, str]:
        """Return the threshold where evaluations do not end the run."""
        return {} if self.evaluations else {"threshold": "applies with train.convergence.evaluations, which is 0"}


class SpikeGuardSettings(Settings):
    """Settings for steps with a non-finite loss and for loss spikes."""

    max_skipped_steps: int = Field(20, ge=0, description="consecutive non-finite steps before the run fails")
    spike_sigma: float = Field(
        8.0, ge=0, description="a loss this many robust deviations above its median is a spike; 0 = off"
    )
    spike_window: int = Field(100, ge=20, description="number of recent losses in the median")
    spike_steps: int = Field(3, ge=1, description="consecutive spikes before the run rolls back to a checkpoint")
    max_rollbacks: int = Field(3, ge=0, description="rollbacks before the run fails")

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of spikes where none is looked for."""
        names = () if self.spike_sigma else ("spike_window", "spike_steps", "max_rollbacks")
        return dict.fromkeys(names, "applies with train.guard.spike_sigma, which is 0")


class TrainSettings(Settings):
    """Settings of the training loop."""

    former_names: ClassVar = {"average_decay": "ema_decay"}

    steps: Count | Literal["auto"] | None = Field(
        "auto",
        description="stop after this many updates; auto: if nothing else limits the run, 20 tokens per parameter and "
        "at most 4 epochs; in fine-tuning 3 epochs or more",
    )
    tokens: int | None = Field(None, ge=1, description="stop after this many target tokens")
    epochs: float | None = Field(None, gt=0, description="stop after this many passes over the training text")
    minutes: float | None = Field(None, gt=0, description="stop after this much wall time")
    convergence: ConvergenceSettings = ConvergenceSettings()
    batch_tokens: int = Field(8192, ge=1, description="tokens per update, over all processes and micro-batches")
    micro_batch: Count | Literal["auto"] = Field(
        "auto", description="rows per forward pass; auto: as many as fit into memory"
    )
    activation_checkpointing: bool = Field(False, description="recompute activations in backward, to save memory")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of a moving average of the weights; 0 = none")
    eval_every: int = Field(250, ge=0, description="steps between validations, from step 0 on; 0 = only at the end")
    eval_windows: Count | Literal["all"] = Field("all", description="windows of the validation split per validation")
    checkpoint_every: int = Field(500, ge=0, description="steps between checkpoints; 0 = only at the end")
    keep_last: int = Field(2, ge=1, description="latest checkpoints to keep besides the best one")
    sample_every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="steps between samples; auto: at every evaluation; 0 = only at the end"
    )
    sample_tokens: int = Field(120, ge=1, description="number of tokens per sample")
    sample_temperature: float = Field(0.7, ge=0, description="sampling temperature; 0: greedy decoding")
    sample_prompt: str = Field("", description="prompt of samples; empty: end-of-text")
    stop_after: int = Field(0, ge=0, description="save and stop after this step, as on a signal; 0 = never")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    trackers: list[str] | Literal["auto"] = Field(
        "auto", description="tensorboard or package.module:Class; auto: TensorBoard where it is installed"
    )
    guard: SpikeGuardSettings = SpikeGuardSettings()

    @property
    def sample_interval(self) -> int:
        """Steps between samples; 0: only at the end."""
        return self.eval_every if self.sample_every == "auto" else self.sample_every

    @field_validator("trackers")
    @classmethod
    def _trackers_exist(cls, trackers: list[str] | Literal["auto"]) -> list[str] | Literal["auto"]:
        if isinstance(trackers, list):
            load_trackers(trackers)
        return trackers


# Settings that a resumed run may change although the weights depend on them, or which checkpoint is the best one.
DECIDING_ON_RESUME = frozenset(
    f"train.{name}"
    for name in (
        "steps",
        "tokens",
        "epochs",
        "minutes",
        "convergence.evaluations",
        "convergence.threshold",
        "eval_every",
        "eval_windows",
        "guard.max_skipped_steps",
        "guard.max_rollbacks",
    )
)

# All that a resumed run may change: also what is logged, kept and verified.
CHANGEABLE_ON_RESUME = (
    DECIDING_ON_RESUME
    | frozenset(
        f"train.{name}"
        for name in (
            "checkpoint_every",
            "keep_last",
            "sample_every",
            "sample_tokens",
            "sample_temperature",
            "sample_prompt",
            "log_every",
            "trackers",
            "stop_after",
        )
    )
    | {"data.verify", "data.max_unk_fraction", "finetune.max_restarts"}
)
