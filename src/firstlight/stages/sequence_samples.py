"""Sample from models of sequences that are not text during training, and set the length of their rows."""

from collections.abc import Sequence

import numpy as np

from firstlight.errors import UsageError
from firstlight.lm import LM, GenerateSettings
from firstlight.model import ModelConfig
from firstlight.stages.settings import PretrainSettings
from firstlight.tokenizer import Codec, IdCodec, PixelCodec


def one_document_per_row(settings: PretrainSettings, config: ModelConfig, length: int) -> ModelConfig:
    """Set the block size to the length of the documents, each of which is one row.

    Raises:
        UsageError: the settings, or the model to start from, have another block size.
    """
    specified = settings.run.init_from is not None or "block_size" in settings.model.model_fields_set
    if specified and config.block_size != length:
        raise UsageError(
            "is not the number of pixels of an image, which is one row",
            where="model.block_size",
            found=config.block_size,
            expected=length,
            fix=f"Set model.block_size={length}, or leave it out.",
        )
    return config.model_copy(update={"block_size": length})


def sample(lm: LM, codec: Codec, settings: GenerateSettings) -> str:
    """Generate a sample as text: ids; for images one image per line, starting with the id of its class."""
    if isinstance(codec, IdCodec):
        return " ".join(map(str, lm.generate_ids([[codec.eot_id]], settings)[0]))
    rows = generate_images(lm, codec, first_tokens(codec), settings)
    return "\n".join(" ".join(map(str, row)) for row in rows.tolist())


def first_tokens(pixels: PixelCodec, n: int = 10) -> list[int]:
    """Return the first tokens of ``n`` images: the classes in turn, or the start token."""
    known = [pixels.class_id(name) for name in pixels.classes] or [pixels.start_id]
    return [known[i % len(known)] for i in range(n)]


def generate_images(
    lm: LM, pixels: PixelCodec, first: Sequence[int], settings: GenerateSettings, given: np.ndarray | None = None
) -> np.ndarray:
    """Generate images as rows of ids, the first token included: (N, 1 + P).

    Args:
        lm: the model.
        pixels: the codec of its ids.
        first: the first token of each image.
        settings: ``num_samples`` and ``max_new_tokens`` are ignored.
        given: (N, K) pixels that each image starts with.
    """
    start = np.array(first, dtype=np.int64)[:, None]
    prompts = start if given is None else np.concatenate([start, given], axis=1)
    missing = pixels.sequence_length - prompts.shape[1]
    if missing == 0:
        return prompts
    whole = settings.model_copy(update={"max_new_tokens": missing, "num_samples": 1})
    written = lm.generate_ids(prompts.tolist(), whole, below=pixels.n_values)
    return np.concatenate([prompts, np.array(written, dtype=np.int64)], axis=1)
