"""Import OpenAI's release of GPT-1: params_0.npy to params_9.npy, which concatenated are all weights.

Source: openai/finetune-transformer-lm, train.py. Their shapes are in params_shapes.json: position embeddings, token
embeddings, then each layer's variables in the order of their creation.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.files.arrays import read_npy
from firstlight.tokenizer import import_tokenizer

_SHAPES = "params_shapes.json"
_PARTS = [
    f"{part}.{kind}"
    for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
    for kind in ("weight", "bias")
]
_D_HEAD = 64  # not in the release's files: GPT-1 has 12 heads and a width of 768


def recognizes(path: Path) -> bool:
    """Whether a folder has the release's file of shapes."""
    return (path / _SHAPES).is_file()


def read(folder: Path) -> ImportedModel:
    """Read the release's folder, with its tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or the number of weights does not match the shapes.
        TokenizerError: the tokenizer's files are damaged.
    """
    shapes = _read_shapes(folder / _SHAPES)
    arrays = _read_arrays(folder)
    positions, tokens, *layers = shapes
    n_layer, rest = divmod(len(layers), len(_PARTS))
    if rest or len(positions) != 2 or len(tokens) != 2:
        raise CheckpointError(
            "not the shapes of a GPT-1",
            where=folder / _SHAPES,
            found=f"{len(shapes)} shapes",
            expected=f"two matrices, and {len(_PARTS)} shapes per layer",
        )
    expected, found = sum(map(math.prod, shapes)), sum(array.size for array in arrays)
    if found != expected:
        raise CheckpointError(
            "the number of weights does not match params_shapes.json",
            where=folder / "params_*.npy",
            found=f"{found:,}",
            expected=f"{expected:,}",
        )
    if tokens[1] % _D_HEAD and tokens[1] > _D_HEAD:
        raise CheckpointError("the width is not a multiple of 64", where=folder / _SHAPES, found=tokens[1])
    config = model_config(
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
    flat, offset = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays])), 0
    weights: dict[str, Tensor] = {}
    for name, shape in zip(names, shapes, strict=True):
        tensor = flat[offset : offset + math.prod(shape)].reshape(shape)
        # Linear layers are convolutions of width 1.
        weights[name] = finite_fp32(f"{folder}: {name}", tensor[0] if len(shape) == 3 and shape[0] == 1 else tensor)
        offset += math.prod(shape)
    tokenizer = import_tokenizer(folder) if (folder / "encoder_bpe_40000.json").is_file() else None
    return ImportedModel("GPT-1", config, weights, tokenizer, {"imported from": "OpenAI GPT-1"})


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    def is_shape(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(type(n) is int and 0 < n < 1 << 31 for n in value)

    shapes = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(shapes, list) or len(shapes) < 3 or not all(map(is_shape, shapes)):
        raise CheckpointError("not a list of shapes", where=path)
    return [tuple(shape) for shape in shapes]


def _read_arrays(folder: Path) -> list[np.ndarray]:
    files = sorted(folder.glob("params_[0-9].npy"))
    if [file.name for file in files] != [f"params_{i}.npy" for i in range(10)]:
        raise CheckpointError(
            "missing weights",
            where=folder,
            found=", ".join(file.name for file in files) or None,
            expected="params_0.npy to params_9.npy",
        )
    arrays = [read_npy(BoundedReader(file, CheckpointError)) for file in files]
    wrong = next((file for file, array in zip(files, arrays, strict=True) if array.dtype != np.dtype("<f4")), None)
    if wrong is not None:
        raise CheckpointError("wrong data type", where=wrong, expected="float32")
    return arrays


IMPORTER = Importer(title="OpenAI GPT-1", recognizes=recognizes, read=read)
