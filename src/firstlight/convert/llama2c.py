"""Import llama2.c's weights: the legacy layout (stories260K.bin), version 1 (fp32) and version 2 (int8).

Source: karpathy/llama2.c, export.py and run.c. The weights follow the header without gaps, so the sizes in the header
determine the file's size, and are checked against it first. Rotary embeddings use Meta's layout.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.formats import Importer
from firstlight.convert.gguf.names import permute_qk
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.model import ModelConfig
from firstlight.tokenizer import Tokenizer, import_tokenizer

_MAGIC = 0x616B3432
_HEADER_BYTES, _LEGACY_HEADER_BYTES = 256, 28
_MAX_SIZE = 1 << 31  # of any dimension
_F32 = np.dtype("<f4")


def recognizes(path: Path) -> bool:
    """Whether a file starts with the magic number, or with the seven sizes of the legacy layout, which has none."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_LEGACY_HEADER_BYTES).ljust(_LEGACY_HEADER_BYTES, b"\0")
    if int.from_bytes(head[:4], "little") == _MAGIC:
        return True
    sizes = np.frombuffer(head, "<i4")
    if not all(0 < abs(int(n)) < 1 << 24 for n in sizes) or (sizes[[0, 1, 2, 3, 4, 6]] < 0).any():
        return False
    width, _, _, n_head, n_kv_head, _, _ = sizes.tolist()
    return bool(width % n_head == 0 and n_head % n_kv_head == 0)


def read(path: Path) -> ImportedModel:
    """Read a file of weights, and the tokenizer.bin (or tok512.bin, by vocabulary size) in the same folder.

    Raises:
        CheckpointError: it is damaged, or of an unsupported version.
        TokenizerError: its tokenizer is damaged.
    """
    file = BoundedReader(path, CheckpointError)
    version, group_size = 0, 0
    if file.unpack("I") == (_MAGIC,):
        (version,) = file.unpack("i")
        sizes, tied = file.unpack("7i"), file.unpack("B") == (1,)
        group_size = file.unpack("i")[0] if version == 2 else 0
        if version not in (1, 2) or (version == 2 and group_size <= 0):
            raise CheckpointError(
                "unsupported version of llama2.c's format", where=path, found=version, expected="1 or 2"
            )
    else:
        file.offset = 0
        sizes = file.unpack("7i")
        tied = sizes[5] > 0
    width, d_ff, n_layer, n_head, n_kv_head, V, block_size = sizes
    config = _config(path, (width, d_ff, n_layer, n_head, n_kv_head, abs(V), block_size), tied=tied)
    file.offset = _HEADER_BYTES if version else _LEGACY_HEADER_BYTES
    n_weights = _count_weights(config, rotary_tables=version == 0)
    if (file.remaining < n_weights) if version == 2 else (file.remaining != 4 * n_weights):
        raise CheckpointError(
            "its size does not match its header",
            where=path,
            found=f"{file.remaining:,} bytes of weights",
            expected=f"at least {n_weights:,}" if version == 2 else f"{4 * n_weights:,}",
        )
    layout = _legacy_layout if version == 0 else _layout
    weights = _read_weights(file, layout(config), group_size)
    if file.remaining:
        raise CheckpointError("has bytes after its last weight", where=path, found=f"{file.remaining:,}")
    return ImportedModel(
        "llama2.c",
        config,
        _to_hf(config, weights),
        _tokenizer(path, abs(V)),
        {"imported from": f"llama2.c {path.name}"},
    )


_Layout = list[tuple[str, bool, tuple[int, ...]]]  # name, whether it is quantized in version 2, shape


def _config(path: Path, sizes: tuple[int, ...], *, tied: bool) -> ModelConfig:
    if not all(0 < n < _MAX_SIZE for n in sizes):
        raise CheckpointError("invalid sizes in the header", where=path, found=sizes)
    width, d_ff, n_layer, n_head, n_kv_head, V, block_size = sizes
    return model_config(
        path,
        family="llama",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=width,
        d_ff=d_ff,
        vocab_size=V,
        block_size=block_size,
        norm_eps=1e-5,
        tie_embeddings=tied,
    )


def _parts(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer's weights by transformers' names."""
    q, kv = c.n_head * c.head_dim, c.kv_heads * c.head_dim
    return {
        "input_layernorm": (c.n_embd,),
        "self_attn.q_proj": (q, c.n_embd),
        "self_attn.k_proj": (kv, c.n_embd),
        "self_attn.v_proj": (kv, c.n_embd),
        "self_attn.o_proj": (c.n_embd, q),
        "post_attention_layernorm": (c.n_embd,),
        "mlp.gate_proj": (c.ffn_dim, c.n_embd),
        "mlp.down_proj": (c.n_embd, c.ffn_dim),
        "mlp.up_proj": (c.ffn_dim, c.n_embd),
    }


def _layers(c: ModelConfig, part: str) -> _Layout:
    shape = _parts(c)[part]
    return [(f"model.layers.{i}.{part}.weight", len(shape) == 2, shape) for i in range(c.n_layer)]


def _count_weights(c: ModelConfig, *, rotary_tables: bool) -> int:
    """Count the model's weights without building the layout, whose length is up to the header."""
    layer = sum(math.prod(shape) for shape in _parts(c).values())
    embeddings = (1 if c.tied else 2) * (c.vocab_size or 0) * c.n_embd
    return c.n_layer * layer + embeddings + c.n_embd + (c.block_size * c.head_dim if rotary_tables else 0)


def _legacy_layout(c: ModelConfig) -> _Layout:
    layout: _Layout = [("model.embed_tokens.weight", True, (c.vocab_size or 0, c.n_embd))]
    for part in _parts(c):
        layout += _layers(c, part)
    # The unnamed entry is the tables of cosines and sines, which are skipped.
    layout += [("model.norm.weight", False, (c.n_embd,)), ("", False, (c.block_size, c.head_dim))]
    return layout if c.tied else [*layout, ("lm_head.weight", True, (c.vocab_size or 0, c.n_embd))]


def _layout(c: ModelConfig) -> _Layout:
    norms = ("input_layernorm", "post_attention_layernorm")
    layout = [entry for part in norms for entry in _layers(c, part)]
    layout += [
        ("model.norm.weight", False, (c.n_embd,)),
        ("model.embed_tokens.weight", True, (c.vocab_size or 0, c.n_embd)),
    ]
    layout += [entry for part in _parts(c) if part not in norms for entry in _layers(c, part)]
    return layout if c.tied else [*layout, ("lm_head.weight", True, (c.vocab_size or 0, c.n_embd))]


def _read_weights(file: BoundedReader, layout: _Layout, group_size: int) -> dict[str, Tensor]:
    weights = {}
    for name, is_quantized, shape in layout:
        if group_size and is_quantized:
            n_groups, rest = divmod(math.prod(shape), group_size)
            if rest:
                raise CheckpointError(
                    "the size of a weight is not a multiple of the group size",
                    where=f"{file.path}: {name}",
                    found=shape,
                    expected=f"a multiple of {group_size}",
                )
            quantized, scales = (
                file.read_array(np.dtype("i1"), (n_groups, group_size)),
                file.read_array(_F32, (n_groups, 1)),
            )
            with np.errstate(over="ignore", invalid="ignore"):  # damaged scales; values that are not finite are refused
                values = (quantized.astype(np.float32) * scales).reshape(shape)
        else:
            values = np.array(file.read_array(_F32, shape))
        if name:
            weights[name] = finite_fp32(f"{file.path}: {name}", torch.from_numpy(values))
    return weights


def _to_hf(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = permute_qk(tensor, config.head_dim, to_hf=True)
    return weights


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer | None:
    names = [f"tok{vocab_size}.bin", f"tok{vocab_size}.model", "tokenizer.bin", "tokenizer.model"]
    file = next((file for name in names if (file := path.with_name(name)).is_file()), None)
    if file is None:
        return None
    tokenizer = import_tokenizer(file)
    if tokenizer.vocab_size == vocab_size:
        return tokenizer
    progress.warn(
        f"{file}: ignored, since it has {tokenizer.vocab_size:,} tokens and the model {vocab_size:,}; "
        "specify the tokenizer with --tokenizer"
    )
    return None


IMPORTER = Importer(title="llama2.c", recognizes=recognizes, read=read)
