"""Import llm.c's GPT-2 checkpoints: gpt2_124M.bin (fp32) and gpt2_124M_bf16.bin.

Source: karpathy/llm.c, train_gpt2.py (write_model) and train_gpt2.c. A header of 256 int32 is followed by each kind of
weight, stacked over the layers. The vocabulary is padded to a multiple of 128; the padding is dropped.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.tokenizer import Tokenizer, import_tokenizer

_MAGIC = 20240326
_DTYPES: dict[int, np.dtype] = {
    3: np.dtype("<f4"),
    5: np.dtype("<u2"),
}  # by version; version 5 is bf16, which numpy lacks
_TOKENIZER = "gpt2_tokenizer.bin"


def recognizes(path: Path) -> bool:
    """Whether a file starts with llm.c's magic number."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return int.from_bytes(file.read(4), "little") == _MAGIC


def read(path: Path) -> ImportedModel:
    """Read a checkpoint, and the gpt2_tokenizer.bin in the same folder.

    Raises:
        CheckpointError: it is damaged, or of an unsupported version.
        TokenizerError: its tokenizer is damaged.
    """
    file = BoundedReader(path, CheckpointError)
    magic, version, block_size, V, n_layer, n_head, width, padded, *_ = file.unpack("256i")
    if magic != _MAGIC or version not in _DTYPES:
        raise CheckpointError(
            "unsupported version of llm.c's format",
            where=path,
            found=f"{magic}, version {version}",
            expected=f"{_MAGIC}, version 3 (fp32) or 5 (bf16)",
        )
    if min(block_size, V, n_layer, n_head, width) <= 0 or padded < V:
        raise CheckpointError(
            "invalid sizes in the header", where=path, found=(block_size, V, n_layer, n_head, width, padded)
        )
    layout = _layout(n_layer, width, block_size, padded)
    count, dtype = sum(math.prod(shape) for _, shape in layout), _DTYPES[version]
    if file.remaining != count * dtype.itemsize:
        raise CheckpointError(
            "its size does not match its header",
            where=path,
            found=f"{file.remaining:,} bytes of weights",
            expected=f"{count * dtype.itemsize:,}",
        )
    config = model_config(
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
    for name, shape in layout:
        tensor = finite_fp32(f"{path}: {name}", _tensor(file.read_array(dtype, shape)))
        if "{}" not in name:
            weights[name] = tensor[:V] if name == "transformer.wte.weight" else tensor
            continue
        for i, layer in enumerate(tensor):
            # Conv1D stores weights as (input, output).
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
    file = path.with_name(_TOKENIZER)
    if not file.is_file():
        return None
    tokenizer = import_tokenizer(file)
    if tokenizer.vocab_size == vocab_size:
        return tokenizer
    progress.warn(
        f"{file}: ignored, since it has {tokenizer.vocab_size:,} tokens and the model {vocab_size:,}; "
        "specify the tokenizer with --tokenizer"
    )
    return None


IMPORTER = Importer(title="llm.c", recognizes=recognizes, read=read)
