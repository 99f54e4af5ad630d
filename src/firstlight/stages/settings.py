"""The settings of a pre-training run: the content of its run.toml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from firstlight.config import Settings
from firstlight.corpus import IdSettings, ImageSettings, TrainingCorpusSettings
from firstlight.model import ModelConfig
from firstlight.optim import OPTIMIZER, Muon, OptimizerSettings
from firstlight.parallel import HardwareSettings
from firstlight.stages.validation_text import unused_with_valid
from firstlight.store import DataSettings
from firstlight.tokenizer import TokenizerSettings
from firstlight.tokenizer.settings import SETTINGS_OF_TRAINING
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

    def unused_settings(self) -> dict[str, str]:
        """Return what does not apply to the shape, and the norm of word vectors where there are none."""
        unused = super().unused_settings()
        if self.embeddings == "random":
            unused["embeddings_norm"] = "applies to word vectors, but model.embeddings is random"
        return unused

    def shape(self) -> ModelConfig:
        """Return the shape without the settings of embeddings."""
        return ModelConfig(**self.model_dump(include=set(ModelConfig.model_fields)))

    def complete(self, vocab_size: int) -> ModelConfig:
        """Return the shape with every size resolved."""
        return self.shape().complete(vocab_size)


class PretrainSettings(Settings):
    """Every setting of a pre-training run."""

    run: RunSettings = RunSettings()
    corpus: TrainingCorpusSettings = TrainingCorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    optim: Annotated[OptimizerSettings, OPTIMIZER] = Muon()
    train: TrainSettings = TrainSettings()
    hardware: HardwareSettings = HardwareSettings()

    @property
    def uses_other_vocab(self) -> bool:
        """Whether the tokenizer or codec is one that was made before: that of a store, of a model, or a named one."""
        return any(name is not None for name in (self.run.store, self.run.init_from, self.tokenizer.path))

    def unused_settings(self) -> dict[str, str]:
        """Return what does not apply to a token store, to a model to start from, or to a validation text."""
        unused: dict[str, str] = {}
        if self.run.store is not None:
            why = "applies to a corpus, not to the token store of run.store"
            vectors_only = {"on_bad_bytes"} if self.model.embeddings != "random" else set()
            unused |= {f"corpus.{name}": why for name in TrainingCorpusSettings.model_fields.keys() - vectors_only}
            unused |= dict.fromkeys(("data.valid_ratio", "ids.dtype", "image.labels"), why)
        if self.run.init_from is not None:
            why = "applies to new weights, not to those of run.init_from"
            unused |= dict.fromkeys(("model.init_std", "model.residual_init"), why)
        if self.uses_other_vocab:
            why = "applies to a tokenizer that is trained, not to that of a model, a store or tokenizer.path"
            unused |= {f"tokenizer.{name}": why for name in SETTINGS_OF_TRAINING}
        return unused | unused_with_valid(self)
