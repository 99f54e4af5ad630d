"""Import a GGUF file: families gpt2, llama and modern (llama.cpp's gpt2, llama and qwen3)."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.errors import wrap_errors
from firstlight.convert.formats import Importer
from firstlight.convert.gguf.file import MAGIC, GGUFFile
from firstlight.convert.gguf.names import (
    CHAT_TEMPLATE,
    ENDS,
    FAMILIES,
    HEAD,
    NO_MERGES,
    PRE_TOKENIZERS,
    ROPE_FACTORS,
    permute_qk,
    rope_factors,
    tensor_names,
)
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config, refuse_surplus
from firstlight.errors import CheckpointError
from firstlight.lm import GenerationConfig
from firstlight.model import ModelConfig, RopeScaling
from firstlight.tokenizer import Tokenizer, VocabTable, build_byte_level_bpe, build_sentencepiece_bpe

_KNOWN_EXTRA = re.compile(rf"{re.escape(ROPE_FACTORS)}|blk\.\d+\.attn_rot_embd")  # tables that are computed here
# Keys that change the computation of other architectures, and their value where they change nothing.
_SUPPORTED: dict[str, Any] = {
    "attention.causal": True,
    "attention.sliding_window": 0,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "embedding_scale": 0,
    "residual_scale": 0,
    "logit_scale": 0,
    "expert_count": 0,
    "use_parallel_residual": False,
    "rope.scale_linear": 1,
    "rope.scaling.attn_factor": 1,
}
# Keys of special tokens in transformers by llama.cpp's, whose spelling this is.
_TOKEN_KEYS = {
    "bos": "bos_token",
    "padding": "pad_token",
    "seperator": "sep_token",
    "mask": "mask_token",
    "cls": "cls_token",
}
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # types of tokens


def recognizes(path: Path) -> bool:
    """Whether a file starts with GGUF's magic number."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> ImportedModel:
    """Read a GGUF file.

    Raises:
        CheckpointError: it is damaged, or its architecture, RoPE scaling or type of weights is not supported.
        TokenizerError: its vocabulary is inconsistent.
    """
    file = GGUFFile(path)
    n_files = file.metadata.get("split.count", 1)
    if isinstance(n_files, int) and n_files > 1:
        raise CheckpointError(
            "is one of several files of a model, which is not supported",
            where=path,
            found=f"split.count {n_files}",
            fix="Merge them: llama-gguf-split --merge FIRST_FILE.gguf MODEL.gguf",
        )
    config = _config(file)
    weights = _Weights(file, config)
    refuse_surplus((name for name in weights.surplus if not _KNOWN_EXTRA.fullmatch(name)), path)
    tokenizer = _tokenizer(file) if "tokenizer.ggml.tokens" in file.metadata else None
    name = file.metadata.get("general.name")
    generation = _generation(file, config.vocab_size or 0)
    return ImportedModel("GGUF", config, weights, tokenizer, {"imported from": f"GGUF {name or path.name}"}, generation)


def _generation(file: GGUFFile, vocab_size: int) -> GenerationConfig:
    """Read the tokens that begin and end a text: llama.cpp stops at each of end of text, of turn and of message."""
    ids = {name: file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", *ENDS)}
    known = {name: i for name, i in ids.items() if isinstance(i, int) and 0 <= i < vocab_size}
    return GenerationConfig.of_ids(bos=known.get("bos"), eos=[known[name] for name in ENDS if name in known])


def _chat_templates(file: GGUFFile) -> dict[str, str]:
    """Read the chat templates: the default one, and others by name."""
    templates = {
        key.removeprefix(CHAT_TEMPLATE).removeprefix(".") or "default": value
        for key, value in file.metadata.items()
        if (key == CHAT_TEMPLATE or key.startswith(f"{CHAT_TEMPLATE}.")) and isinstance(value, str)
    }
    return dict(sorted(templates.items(), key=lambda item: item[0] != "default"))


class _Weights(Mapping[str, Tensor]):
    """The weights by transformers' names; each is read and dequantized on access."""

    def __init__(self, file: GGUFFile, config: ModelConfig) -> None:
        self._file, self._config = file, config
        self._names = tensor_names(config)

    @property
    def surplus(self) -> set[str]:
        """Names in the file that the model has no place for."""
        return set(self._file.tensors) - set(self._names.values())

    def __getitem__(self, name: str) -> Tensor:
        gguf_name = self._names[name]
        if gguf_name not in self._file.tensors:
            raise KeyError(name)
        with wrap_errors(self._file.path, "GGUF file", "gguf"):
            tensor = finite_fp32(gguf_name, torch.from_numpy(np.array(self._file.tensor(gguf_name))))
        if self._config.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            if tensor.shape[0] % self._config.head_dim:
                raise CheckpointError(
                    "rows are not a multiple of the head width",
                    where=f"{self._file.path}: {gguf_name}",
                    found=tuple(tensor.shape),
                    expected=f"a multiple of {self._config.head_dim}",
                )
            return permute_qk(tensor, self._config.head_dim, to_hf=True)
        # Conv1D stores weights as (input, output).
        return tensor.t() if self._config.family == "gpt2" and ".h." in name and tensor.ndim == 2 else tensor

    def __iter__(self) -> Iterator[str]:
        return (name for name, gguf_name in self._names.items() if gguf_name in self._file.tensors)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _config(file: GGUFFile) -> ModelConfig:
    values, path = file.metadata, file.path
    architecture = values.get("general.architecture")
    if architecture not in FAMILIES:
        raise CheckpointError(
            "unsupported architecture",
            where=path,
            found=repr(str(architecture)[:40]),
            expected=", ".join(FAMILIES),
        )
    family = FAMILIES[architecture]

    def get(key: str, default: Any = None) -> Any:
        value = values.get(f"{architecture}.{key}", default)
        if value is None:
            raise CheckpointError("missing key", where=path, expected=f"{architecture}.{key}")
        return value

    for key, value in _SUPPORTED.items():
        if get(key, value) != value:
            raise CheckpointError(
                "unsupported feature", where=f"{path}: {architecture}.{key}", found=get(key), expected=value
            )
    biased = next((n for n in file.tensors if n.endswith(("attn_q.bias", "attn_k.bias")) and family != "gpt2"), None)
    if biased is not None:
        raise CheckpointError("has biases, which its family does not have", where=path, found=biased)
    n_layer, n_head, width = get("block_count"), get("attention.head_count"), get("embedding_length")
    if not isinstance(n_layer, int) or n_layer > len(file.tensors):
        raise CheckpointError(
            "fewer weights than its layers need", where=path, found=f"{len(file.tensors)} for {n_layer} layers"
        )
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise CheckpointError("missing weight", where=path, expected="token_embd.weight, a matrix")
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
        return model_config(path, **sizes, norm_eps=get("attention.layer_norm_epsilon"))
    rotated = values.get(f"{architecture}.rope.dimension_count")
    key_length = values.get(f"{architecture}.attention.key_length") or rotated
    value_length = values.get(f"{architecture}.attention.value_length")
    if key_length and any(length not in (None, key_length) for length in (rotated, value_length)):
        raise CheckpointError(
            "unsupported widths of a head",
            where=f"{path}: {architecture}",
            found=f"attention.key_length {key_length}, attention.value_length {value_length}, "
            f"rope.dimension_count {rotated}",
            expected="the same width",
        )
    return model_config(
        path,
        **sizes,
        norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base", 10_000.0),
        n_kv_head=get("attention.head_count_kv", n_head),
        d_head=key_length,
        rope_scaling=_rope_scaling(file, architecture),
    )


def _rope_scaling(file: GGUFFile, architecture: str) -> dict[str, Any] | None:
    """Read the RoPE scaling; a table of factors must be one of Llama 3.1, 3.2 or 3.3."""
    where, get = f"{file.path}: {architecture}.rope.scaling", file.metadata.get
    factor = get(f"{architecture}.rope.scaling.factor")
    # As llama.cpp has it: linear where only a factor is there, and a factor of 0 means none.
    scaling_type = get(f"{architecture}.rope.scaling.type", "linear")
    if scaling_type == "linear" and factor not in (None, 0, 1):
        if ROPE_FACTORS in file.tensors:
            raise CheckpointError("unsupported RoPE scaling: a factor and a table of factors", where=where)
        return {"factor": factor}
    if scaling_type not in ("none", "linear"):
        raise CheckpointError("unsupported RoPE scaling", where=where, found=repr(scaling_type)[:40])
    if ROPE_FACTORS not in file.tensors:
        return None
    factors = file.tensor(ROPE_FACTORS)
    theta, largest = float(get(f"{architecture}.rope.freq_base", 10_000.0)), float(factors.max())
    for original in (8192, 4096, 2048, 1024, 512):
        scaling = RopeScaling(factor=max(1.0, largest), original=original)
        if factors.ndim == 1 and np.allclose(rope_factors(scaling, 2 * len(factors), theta), factors, rtol=1e-3):
            return scaling.model_dump()
    raise CheckpointError("unsupported RoPE scaling: its table of factors is not Llama 3's", where=where)


def _tokenizer(file: GGUFFile) -> Tokenizer:
    get, path = file.metadata.get, file.path
    tokens, model = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.model")
    if not isinstance(tokens, list):
        raise CheckpointError("tokens are not strings", where=path)
    types = np.asarray(get("tokenizer.ggml.token_type", np.ones(len(tokens))))
    if types.shape != (len(tokens),):
        raise CheckpointError(
            "wrong number of token types", where=path, found=f"{types.size:,}", expected=f"{len(tokens):,}"
        )
    builders: dict[Any, Callable[[GGUFFile, VocabTable], Tokenizer]] = {"gpt2": _byte_level, "llama": _sentence_piece}
    if model not in builders:
        raise CheckpointError(
            "unsupported tokenizer model", where=path, found=repr(model)[:40], expected=", ".join(builders)
        )
    eot = get("tokenizer.ggml.eos_token_id")
    if eot is None:
        raise CheckpointError("no end-of-text token", where=path, expected="tokenizer.ggml.eos_token_id")
    if get("tokenizer.ggml.add_eos_token"):
        progress.notice(f"{path}: add_eos_token is dropped, since texts are encoded without an end")
    add_bos = get("tokenizer.ggml.add_bos_token", model == "llama" or get("tokenizer.ggml.pre") == "llama-bpe")
    templates, named = (
        _chat_templates(file),
        {
            key: tokens[i]
            for key in _TOKEN_KEYS
            if isinstance(i := get(f"tokenizer.ggml.{key}_token_id"), int) and 0 <= i < len(tokens)
        },
    )
    special = [int(i) for i in np.flatnonzero((types == _CONTROL) | (types == _UNUSED))]
    table = VocabTable(
        tokens,
        eot,
        special_ids=frozenset(special),
        added_ids=frozenset(map(int, np.flatnonzero(types == _USER_DEFINED))),
        bos_id=get("tokenizer.ggml.bos_token_id") if add_bos else None,
        unk_id=next((int(i) for i in np.flatnonzero(types == _UNKNOWN)), None),
        extra_config={
            "bos_token": None,
            **{_TOKEN_KEYS[key]: token for key, token in named.items()},
            **({"chat_template": templates} if templates else {}),
        },
        source=path,
    )
    return builders[model](file, table)


def _byte_level(file: GGUFFile, table: VocabTable) -> Tokenizer:
    pre_tokenizer = file.metadata.get("tokenizer.ggml.pre", "default")
    if pre_tokenizer not in PRE_TOKENIZERS:
        raise CheckpointError(
            "unsupported pre-tokenizer",
            where=f"{file.path}: tokenizer.ggml.pre",
            found=repr(pre_tokenizer)[:40],
            expected=", ".join(PRE_TOKENIZERS),
        )
    merges = file.metadata.get("tokenizer.ggml.merges", [])
    # A space within a token is written as Ġ, so the first space separates the two.
    pairs = [tuple(str(merge).split(" ", 1)) for merge in ([] if merges == [NO_MERGES] else merges)]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError("a merge is not a pair of tokens", where=file.path)
    tokenizer = build_byte_level_bpe(table, [(pair[0], pair[-1]) for pair in pairs], PRE_TOKENIZERS[pre_tokenizer])
    if "tokenizer.ggml.merges" not in file.metadata:
        raise CheckpointError("has no merges of its tokens", where=file.path, expected="tokenizer.ggml.merges")
    return tokenizer


def _sentence_piece(file: GGUFFile, table: VocabTable) -> Tokenizer:
    scores = np.asarray(file.metadata.get("tokenizer.ggml.scores", ()))
    if len(scores) != len(table.tokens):
        raise CheckpointError("wrong number of token scores", where=file.path)
    return build_sentencepiece_bpe(
        table, scores.tolist(), add_prefix_space=bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    )


IMPORTER = Importer(title="GGUF", recognizes=recognizes, read=read, extra="gguf")
