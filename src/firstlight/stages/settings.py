"""The root of a run's settings: what stands in run.toml."""

from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import Settings
from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings
from firstlight.model import ModelConfig
from firstlight.optim import OPTIMIZER, Muon, OptimizerSettings
from firstlight.parallel import Hardware
from firstlight.store import DataSettings
from firstlight.tokenizer import TokenizerSettings
from firstlight.train import TrainSettings


class RunSettings(Settings):
    """Where a run starts from."""

    seed: int = Field(1337, ge=0, lt=2**63, description="of initialisation, data order, dropout and samples")
    corpus: list[str] = Field([], description="files, folders, globs, named corpora or hf:NAME")
    store: str | None = Field(None, description="a token store made before, instead of a corpus")
    start_from: str | None = Field(
        None, description="a run, checkpoint or Hugging Face directory whose weights to start from"
    )


class ModelSettings(ModelConfig):
    """The shape of the model, and what its embeddings begin as."""

    embeddings: str = Field("random", description="random, or a file of word vectors that they begin as")
    embeddings_frozen_steps: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0, description="steps for which embeddings, and a tied head, stay as they began; all: to the end"
    )
    embeddings_length: float = Field(1.0, gt=0, description="root mean square length of word vectors at the start")

    def shape(self) -> ModelConfig:
        """Return the shape alone."""
        return ModelConfig(**self.model_dump(include=set(ModelConfig.model_fields)))

    def complete(self, vocab_size: int) -> ModelConfig:
        """Return the shape with every size written out."""
        return self.shape().complete(vocab_size)


class PretrainSettings(Settings):
    """Every setting of a pre-training run; each table's class lives in the room that obeys it."""

    run: RunSettings = RunSettings()
    corpus: CorpusSettings = CorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    optim: Annotated[OptimizerSettings, OPTIMIZER] = Muon()
    train: TrainSettings = TrainSettings()
    hardware: Hardware = Hardware()
