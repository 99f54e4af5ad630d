"""``ImportedModel``: what every importer returns, and the checks that importers share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from torch import Tensor

from firstlight.convert.errors import add_path
from firstlight.errors import CheckpointError
from firstlight.lm import LM, GenerationConfig, build_model, finite_fp32
from firstlight.model import GPT, ModelConfig, from_hf_state_dict
from firstlight.tokenizer import Codec, Tokenizer

__all__ = ["ImportedModel", "finite_fp32", "model_config", "refuse_surplus"]


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model read from another program's file.

    Attributes:
        format: name of the file's format.
        config: of the model.
        weights: by name, in transformers' names and orientation; a lazy mapping may read each tensor on access.
        tokenizer: None if the file has none.
        metadata: further information for the model card.
        generation: special ids and settings of generation that the file names.
        codec: the meaning of the ids of sequences that are not text.
    """

    format: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    codec: Codec | None = None

    def to_lm(self, source: Path) -> LM:
        """Build the model, in fp32.

        Args:
            source: path of the file, for error messages.

        Raises:
            CheckpointError: a tensor is missing or has the wrong shape.
        """
        with add_path(source):
            weights = from_hf_state_dict(self.config, self.weights)
        model: GPT = build_model(self.config, weights)
        return LM(model.eval(), self.tokenizer, source=source, generation=self.generation, codec=self.codec)


def model_config(path: Path, **fields: Any) -> ModelConfig:
    """Validate a model's config as read from a file.

    Raises:
        CheckpointError: the values are not those of a model.
    """
    try:
        return ModelConfig.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"invalid model config: {key + ': ' if key else ''}{reason}", where=path) from error


def refuse_surplus(names: Iterable[str], where: object) -> None:
    """Refuse a file with weights that its model has no place for: without them it would be another model.

    Args:
        names: of these weights.
        where: the file.

    Raises:
        CheckpointError: there is one.
    """
    surplus = sorted(names)
    if surplus:
        more = f" and {len(surplus) - 4} more" if len(surplus) > 4 else ""
        raise CheckpointError(
            "has weights that its model has no place for", where=where, found=", ".join(surplus[:4])[:200] + more
        )
