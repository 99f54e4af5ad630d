"""The root of a fine-tuning run's settings: what stands in its run.toml."""

from typing import Annotated

from pydantic import Field

from firstlight.config import Settings
from firstlight.finetuning import TuningSettings
from firstlight.optim import OPTIMIZER, AdamW, OptimizerSettings
from firstlight.parallel import Hardware
from firstlight.train import TrainSettings


class FinetuneRun(Settings):
    """What is fine-tuned, on what."""

    seed: int = Field(1337, ge=0, lt=2**63, description="of heads, new tokens, data order, dropout")
    start_from: str | None = Field(None, description="a run, checkpoint or Hugging Face directory")
    tasks: list[str] = Field([], description="TASK.toml files")
    data: str | None = Field(None, description="folder that the tasks' data folders lie in; else beside each TASK.toml")


class FinetuneSettings(Settings):
    """Every setting of a fine-tuning run; a preset of the room ``tasks`` lies below what is asked for."""

    run: FinetuneRun = FinetuneRun()
    finetune: TuningSettings = TuningSettings()
    optim: Annotated[OptimizerSettings, OPTIMIZER] = AdamW()
    train: TrainSettings = TrainSettings()
    hardware: Hardware = Hardware()
