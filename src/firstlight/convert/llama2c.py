"""llama2.c's weights: the first layout (stories260K.bin), version 1 in fp32, version 2 in 8 bits.

Source: karpathy/llama2.c, export.py and run.c. Numbers lie end to end, so the header's sizes decide the file's size,
and are held to it before anything is read. Neighbouring numbers of a head are turned by position, as in Meta's code.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.gguf_names import qk_turned
from firstlight.convert.imported_model import ImportedModel, finite, shape
from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader
from firstlight.model import ModelConfig
from firstlight.tokenizer import Tokenizer, import_tokenizer

MAGIC = 0x616B3432
_HEADER = 256  # bytes, from version 1 on
_MOST = 1 << 31  # no size of a model is larger
_F32 = np.dtype("<f4")


def sizes_of(path: Path) -> tuple[int, ...] | None:
    """Return the seven sizes with which the first layout begins, where the file may be of it, or None."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(28).ljust(28, b"\0"), "<i4")
    if not all(0 < abs(int(n)) < 1 << 24 for n in head) or (head[[0, 1, 2, 3, 4, 6]] < 0).any():
        return None
    width, _, _, n_head, n_kv, _, _ = (int(n) for n in head)
    return tuple(int(n) for n in head) if width % n_head == 0 and n_head % n_kv == 0 else None


def read(path: Path) -> ImportedModel:
    """Read a ``.bin`` of llama2.c; its tokenizer.bin (or tok512.bin, by the vocabulary's size) is taken from beside it.

    Raises:
        CheckpointError: it is damaged, or of another version.
        TokenizerError: the tokenizer beside it is damaged.
    """
    file = BoundedReader(path, CheckpointError)
    version, group = 0, 0
    if file.unpack("I") == (MAGIC,):
        (version,) = file.unpack("i")
        sizes, shared = file.unpack("7i"), file.unpack("B") == (1,)
        group = file.unpack("i")[0] if version == 2 else 0
        if version not in (1, 2) or (version == 2 and group <= 0):
            raise CheckpointError("is of another version", where=path, found=version, expected="1 or 2")
    else:
        file.offset = 0
        sizes = file.unpack("7i")
        shared = sizes[5] > 0
    width, inner, n_layer, n_head, n_kv, V, block_size = sizes
    config = _shape(path, (width, inner, n_layer, n_head, n_kv, abs(V), block_size), tied=shared)
    file.offset = _HEADER if version else 28
    whole = _count(config, angles=version == 0)
    if (file.remaining < whole) if version == 2 else (file.remaining != 4 * whole):
        raise CheckpointError(
            "has another size than its header says",
            where=path,
            found=f"{file.remaining:,} bytes of numbers",
            expected=f"{whole if version == 2 else 4 * whole:,}",
        )
    layout = _flat if version == 0 else _by_kind
    weights = _take(file, layout(config), group)
    return ImportedModel(
        "llama2.c",
        config,
        _in_transformers(config, weights),
        _tokenizer(path, abs(V)),
        {"imported from": f"llama2.c {path.name}"},
    )


_Layout = list[tuple[str, bool, tuple[int, ...]]]


def _shape(path: Path, sizes: tuple[int, ...], *, tied: bool) -> ModelConfig:
    if not all(0 < n < _MOST for n in sizes):
        raise CheckpointError("has absurd sizes", where=path, found=sizes)
    width, inner, n_layer, n_head, n_kv, V, block_size = sizes
    return shape(
        path,
        family="llama",
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv,
        n_embd=width,
        d_ff=inner,
        vocab_size=V,
        block_size=block_size,
        norm_eps=1e-5,
        tie_embeddings=tied,
    )


def _parts(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer by transformers' name."""
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
    size = _parts(c)[part]
    return [(f"model.layers.{i}.{part}.weight", len(size) == 2, size) for i in range(c.n_layer)]


def _count(c: ModelConfig, *, angles: bool) -> int:
    """Return how many numbers the model has; reckoned, since a list of layers may be as long as a header claims."""
    layer = sum(math.prod(size) for size in _parts(c).values())
    embeddings = (1 if c.tied else 2) * (c.vocab_size or 0) * c.n_embd
    return c.n_layer * layer + embeddings + c.n_embd + (c.block_size * c.head_dim if angles else 0)


def _flat(c: ModelConfig) -> _Layout:
    layout: _Layout = [("model.embed_tokens.weight", True, (c.vocab_size or 0, c.n_embd))]
    for part in _parts(c):
        layout += _layers(c, part)
    # The angles of positions follow; nobody reads them.
    layout += [("model.norm.weight", False, (c.n_embd,)), ("", False, (c.block_size, c.head_dim))]
    return layout if c.tied else [*layout, ("lm_head.weight", True, (c.vocab_size or 0, c.n_embd))]


def _by_kind(c: ModelConfig) -> _Layout:
    norms = ("input_layernorm", "post_attention_layernorm")
    layout = [entry for part in norms for entry in _layers(c, part)]
    layout += [
        ("model.norm.weight", False, (c.n_embd,)),
        ("model.embed_tokens.weight", True, (c.vocab_size or 0, c.n_embd)),
    ]
    layout += [entry for part in _parts(c) if part not in norms for entry in _layers(c, part)]
    return layout if c.tied else [*layout, ("lm_head.weight", True, (c.vocab_size or 0, c.n_embd))]


def _take(file: BoundedReader, layout: _Layout, group: int) -> dict[str, Tensor]:
    weights = {}
    for name, is_matrix, size in layout:
        if group and is_matrix:
            count = int(np.prod(size))
            if count % group:
                raise CheckpointError("has matrices that are no whole groups", where=file.path, found=size)
            eights, scales = (
                file.read_array(np.dtype("i1"), (count // group, group)),
                file.read_array(_F32, (count // group, 1)),
            )
            with np.errstate(over="ignore", invalid="ignore"):  # of scales that are damaged
                values = (eights.astype(np.float32) * scales).reshape(size)
        else:
            values = np.array(file.read_array(_F32, size))
        if name:
            weights[name] = finite(f"{file.path}: {name}", torch.from_numpy(values))
    return weights


def _in_transformers(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = qk_turned(tensor, config.head_dim, back=True)
    return weights


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer | None:
    names = [f"tok{vocab_size}.bin", f"tok{vocab_size}.model", "tokenizer.bin", "tokenizer.model"]
    beside = next((file for name in names if (file := path.with_name(name)).is_file()), None)
    if beside is None:
        return None
    made = import_tokenizer(beside)
    if made.vocab_size == vocab_size:
        return made
    progress.warn(
        f"{beside}: has {made.vocab_size:,} tokens, the model {vocab_size:,}: left out; name one by --tokenizer"
    )
    return None
