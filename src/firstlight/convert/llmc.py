"""llm.c's GPT-2 checkpoints: gpt2_124M.bin in fp32 and gpt2_124M_bf16.bin.

Source: karpathy/llm.c, train_gpt2.py (write_model) and train_gpt2.c. A header of 256 int32, then all layers of each
kind of weight end to end. The vocabulary is padded to a multiple of 128; the rows behind it are left out.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.imported_model import ImportedModel, finite, shape
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.tokenizer import Tokenizer, import_tokenizer

MAGIC = 20240326
_DTYPES: dict[int, np.dtype] = {3: np.dtype("<f4"), 5: np.dtype("<u2")}  # by version; the second is bf16
_TOKENIZER = "gpt2_tokenizer.bin"


def read(path: Path) -> ImportedModel:
    """Read a checkpoint of llm.c; its gpt2_tokenizer.bin is taken from beside it.

    Raises:
        CheckpointError: it is damaged, or of another version.
        TokenizerError: the tokenizer beside it is damaged.
    """
    file = BoundedReader(path, CheckpointError)
    magic, version, block_size, V, n_layer, n_head, width, padded, *_ = file.unpack("256i")
    if magic != MAGIC or version not in _DTYPES:
        raise CheckpointError(
            "is no checkpoint of llm.c",
            where=path,
            found=f"{magic}, version {version}",
            expected=f"{MAGIC}, version 3 (fp32) or 5 (bf16)",
        )
    if min(block_size, V, n_layer, n_head, width) <= 0 or padded < V:
        raise CheckpointError("has absurd sizes", where=path, found=(block_size, V, n_layer, n_head, width, padded))
    layout = _layout(n_layer, width, block_size, padded)
    count, dtype = sum(math.prod(size) for _, size in layout), _DTYPES[version]
    if file.remaining != count * dtype.itemsize:
        raise CheckpointError(
            "has another size than its header says",
            where=path,
            found=f"{file.remaining:,} bytes of numbers",
            expected=f"{count * dtype.itemsize:,}",
        )
    config = shape(
        path,
        family="gpt2",
        n_layer=n_layer,
        n_head=n_head,
        n_embd=width,
        vocab_size=V,
        block_size=block_size,
        tie_embeddings=True,
    )
    weights = {}
    for name, size in layout:
        whole = finite(f"{path}: {name}", _tensor(file.read_array(dtype, size)))
        if "{}" not in name:
            weights[name] = whole[:V] if name == "transformer.wte.weight" else whole
            continue
        for i, layer in enumerate(whole):
            # Conv1D keeps weights as input × output.
            weights[name.format(i)] = layer.t() if layer.ndim == 2 else layer
    return ImportedModel("llm.c", config, weights, _tokenizer(path, V), {"imported from": f"llm.c {path.name}"})


def _layout(n_layer: int, C: int, T: int, V: int) -> list[tuple[str, tuple[int, ...]]]:
    block = "transformer.h.{}"
    return [
        ("transformer.wte.weight", (V, C)),
        ("transformer.wpe.weight", (T, C)),
        (f"{block}.ln_1.weight", (n_layer, C)),
        (f"{block}.ln_1.bias", (n_layer, C)),
        (f"{block}.attn.c_attn.weight", (n_layer, 3 * C, C)),
        (f"{block}.attn.c_attn.bias", (n_layer, 3 * C)),
        (f"{block}.attn.c_proj.weight", (n_layer, C, C)),
        (f"{block}.attn.c_proj.bias", (n_layer, C)),
        (f"{block}.ln_2.weight", (n_layer, C)),
        (f"{block}.ln_2.bias", (n_layer, C)),
        (f"{block}.mlp.c_fc.weight", (n_layer, 4 * C, C)),
        (f"{block}.mlp.c_fc.bias", (n_layer, 4 * C)),
        (f"{block}.mlp.c_proj.weight", (n_layer, C, 4 * C)),
        (f"{block}.mlp.c_proj.bias", (n_layer, C)),
        ("transformer.ln_f.weight", (C,)),
        ("transformer.ln_f.bias", (C,)),
    ]


def _tensor(values: np.ndarray) -> Tensor:
    if values.dtype == np.dtype("<u2"):
        return torch.from_numpy(values.astype(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(values))


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer | None:
    beside = path.with_name(_TOKENIZER)
    if not beside.is_file():
        return None
    made = import_tokenizer(beside)
    if made.vocab_size == vocab_size:
        return made
    progress.warn(f"{beside}: has {made.vocab_size:,} tokens, the model {vocab_size:,}: left out")
    return None
