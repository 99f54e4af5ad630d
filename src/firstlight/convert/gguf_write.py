"""A model as a GGUF file, which llama.cpp runs: families gpt2, llama and modern, with byte-level BPE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from firstlight.convert.gguf_names import FAMILIES, NO_MERGES, PRE, ROPE_FACTORS, names, qk_turned, rope_factors
from firstlight.errors import MissingExtra, UsageError
from firstlight.files import atomic_file
from firstlight.lm import LM
from firstlight.model import ModelConfig, to_hf_state_dict
from firstlight.tokenizer import BpeFacts, Tokenizer

_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
_FIX = "Choose another format: onnx takes every model."


def write(lm: LM, path: Path, kind: str = "f32") -> dict[str, str]:
    """Write a GGUF file.

    Args:
        lm: the model.
        path: the file.
        kind: f32, f16 or q8_0; norms, biases and positions stay in f32, as llama.cpp has them.

    Raises:
        UsageError: llama.cpp has no such model or tokenizer; says which part.
        MissingExtra: the package for the format is not installed.
        StorageError: the disk is full or read-only.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("writing a GGUF file", "gguf") from error
    architecture, config = _architecture(lm), lm.config
    tokenizer = _checked(lm)
    with atomic_file(path) as temporary:
        file = gguf.GGUFWriter(temporary, architecture)
        for key, value in (_shape(config, architecture) | _words(tokenizer, config)).items():
            _add(file, key, value)
        file.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
        for name, tensor in _weights(lm).items():
            _add_tensor(file, name, tensor, kind)
        scaling = config.rope_scaling
        if scaling is not None and scaling.original is not None:
            file.add_tensor(ROPE_FACTORS, rope_factors(scaling, config.head_dim, config.rope_theta))
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()
    return {"model": str(path)}


def _architecture(lm: LM) -> str:
    found = next((theirs for theirs, ours in FAMILIES.items() if ours == lm.config.family), None)
    if found is None:
        raise UsageError(f"llama.cpp has no model of the family {lm.config.family}", where=lm.source, fix=_FIX)
    if lm.config.gelu == "erf":
        raise UsageError("llama.cpp's gpt2 has GELU in its tanh form only", where=lm.source, fix=_FIX)
    return found


def _checked(lm: LM) -> Tokenizer:
    tokenizer = lm.tokenizer
    if tokenizer is None or tokenizer.kind not in ("bpe", "byte"):
        kind = "none" if tokenizer is None else tokenizer.kind
        raise UsageError(
            "GGUF takes byte-level BPE only",
            where=lm.source,
            found=f"tokenizer {kind}",
            expected="bpe or byte",
            fix=_FIX,
        )
    if tokenizer.vocab_size > (lm.config.vocab_size or 0):
        raise UsageError("the tokenizer has more tokens than the model", where=lm.source, fix=_FIX)
    return tokenizer


def _shape(c: ModelConfig, architecture: str) -> dict[str, Any]:
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


def _words(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    facts, tokens, V = tokenizer.bpe_facts(), tokenizer.tokens(), config.vocab_size or 0
    pre = None if facts is None else _pre(facts)
    if facts is None or pre is None:
        raise UsageError(
            "llama.cpp does not know how this tokenizer cuts text into words",
            where="tokenizer",
            found=None if facts is None else " | ".join(facts.patterns)[:80],
            expected=", ".join(PRE),
            fix=_FIX,
        )
    kinds = [
        _UNUSED if not token else _CONTROL if i in facts.special else _USER if i in facts.added else _NORMAL
        for i, token in enumerate(tokens)
    ]
    # A model may have more rows than its tokenizer has tokens.
    padded = [token or f"<|unused_{i}|>" for i, token in enumerate(tokens)]
    padded += [f"<|unused_{i}|>" for i in range(len(tokens), V)]
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": padded,
        "token_type": kinds + [_UNUSED] * (V - len(tokens)),
        "merges": [f"{a} {b}" for a, b in facts.merges] or [NO_MERGES],
        "eos_token_id": tokenizer.eot_id,
        "bos_token_id": tokenizer.eot_id if tokenizer.begin_id is None else tokenizer.begin_id,
        "add_bos_token": tokenizer.begin_id is not None,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    table = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return table if tokenizer.chat_template is None else {**table, "tokenizer.chat_template": tokenizer.chat_template}


def _pre(facts: BpeFacts) -> str | None:
    """Return llama.cpp's name for how words are cut; without merges every cut gives the same bytes."""
    if not facts.merges:
        return "gpt-2"
    found = next((name for name, patterns in PRE.items() if list(patterns) == facts.patterns), None)
    # Of these only llama-bpe takes a word that is a token as it is.
    return None if facts.whole_words and found != "llama-bpe" else found


def _weights(lm: LM) -> Mapping[str, Tensor]:
    held, weights = to_hf_state_dict(lm.model), {}
    for ours, theirs in names(lm.config).items():
        tensor = held[ours]
        if lm.config.family == "llama" and ours.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = qk_turned(tensor, lm.config.head_dim, back=False)
        # Conv1D keeps weights as input × output.
        weights[theirs] = tensor.t() if lm.config.family == "gpt2" and ".h." in ours and tensor.ndim == 2 else tensor
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


def _add_tensor(file: Any, name: str, tensor: Tensor, kind: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    if kind == "f32" or values.ndim == 1 or name == "position_embd.weight":
        file.add_tensor(name, values)
    elif kind == "f16" or values.shape[-1] % 32:
        file.add_tensor(name, values.astype(np.float16))  # a row is no whole number of blocks
    else:
        stored = quantize(values, GGMLQuantizationType.Q8_0)
        file.add_tensor(name, stored, raw_dtype=GGMLQuantizationType.Q8_0)
