"""Models of sequences that are no text: the length of their rows, and what they write on the way."""

from collections.abc import Sequence

import numpy as np

from firstlight.errors import UsageError
from firstlight.lm import LM, GenerateSettings
from firstlight.model import ModelConfig
from firstlight.stages.settings import PretrainSettings
from firstlight.tokenizer import Codec, Ids, Pixels


def one_a_row(settings: PretrainSettings, config: ModelConfig, length: int) -> ModelConfig:
    """Give the model the length of the documents, each of which is a row.

    Raises:
        UsageError: the settings, or the starting model, have another length.
    """
    asked = settings.run.start_from is not None or "block_size" in settings.model.model_fields_set
    if asked and config.block_size != length:
        raise UsageError(
            "is not the number of pixels of an image, which is one row",
            where="model.block_size",
            found=config.block_size,
            expected=length,
            fix=f"Set model.block_size={length}, or leave it out.",
        )
    return config.model_copy(update={"block_size": length})


def sample(lm: LM, codec: Codec, settings: GenerateSettings) -> str:
    """Write a sample of a run: ids; of images one a line, which begins with its class's id."""
    if isinstance(codec, Ids):
        return " ".join(map(str, lm.generate_ids([[codec.eot_id]], settings)[0]))
    rows = draw(lm, codec, firsts(codec), settings)
    return "\n".join(" ".join(map(str, row)) for row in rows.tolist())


def firsts(pixels: Pixels, n: int = 10) -> list[int]:
    """Return the first tokens of some images: the classes in turn, or the start token."""
    known = [pixels.first(name) for name in pixels.classes] or [pixels.start_id]
    return [known[i % len(known)] for i in range(n)]


def draw(
    lm: LM, pixels: Pixels, first: Sequence[int], settings: GenerateSettings, given: np.ndarray | None = None
) -> np.ndarray:
    """Return images as rows of ids, the first token included: (N, 1 + P).

    Args:
        lm: the model.
        pixels: what its ids mean.
        first: the first token of each image.
        settings: ``num_samples`` and ``max_new_tokens`` are of no account here.
        given: (N, K) pixels that each image begins with.
    """
    start = np.array(first, dtype=np.int64)[:, None]
    prompts = start if given is None else np.concatenate([start, given], axis=1)
    missing = pixels.sequence - prompts.shape[1]
    if missing == 0:
        return prompts
    whole = settings.model_copy(update={"max_new_tokens": missing, "num_samples": 1})
    written = lm.generate_ids(prompts.tolist(), whole, below=pixels.n_values)
    return np.concatenate([prompts, np.array(written, dtype=np.int64)], axis=1)
