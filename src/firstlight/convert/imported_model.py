"""What a foreign file holds, in the words that every reader here answers with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from firstlight.errors import CheckpointError, FirstlightError, MissingExtra
from firstlight.lm import LM, build_model
from firstlight.model import GPT, ModelConfig, from_hf_state_dict
from firstlight.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model from outside.

    Attributes:
        form: of the file, in a few words.
        config: the shape.
        weights: in transformers' names and orientation, whole or made when they are asked for.
        tokenizer: None where the file has none.
        facts: what else it says of itself, for the model card.
    """

    form: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def lm(self, path: Path) -> LM:
        """Build the model, in fp32.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        with naming(path):
            weights = from_hf_state_dict(self.config, self.weights)
        model: GPT = build_model(self.config, weights)
        return LM(model.eval(), self.tokenizer, source=path)


def shape(path: Path, **sizes: Any) -> ModelConfig:
    """Return the model's shape.

    Raises:
        CheckpointError: sizes that no model has.
    """
    try:
        return ModelConfig.model_validate(sizes)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"describes no model: {key + ': ' if key else ''}{reason}", where=path) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file too in which a tensor is missing or has another shape."""
    try:
        yield
    except CheckpointError as error:
        if error.where is not None and str(path) in error.where:
            raise
        where = path if error.where is None else f"{path}: {error.where}"
        raise CheckpointError(
            error.problem, where=where, found=error.found, expected=error.expected, fix=error.fix
        ) from error


@contextmanager
def guarded(path: Path, what: str, extra: str) -> Iterator[None]:
    """Make one line of whatever a library raises over a damaged file.

    Libraries that read these formats raise what their own code happens to stumble on; the list of kinds has no end.
    """
    try:
        yield
    except (FirstlightError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except ImportError as error:
        raise MissingExtra(f"reading a {what}", extra) from error
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of a library in Rust is no Exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"is no readable {what}: {reason}", where=path) from error


def finite(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor in fp32.

    Raises:
        CheckpointError: it holds a number that is none.
    """
    tensor = tensor.to(torch.float32)
    if not torch.isfinite(tensor).all():
        raise CheckpointError("holds values that are not finite", where=name)
    return tensor
