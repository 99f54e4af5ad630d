"""A model out of a GGUF file: families gpt2, llama and modern (llama.cpp's gpt2, llama and qwen3)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.convert.gguf_file import GGUF
from firstlight.convert.gguf_names import FAMILIES, HEAD, NO_MERGES, PRE, ROPE_FACTORS, names, qk_turned, rope_factors
from firstlight.convert.imported_model import ImportedModel, finite, guarded, shape
from firstlight.errors import CheckpointError
from firstlight.model import ModelConfig, RopeScaling
from firstlight.tokenizer import Table, Tokenizer, byte_level, sentence_piece

_CONTROL, _USER, _UNKNOWN, _UNUSED = 3, 4, 2, 5


def read(path: Path) -> ImportedModel:
    """Read a GGUF file.

    Raises:
        CheckpointError: it is damaged, or of an architecture, rotation or type of weights that is not read.
        TokenizerError: its vocabulary contradicts itself.
        MissingExtra: the package for its quantised types is not installed.
    """
    with guarded(path, "GGUF file", "gguf"):
        file = GGUF(path)
        config = _config(file)
        weights = _Weights(file, config)
        tokenizer = _tokenizer(file) if "tokenizer.ggml.tokens" in file.values else None
        name = file.values.get("general.name")
    return ImportedModel("GGUF", config, weights, tokenizer, {"imported from": f"GGUF {name or path.name}"})


class _Weights(Mapping[str, Tensor]):
    """The weights in transformers' names; each is read and dequantised when it is asked for."""

    def __init__(self, file: GGUF, config: ModelConfig) -> None:
        self._file, self._config = file, config
        self._theirs = names(config)

    def __getitem__(self, name: str) -> Tensor:
        theirs = self._theirs[name]
        if theirs not in self._file.tensors:
            raise KeyError(name)
        with guarded(self._file.path, "GGUF file", "gguf"):
            tensor = finite(theirs, torch.from_numpy(np.array(self._file.tensor(theirs))))
        if self._config.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            if tensor.shape[0] % self._config.head_dim:
                raise CheckpointError(
                    "has heads of no whole width", where=f"{self._file.path}: {theirs}", found=tuple(tensor.shape)
                )
            return qk_turned(tensor, self._config.head_dim, back=True)
        # Conv1D keeps weights as input × output.
        return tensor.t() if self._config.family == "gpt2" and ".h." in name and tensor.ndim == 2 else tensor

    def __iter__(self) -> Iterator[str]:
        return (ours for ours, theirs in self._theirs.items() if theirs in self._file.tensors)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _config(file: GGUF) -> ModelConfig:
    values, path = file.values, file.path
    kind = values.get("general.architecture")
    if kind not in FAMILIES:
        raise CheckpointError(
            "holds a model of another kind",
            where=path,
            found=f"architecture {str(kind)[:40]!r}",
            expected=", ".join(FAMILIES),
        )
    family = FAMILIES[kind]

    def get(key: str, default: Any = None) -> Any:
        found = values.get(f"{kind}.{key}", default)
        if found is None:
            raise CheckpointError("lacks a key", where=path, expected=f"{kind}.{key}")
        return found

    biased = next((n for n in file.tensors if n.endswith(("attn_q.bias", "attn_k.bias")) and family != "gpt2"), None)
    if biased is not None:
        raise CheckpointError("has biases that its family lacks", where=path, found=biased)
    n_layer, n_head, width = get("block_count"), get("attention.head_count"), get("embedding_length")
    if not isinstance(n_layer, int) or n_layer > len(file.tensors):
        raise CheckpointError(
            "has fewer weights than its layers need", where=path, found=f"{len(file.tensors)} for {n_layer} layers"
        )
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise CheckpointError("a weight is missing", where=path, expected="token_embd.weight, a matrix")
    sizes: dict[str, Any] = {
        "family": family,
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": width,
        "vocab_size": embed.shape[0],
        "d_ff": get("feed_forward_length"),
        "block_size": get("context_length"),
        "tie_embeddings": HEAD not in file.tensors,
    }
    if family == "gpt2":
        return shape(path, **sizes, norm_eps=get("attention.layer_norm_epsilon"))
    key_length = values.get(f"{kind}.attention.key_length") or values.get(f"{kind}.rope.dimension_count")
    return shape(
        path,
        **sizes,
        norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base", 10_000.0),
        n_kv_head=get("attention.head_count_kv", n_head),
        d_head=key_length,
        rope_scaling=_scaling(file, kind),
    )


def _scaling(file: GGUF, kind: str) -> dict[str, Any] | None:
    """Return how positions are stretched; a table of factors is compared with those of Llama 3.1, 3.2 and 3.3."""
    where, get = f"{file.path}: {kind}.rope.scaling", file.values.get
    style = get(f"{kind}.rope.scaling.type", "none")
    if style == "linear":
        return {"factor": get(f"{kind}.rope.scaling.factor")}
    if style != "none":
        raise CheckpointError("turns positions in a way that no family does", where=where, found=repr(style)[:40])
    if ROPE_FACTORS not in file.tensors:
        return None
    factors = file.tensor(ROPE_FACTORS)
    theta, most = float(get(f"{kind}.rope.freq_base", 10_000.0)), float(factors.max())
    for original in (8192, 4096, 2048, 1024, 512):
        scaling = RopeScaling(factor=max(1.0, most), original=original)
        if factors.ndim == 1 and np.allclose(rope_factors(scaling, 2 * len(factors), theta), factors, rtol=1e-3):
            return scaling.model_dump()
    raise CheckpointError("turns positions by a table of factors that is not Llama 3's", where=where)


def _tokenizer(file: GGUF) -> Tokenizer:
    get, path = file.values.get, file.path
    tokens, kind = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.model")
    if not isinstance(tokens, list):
        raise CheckpointError("has tokens that are no texts", where=path)
    types = np.asarray(get("tokenizer.ggml.token_type", np.ones(len(tokens))))
    if types.shape != (len(tokens),):
        raise CheckpointError("has no type for each token", where=path, found=f"{types.size} for {len(tokens)}")
    readers: dict[Any, Callable[[GGUF, Table], Tokenizer]] = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in readers:
        raise CheckpointError(
            "has a tokenizer of another kind", where=path, found=repr(kind)[:40], expected=", ".join(readers)
        )
    eot = get("tokenizer.ggml.eos_token_id")
    if eot is None:
        raise CheckpointError("names no token that ends a text", where=path, expected="tokenizer.ggml.eos_token_id")
    begins = get("tokenizer.ggml.add_bos_token", kind == "llama" or get("tokenizer.ggml.pre") == "llama-bpe")
    template, pad = get("tokenizer.chat_template"), get("tokenizer.ggml.padding_token_id")
    special = [int(i) for i in np.flatnonzero((types == _CONTROL) | (types == _UNUSED))]
    table = Table(
        tokens,
        eot,
        special=frozenset(special),
        user=frozenset(map(int, np.flatnonzero(types == _USER))),
        begin=get("tokenizer.ggml.bos_token_id") if begins else None,
        unknown=next((int(i) for i in np.flatnonzero(types == _UNKNOWN)), None),
        kept={
            **({"chat_template": template} if isinstance(template, str) else {}),
            **({"pad_token": tokens[pad]} if isinstance(pad, int) and 0 <= pad < len(tokens) else {}),
        },
        where=path,
    )
    return readers[kind](file, table)


def _byte_level(file: GGUF, table: Table) -> Tokenizer:
    pre = file.values.get("tokenizer.ggml.pre", "default")
    if pre not in PRE:
        raise CheckpointError(
            "cuts text in a way that is not known",
            where=f"{file.path}: tokenizer.ggml.pre",
            found=repr(pre)[:40],
            expected=", ".join(PRE),
        )
    merges = file.values.get("tokenizer.ggml.merges", [])
    # A token may begin with a space only as Ġ, so the first space parts the two.
    pairs = [tuple(str(merge).split(" ", 1)) for merge in ([] if merges == [NO_MERGES] else merges)]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError("has a merge that is no pair", where=file.path)
    return byte_level(table, [(pair[0], pair[-1]) for pair in pairs], PRE[pre])


def _sentence_piece(file: GGUF, table: Table) -> Tokenizer:
    scores = np.asarray(file.values.get("tokenizer.ggml.scores", ()))
    if len(scores) != len(table.tokens):
        raise CheckpointError("has no score for each token", where=file.path)
    return sentence_piece(table, scores.tolist(), prefix=bool(file.values.get("tokenizer.ggml.add_space_prefix", True)))
