"""The settings of a pre-training run: the content of its run.toml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from firstlight.config import Settings
from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings
from firstlight.model import ModelConfig
from firstlight.optim import OPTIMIZER, Muon, OptimizerSettings
from firstlight.parallel import HardwareSettings
from firstlight.store import DataSettings
from firstlight.tokenizer import TokenizerSettings
from firstlight.train import TrainSettings


class RunSettings(Settings):
    """The inputs of a run."""

    former_names: ClassVar = {"start_from": "init_from"}

    seed: int = Field(1337, ge=0, lt=2**63, description="seed of initialisation, data order, dropout and samples")
    corpus: list[str] = Field([], description="files, folders, globs, named corpora or hf:NAME")
    store: str | None = Field(None, description="a token store made by data prepare, instead of a corpus")
    init_from: str | None = Field(
        None, description="a run, checkpoint or Hugging Face directory whose weights the run starts from"
    )


class ModelSettings(ModelConfig):
    """The shape of the model, and how its embeddings are initialised."""

    former_names: ClassVar = {**ModelConfig.former_names, "embeddings_length": "embeddings_norm"}

    embeddings: str = Field("random", description="random, or a file of word vectors to initialise them from")
    embeddings_frozen_steps: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0, description="steps for which embeddings, and a tied head, are frozen; all: to the end"
    )
    embeddings_norm: float = Field(
        1.0, gt=0, description="root mean square of the norms of word vectors at initialisation"
    )

    def shape(self) -> ModelConfig:
        """Return the shape without the settings of embeddings."""
        return ModelConfig(**self.model_dump(include=set(ModelConfig.model_fields)))

    def complete(self, vocab_size: int) -> ModelConfig:
        """Return the shape with every size resolved."""
        return self.shape().complete(vocab_size)


class PretrainSettings(Settings):
    """Every setting of a pre-training run."""

    run: RunSettings = RunSettings()
    corpus: CorpusSettings = CorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    optim: Annotated[OptimizerSettings, OPTIMIZER] = Muon()
    train: TrainSettings = TrainSettings()
    hardware: HardwareSettings = HardwareSettings()
