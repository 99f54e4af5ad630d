"""The settings of a fine-tuning run: the content of its run.toml."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from firstlight.config import Settings
from firstlight.finetuning import TuningSettings
from firstlight.optim import OPTIMIZER, AdamW, OptimizerSettings
from firstlight.parallel import HardwareSettings
from firstlight.train import TrainSettings


class FinetuneRun(Settings):
    """The inputs of a run."""

    former_names: ClassVar = {"start_from": "init_from"}

    seed: int = Field(1337, ge=0, lt=2**63, description="seed of heads, new tokens, data order and dropout")
    init_from: str | None = Field(None, description="a run, checkpoint or Hugging Face directory to fine-tune")
    tasks: list[str] = Field([], description="TASK.toml files, or names of packaged tasks")
    data: str | None = Field(
        None, description="folder that holds the tasks' data folders; by default the folder of each TASK.toml"
    )


class FinetuneData(Settings):
    """The rows that are drawn from the tasks' files."""

    seed: int = Field(
        1337,
        ge=0,
        lt=2**63,
        description="seed of the rows of train that are used (max_train_rows) or held out for validation, whatever "
        "run.seed is",
    )


class FinetuneSettings(Settings):
    """Every setting of a fine-tuning run; a preset is merged below the specified ones."""

    run: FinetuneRun = FinetuneRun()
    data: FinetuneData = FinetuneData()
    finetune: TuningSettings = TuningSettings()
    task: dict[str, Any] = Field(
        {},
        description="settings of the tasks, merged over each TASK.toml; on the command line without task, as for "
        "predict: columns.text=review",
    )
    optim: Annotated[OptimizerSettings, OPTIMIZER] = AdamW()
    train: TrainSettings = TrainSettings()
    hardware: HardwareSettings = HardwareSettings()

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of training on a stream of text; 0 says that no samples are generated, which is so."""
        why = "applies to pre-training: no text is generated in fine-tuning"
        samples = ["sample_tokens", "sample_temperature", "sample_prompt"]
        if self.train.sample_every:
            samples.append("sample_every")
        return {
            "train.batch_tokens": "applies to pre-training; rows per update are finetune.batch_size",
            "train.eval_windows": "applies to pre-training; all rows of the validation split are evaluated",
            **{f"train.{name}": why for name in samples},
        }
