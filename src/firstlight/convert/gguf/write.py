"""Export to GGUF, for llama.cpp: families gpt2, llama and modern, with byte-level BPE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from firstlight import progress
from firstlight.convert.formats import Exporter
from firstlight.convert.gguf.names import (
    CHAT_TEMPLATE,
    ENDS,
    FAMILIES,
    NO_MERGES,
    PRE_TOKENIZERS,
    ROPE_FACTORS,
    permute_qk,
    rope_factors,
    tensor_names,
)
from firstlight.errors import UsageError
from firstlight.lm import LM
from firstlight.model import ModelConfig, to_hf_state_dict
from firstlight.tokenizer import BpeComponents, Tokenizer

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # types of tokens
_FIX = "Choose another format: onnx supports every model."


def write(lm: LM, path: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a GGUF file.

    Args:
        lm: the model.
        path: of the file.
        dtype: f32, f16 or q8_0; norms, biases and position embeddings stay in f32, as in llama.cpp's own files.

    Raises:
        UsageError: llama.cpp does not support the model or the tokenizer.
    """
    import gguf  # an extra

    dtype = dtype or "f32"
    architecture, config = _architecture(lm), lm.config
    tokenizer = _supported_tokenizer(lm)
    file = gguf.GGUFWriter(path, architecture)
    for key, value in (_model_metadata(config, architecture) | _tokenizer_metadata(lm, tokenizer)).items():
        _add(file, key, value)
    file.add_file_type(_FILE_TYPES[dtype])
    for name, tensor in _weights(lm).items():
        _add_tensor(file, name, tensor, dtype)
    scaling = config.rope_scaling
    if scaling is not None and scaling.original is not None:
        file.add_tensor(ROPE_FACTORS, rope_factors(scaling, config.head_dim, config.rope_theta))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return {"model": path}


def _architecture(lm: LM) -> str:
    architecture = next((name for name, family in FAMILIES.items() if family == lm.config.family), None)
    if architecture is None:
        raise UsageError(f"llama.cpp has no model of the family {lm.config.family}", where=lm.source, fix=_FIX)
    if lm.config.choice("mlp") == "gelu":
        raise UsageError("llama.cpp's gpt2 supports only the tanh approximation of GELU", where=lm.source, fix=_FIX)
    return architecture


def _supported_tokenizer(lm: LM) -> Tokenizer:
    tokenizer = lm.tokenizer
    if tokenizer is None or tokenizer.kind not in ("bpe", "byte"):
        kind = "none" if tokenizer is None else tokenizer.kind
        raise UsageError(
            "only byte-level BPE can be exported to GGUF",
            where=lm.source,
            found=f"tokenizer {kind}",
            expected="bpe or byte",
            fix=_FIX,
        )
    if tokenizer.vocab_size > (lm.config.vocab_size or 0):
        raise UsageError("the tokenizer has more tokens than the model", where=lm.source, fix=_FIX)
    return tokenizer


def _model_metadata(c: ModelConfig, architecture: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "block_count": c.n_layer,
        "context_length": c.block_size,
        "embedding_length": c.n_embd,
        "feed_forward_length": c.ffn_dim,
        "attention.head_count": c.n_head,
        "vocab_size": c.vocab_size,
    }
    if c.rotary:
        values |= {
            "attention.head_count_kv": c.kv_heads,
            "attention.key_length": c.head_dim,
            "attention.value_length": c.head_dim,
            "rope.dimension_count": c.head_dim,
            "rope.freq_base": float(c.rope_theta),
            "attention.layer_norm_rms_epsilon": float(c.eps),
        }
        if c.rope_scaling is not None and c.rope_scaling.original is None:
            values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(c.rope_scaling.factor)}
    else:
        values["attention.layer_norm_epsilon"] = float(c.eps)
    return {f"{architecture}.{key}": value for key, value in values.items()}


def _tokenizer_metadata(lm: LM, tokenizer: Tokenizer) -> dict[str, Any]:
    facts, tokens, V = tokenizer.bpe_components(), tokenizer.tokens(), lm.config.vocab_size or 0
    pre_tokenizer = None if facts is None else _pre_tokenizer(facts)
    if facts is None or pre_tokenizer is None:
        raise UsageError(
            "llama.cpp does not support the pre-tokenizer of this tokenizer",
            where="tokenizer",
            found=None if facts is None else " | ".join(facts.patterns)[:80],
            expected=", ".join(PRE_TOKENIZERS),
            fix=_FIX,
        )
    types = [
        _UNUSED
        if not token
        else _CONTROL
        if i in facts.special_ids
        else _USER_DEFINED
        if i in facts.added_ids
        else _NORMAL
        for i, token in enumerate(tokens)
    ]
    # A model may have more rows than its tokenizer has tokens.
    padded = [token or f"<|unused_{i}|>" for i, token in enumerate(tokens)]
    padded += [f"<|unused_{i}|>" for i in range(len(tokens), V)]
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre_tokenizer,
        "tokens": padded,
        "token_type": types + [_UNUSED] * (V - len(tokens)),
        "merges": [f"{a} {b}" for a, b in facts.merges] or [NO_MERGES],
        **_ends(lm, tokenizer),
        "bos_token_id": tokenizer.eot_id if tokenizer.named_bos_id is None else tokenizer.named_bos_id,
        **({} if tokenizer.pad_id is None else {"padding_token_id": tokenizer.pad_id}),
        "add_bos_token": tokenizer.bos_id is not None,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    table = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    templates = tokenizer.chat_templates
    named = {f"{CHAT_TEMPLATE}.{name}": template for name, template in templates.items() if name != "default"}
    default = {CHAT_TEMPLATE: templates["default"]} if "default" in templates else {}
    listed = {f"{CHAT_TEMPLATE}s": [key.removeprefix(f"{CHAT_TEMPLATE}.") for key in named]} if named else {}
    return {**table, **default, **listed, **named}


def _ends(lm: LM, tokenizer: Tokenizer) -> dict[str, int]:
    """Return the tokens that end a text by llama.cpp's keys: end of text first, then those of a turn and a message."""
    first = lm.generation.ids.get("eos_token_id")
    main = first if isinstance(first, int) else tokenizer.eot_id
    ids = [main, *sorted(lm.eos_ids - {main})]
    if len(ids) > len(ENDS):
        progress.notice(
            f"GGUF has keys for {len(ENDS)} tokens that end a text: left out are "
            + ", ".join(f"{tokenizer.tokens()[i]!r}" for i in ids[len(ENDS) :] if i < tokenizer.vocab_size)
        )
    return {f"{name}_token_id": i for name, i in zip(ENDS, ids, strict=False)}


def _pre_tokenizer(facts: BpeComponents) -> str | None:
    """Return llama.cpp's name of the pre-tokenizer; without merges every pre-tokenizer gives the same ids."""
    if not facts.merges:
        return "gpt-2"
    name = next((name for name, patterns in PRE_TOKENIZERS.items() if list(patterns) == facts.patterns), None)
    # Of these only llama-bpe looks up whole words before it applies merges (ignore_merges).
    return None if facts.ignore_merges and name != "llama-bpe" else name


def _weights(lm: LM) -> Mapping[str, Tensor]:
    state, weights = to_hf_state_dict(lm.model), {}
    for hf_name, name in tensor_names(lm.config).items():
        tensor = state[hf_name]
        if lm.config.family == "llama" and hf_name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = permute_qk(tensor, lm.config.head_dim, to_hf=False)
        # Conv1D stores weights as (input, output).
        weights[name] = tensor.t() if lm.config.family == "gpt2" and ".h." in hf_name and tensor.ndim == 2 else tensor
    return weights


def _add(file: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        file.add_bool(key, value)
    elif isinstance(value, int):
        file.add_uint32(key, value)
    elif isinstance(value, float):
        file.add_float32(key, value)
    elif isinstance(value, str):
        file.add_string(key, value)
    else:
        file.add_array(key, value)


def _add_tensor(file: Any, name: str, tensor: Tensor, dtype: str) -> None:
    # An extra, see write.
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    if dtype == "f32" or values.ndim == 1 or name == "position_embd.weight":
        file.add_tensor(name, values)
    elif dtype == "f16" or values.shape[-1] % 32:
        file.add_tensor(name, values.astype(np.float16))  # rows that are not whole blocks cannot be quantized
    else:
        quantized = quantize(values, GGMLQuantizationType.Q8_0)
        file.add_tensor(name, quantized, raw_dtype=GGMLQuantizationType.Q8_0)


EXPORTER = Exporter(title="GGUF", write=write, dtypes=tuple(_FILE_TYPES), extra="gguf", modules=("gguf",))
