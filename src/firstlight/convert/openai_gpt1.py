"""OpenAI's release of GPT-1: ten files params_0.npy to params_9.npy, which joined are all weights end to end.

Source: openai/finetune-transformer-lm, train.py. Shapes stand in params_shapes.json: positions, tokens, then each
layer's variables in the order in which they were made.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstlight.convert.imported_model import ImportedModel, finite, guarded, shape
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.files.arrays import read_npy
from firstlight.tokenizer import import_tokenizer

SHAPES = "params_shapes.json"
_PARTS = [
    f"{part}.{kind}"
    for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
    for kind in ("weight", "bias")
]
_D_HEAD = 64  # the release tells no heads: 12 of them in a width of 768


def read(folder: Path) -> ImportedModel:
    """Read the release's folder, with its tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or the numbers are not as many as the shapes say.
        TokenizerError: the tokenizer's files are damaged.
    """
    with guarded(folder, "release of GPT-1", "all"):
        shapes = _shapes(folder / SHAPES)
        numbers = _numbers(folder)
    positions, tokens, *layers = shapes
    n_layer, rest = divmod(len(layers), len(_PARTS))
    if rest or len(positions) != 2 or len(tokens) != 2:
        raise CheckpointError(
            "has shapes that are no GPT-1",
            where=folder / SHAPES,
            found=f"{len(shapes)} shapes",
            expected=f"two matrices, and {len(_PARTS)} shapes a layer",
        )
    total, held = sum(map(math.prod, shapes)), sum(part.size for part in numbers)
    if total != held:
        raise CheckpointError(
            "are not as many numbers as params_shapes.json says",
            where=folder / "params_*.npy",
            found=f"{held:,}",
            expected=f"{total:,}",
        )
    if tokens[1] % _D_HEAD and tokens[1] > _D_HEAD:
        raise CheckpointError("has a width that is no multiple of 64", where=folder / SHAPES, found=tokens[1])
    config = shape(
        folder,
        family="gpt1",
        n_layer=n_layer,
        n_head=max(1, tokens[1] // _D_HEAD),
        n_embd=tokens[1],
        block_size=positions[0],
        vocab_size=tokens[0],
    )
    names = ["transformer.positions_embed.weight", "transformer.tokens_embed.weight"]
    names += [f"transformer.h.{i}.{part}" for i in range(n_layer) for part in _PARTS]
    flat, at = torch.from_numpy(np.concatenate([part.reshape(-1) for part in numbers])), 0
    weights: dict[str, Tensor] = {}
    for name, size in zip(names, shapes, strict=True):
        whole = flat[at : at + math.prod(size)].reshape(size)
        # A matrix was a convolution of width 1.
        weights[name] = finite(f"{folder}: {name}", whole[0] if len(size) == 3 and size[0] == 1 else whole)
        at += math.prod(size)
    tokenizer = import_tokenizer(folder) if (folder / "encoder_bpe_40000.json").is_file() else None
    return ImportedModel("GPT-1", config, weights, tokenizer, {"imported from": "OpenAI GPT-1"})


def _shapes(path: Path) -> list[tuple[int, ...]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    good = (
        isinstance(found, list)
        and len(found) > 2
        and all(
            isinstance(size, list) and size and all(type(n) is int and 0 < n < 1 << 31 for n in size) for size in found
        )
    )
    if not good:
        raise CheckpointError("holds no shapes", where=path)
    return [tuple(size) for size in found]


def _numbers(folder: Path) -> list[np.ndarray]:
    files = sorted(folder.glob("params_[0-9].npy"))
    if [file.name for file in files] != [f"params_{i}.npy" for i in range(10)]:
        raise CheckpointError(
            "lacks weights",
            where=folder,
            found=", ".join(file.name for file in files) or None,
            expected="params_0.npy to params_9.npy",
        )
    parts = [read_npy(BoundedReader(file, CheckpointError)) for file in files]
    wrong = next((file for file, part in zip(files, parts, strict=True) if part.dtype != np.dtype("<f4")), None)
    if wrong is not None:
        raise CheckpointError("holds other numbers than float32", where=wrong)
    return parts
