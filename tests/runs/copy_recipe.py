"""A third recipe, of the tests: a small GPT learns to repeat sequences, without a corpus or a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from firstlight import optim, parallel
from firstlight.config import Settings
from firstlight.lm import save_pretrained
from firstlight.model import GPT, ModelConfig, fused_splits
from firstlight.optim import OPTIMIZER, AdamW, OptimizerSettings
from firstlight.parallel import DeviceContext, HardwareSettings
from firstlight.runs import Recipe, RunDirectory, RunResult, write_json
from firstlight.train import (
    CheckpointManager,
    FitResult,
    Limits,
    LossModule,
    RunLog,
    TrainContext,
    TrainSettings,
    TrainState,
    ValidationResult,
)
from firstlight.types import Batch

CONFIG = ModelConfig(family="gpt2", n_layer=1, n_head=2, n_embd=16, block_size=12, vocab_size=8)
ROWS = 4


class CopyRun(Settings):
    """The inputs of a run."""

    seed: int = Field(1, ge=0)
    source: str = "numbers"


class CopySettings(Settings):
    """The settings of a run."""

    run: CopyRun = CopyRun()
    optim: Annotated[OptimizerSettings, OPTIMIZER] = AdamW(lr=0.01)
    train: TrainSettings = TrainSettings()
    hardware: HardwareSettings = HardwareSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult(RunResult):
    """The result of a run."""

    valid_loss: float | None


class CopyBatches:
    """Batches of sequences whose second half repeats the first."""

    def batch(self, position: int, rows: int) -> Batch:
        """Make rows ``position`` to ``position + rows``."""
        ids = torch.stack([self._row(row) for row in range(position, position + rows)])
        return Batch(ids[:, :-1], ids[:, 1:])

    def sources(self, position: int, rows: int) -> Sequence[str]:
        """Name the rows."""
        return [f"row {row}" for row in range(position, position + rows)]

    def _row(self, row: int) -> Tensor:
        half = torch.randint(8, (6,), generator=torch.Generator().manual_seed(row))
        return torch.cat([half, half])


class CopyRecipe(Recipe[CopySettings, str, CopyResult]):
    """Learn to copy."""

    kind = "copy"
    settings_class = CopySettings
    result_class = CopyResult
    source_keys = ("run.source",)
    packages = ()
    hashed_artifacts = {"store": "other numbers"}

    def __init__(self, *, fail_at: int | None = None, store: str = "numbers") -> None:
        self.fail_at, self.store, self.prepared = fail_at, store, []

    def prepare(self, run: RunDirectory, settings: CopySettings, *, prepared: bool, restores: bool) -> str:
        """Record the call."""
        self.prepared.append(prepared)
        return self.store

    def resolve(self, settings: CopySettings, artifacts: str, device_context: DeviceContext) -> CopySettings:
        """Leave the settings as they are."""
        return settings

    def build(
        self,
        run: RunDirectory,
        settings: CopySettings,
        artifacts: str,
        device_context: DeviceContext,
        process_start: float,
    ) -> TrainContext:
        """Build the loop's context."""
        model = GPT(CONFIG)
        state = TrainState(
            model, optim.build_optimizer(model.named_parameters(), settings.optim, fused_splits=fused_splits(model))
        )
        self._reset(state, settings)
        batches = CopyBatches()
        state.counters.micro_batch = ROWS

        def measure(rows: int) -> ValidationResult:
            if self.fail_at is not None and state.counters.step >= self.fail_at:
                raise ValueError("the evaluation is broken")
            with torch.no_grad():
                batch = batches.batch(10**6, 8)
                loss = model.loss(batch.inputs, batch.targets)
            return ValidationResult(float(loss.sum / loss.count), None, int(loss.count), 0)

        def write_model(folder: Path, weights: dict[str, Tensor]) -> None:
            save_pretrained(folder, CONFIG, weights, None, {"run": run.name})

        return TrainContext(
            run=run.path,
            state=state,
            module=parallel.wrap_ddp(LossModule(model), device_context),
            batches=batches,
            rows=ROWS,
            evaluate=measure,
            optim=settings.optim,
            train=settings.train,
            device_context=device_context,
            limits=Limits.resolve(settings.train, step_tokens=44, epoch_tokens=4400, parameters=1000),
            checkpoints=CheckpointManager(run.path, write_model, settings.train.keep_last),
            log=RunLog(run.path, active=True, trackers=settings.train.trackers),
            compatibility={"store": artifacts},
            sample=None,
            restart=lambda: self._reset(state, settings),
            flops_per_token=1e5,
            peak_flops=None,
            process_start=process_start,
        )

    def _reset(self, state: TrainState, settings: CopySettings) -> None:
        state.model.init_weights(torch.Generator().manual_seed(settings.run.seed))
        state.optimizer = optim.build_optimizer(
            state.model.named_parameters(), settings.optim, fused_splits=fused_splits(state.model)
        )
        if settings.train.ema_decay:
            state.ema = optim.ExponentialMovingAverage(state.model.named_parameters(), settings.train.ema_decay)
        parallel.seed_everything(settings.run.seed)

    def finish(
        self, run: RunDirectory, settings: CopySettings, ctx: TrainContext, artifacts: str, fit: FitResult
    ) -> CopyResult:
        """Return the last evaluation."""
        loss = None if fit.valid is None else fit.valid.loss
        write_json(run.evaluation_file, {"valid": {"loss": loss}})
        return CopyResult(
            run=run.path,
            stopped_by=fit.stopped_by,
            finished=fit.finished,
            step=fit.step,
            seconds=fit.seconds,
            report=run.report,
            valid_loss=loss,
        )


def no_report(run: Path) -> Any:
    """Write no report."""
