"""Megatron-LM's checkpoints, in and out: families gpt2, llama and modern, on one rank.

The layout is that of ``--ckpt-format torch`` with ``--transformer-impl local``: OUT/release/mp_rank_00/
model_optim_rng.pt, whose ``args`` serve ``--use-checkpoint-args``. Rows of q, k and v stand together group by group.
Source: NVIDIA/Megatron-LM, megatron/core/models/gpt and megatron/training/checkpointing.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.imported_model import ImportedModel, finite, shape
from firstlight.convert.torch_file import load, tensors_of
from firstlight.errors import CheckpointError, UsageError
from firstlight.files import apply_umask, storage_errors, write_atomic
from firstlight.lm import LM
from firstlight.model import ModelConfig, to_hf_state_dict
from firstlight.tokenizer import load as load_tokenizer

TRACKER, FILE = "latest_checkpointed_iteration.txt", "mp_rank_00/model_optim_rng.pt"
_EMBED, _HEAD = "embedding.word_embeddings.weight", "output_layer.weight"

_GPT2 = {
    "ln_1": "input_layernorm",
    "attn.c_attn": "self_attention.linear_qkv",
    "attn.c_proj": "self_attention.linear_proj",
    "ln_2": "pre_mlp_layernorm",
    "mlp.c_fc": "mlp.linear_fc1",
    "mlp.c_proj": "mlp.linear_fc2",
}
_LLAMA = {
    "input_layernorm": "input_layernorm",
    "self_attn.o_proj": "self_attention.linear_proj",
    "post_attention_layernorm": "pre_mlp_layernorm",
    "mlp.down_proj": "mlp.linear_fc2",
}
_QK_NORM = {"self_attn.q_norm": "self_attention.q_layernorm", "self_attn.k_norm": "self_attention.k_layernorm"}
_QKV = [f"self_attn.{n}_proj.weight" for n in "qkv"]
_GATE_UP = ["mlp.gate_proj.weight", "mlp.up_proj.weight"]


def write(lm: LM, path: Path) -> dict[str, str]:
    """Write a checkpoint of Megatron-LM, with the tokenizer for ``--tokenizer-type HuggingFaceTokenizer`` beside it.

    Raises:
        UsageError: a family that Megatron-LM has no model for.
        StorageError: the disk is full or read-only.
    """
    c = lm.config
    if c.family not in ("gpt2", "llama", "modern"):
        raise UsageError(f"Megatron-LM has no model of the family {c.family}", where=lm.source)
    if c.rope_scaling is not None:
        raise UsageError("stretched positions are not written for Megatron-LM", where=lm.source)
    held = to_hf_state_dict(lm.model)
    weights = {theirs: tensor.detach().float().cpu().contiguous() for theirs, tensor in _to_megatron(c, held).items()}
    table = {
        "args": argparse.Namespace(**_args(c)),
        "checkpoint_version": 3.0,
        "iteration": 0,
        "model": weights,
        "num_floating_point_operations_so_far": 0,
    }
    file = path / "release" / FILE
    with storage_errors(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(table, file)
        apply_umask(file)
    if lm.tokenizer is not None:
        lm.tokenizer.save(path / "tokenizer")
    write_atomic(path / TRACKER, "release")
    return {"checkpoint": str(path), "weights": str(file)}


def read(folder: Path) -> ImportedModel:
    """Read such a checkpoint.

    Raises:
        CheckpointError: it is damaged, of several ranks, or its args hold other things than plain values.
        TokenizerError: the tokenizer beside it is damaged.
    """
    named = (folder / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    part = named if named == "release" else f"iter_{int(named):07d}" if named.isdecimal() else None
    if part is None or not (folder / part / FILE).is_file():
        raise CheckpointError(
            "names no checkpoint of one rank", where=folder / TRACKER, found=named[:40], expected=FILE
        )
    file = folder / part / FILE
    held = load(file, also=[argparse.Namespace])
    args = vars(held["args"]) if isinstance(held, dict) and isinstance(held.get("args"), argparse.Namespace) else None
    if args is None:
        raise CheckpointError("is no checkpoint of Megatron-LM", where=file, expected="args and model")
    weights = tensors_of(held.get("model"), file)
    config = _config(file, args, weights)
    words = folder / "tokenizer"
    return ImportedModel(
        "Megatron-LM",
        config,
        _from_megatron(config, weights, file),
        load_tokenizer(words) if words.is_dir() else None,
        {"imported from": f"Megatron-LM {folder.name}"},
    )


def _args(c: ModelConfig) -> dict[str, Any]:
    return {
        "num_layers": c.n_layer,
        "hidden_size": c.n_embd,
        "ffn_hidden_size": c.ffn_dim,
        "num_attention_heads": c.n_head,
        "group_query_attention": c.kv_heads != c.n_head,
        "num_query_groups": c.kv_heads,
        "kv_channels": c.head_dim,
        "seq_length": c.block_size,
        "max_position_embeddings": c.block_size,
        "padded_vocab_size": c.vocab_size,
        "position_embedding_type": "rope" if c.rotary else "learned_absolute",
        "rotary_base": int(c.rope_theta),
        "rotary_percent": 1.0,
        "add_position_embedding": not c.rotary,
        "swiglu": c.gated,
        "normalization": "RMSNorm" if c.rotary else "LayerNorm",
        "norm_epsilon": c.eps,
        "layernorm_epsilon": c.eps,
        "add_bias_linear": not c.rotary,
        "add_qkv_bias": not c.rotary,
        "qk_layernorm": c.family == "modern",
        "untie_embeddings_and_output_weights": not c.tied,
        "openai_gelu": not c.gated and c.gelu == "tanh",
        "transformer_impl": "local",
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "make_vocab_size_divisible_by": 1,
        "bias_gelu_fusion": False,
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
        "iteration": 0,
    }


def _config(file: Path, args: Mapping[str, Any], weights: dict[str, Tensor]) -> ModelConfig:
    def get(key: str, kind: type) -> Any:
        if not isinstance(args.get(key), kind) or (kind is int and args[key] <= 0):
            raise CheckpointError("lacks a setting", where=f"{file}: args", found=args.get(key), expected=key)
        return args[key]

    rotary = get("position_embedding_type", str) == "rope"
    sizes: dict[str, Any] = {
        "family": ("modern" if args.get("qk_layernorm") else "llama") if rotary else "gpt2",
        "n_layer": get("num_layers", int),
        "n_head": get("num_attention_heads", int),
        "n_embd": get("hidden_size", int),
        "d_ff": get("ffn_hidden_size", int),
        "block_size": get("max_position_embeddings", int),
        "vocab_size": get("padded_vocab_size", int),
        "norm_eps": float(get("norm_epsilon", float)),
        "tie_embeddings": not args.get("untie_embeddings_and_output_weights"),
    }
    if sizes["n_layer"] > len(weights):
        raise CheckpointError("has fewer weights than its layers need", where=file, found=len(weights))
    if not rotary:
        return shape(file, **sizes, gelu="tanh" if args.get("openai_gelu") else "erf")
    kv = get("num_query_groups", int) if args.get("group_query_attention") else sizes["n_head"]
    return shape(
        file, **sizes, n_kv_head=kv, d_head=get("kv_channels", int), rope_theta=float(args.get("rotary_base", 10_000))
    )


def _names(c: ModelConfig) -> dict[str, str]:
    """Return Megatron's names by transformers', where one is the other."""
    if c.family == "gpt2":
        table = {
            "transformer.wte.weight": _EMBED,
            "transformer.wpe.weight": "embedding.position_embeddings.weight",
            "transformer.ln_f.weight": "decoder.final_layernorm.weight",
            "transformer.ln_f.bias": "decoder.final_layernorm.bias",
        }
        block, parts, kinds = "transformer.h", _GPT2, ["weight", "bias"]
    else:
        table = {"model.embed_tokens.weight": _EMBED, "model.norm.weight": "decoder.final_layernorm.weight"}
        block, kinds = "model.layers", ["weight"]
        parts = _LLAMA | (_QK_NORM if c.family == "modern" else {})
    for i in range(c.n_layer):
        table |= {
            f"{block}.{i}.{ours}.{kind}": f"decoder.layers.{i}.{theirs}.{kind}"
            for ours, theirs in parts.items()
            for kind in kinds
        }
    return table if c.tied else {**table, "lm_head.weight": _HEAD}


def _to_megatron(c: ModelConfig, held: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for ours, theirs in _names(c).items():
        tensor = held[ours]
        # Conv1D keeps weights as input × output.
        tensor = tensor.t() if c.family == "gpt2" and ".h." in ours and tensor.ndim == 2 else tensor
        made[theirs] = _grouped(c, tensor) if "linear_qkv" in theirs else tensor
    if c.family != "gpt2":
        for i in range(c.n_layer):
            here, there = f"model.layers.{i}", f"decoder.layers.{i}"
            qkv = torch.cat([held[f"{here}.{name}"] for name in _QKV])
            made[f"{there}.self_attention.linear_qkv.weight"] = _grouped(c, qkv)
            made[f"{there}.mlp.linear_fc1.weight"] = torch.cat([held[f"{here}.{name}"] for name in _GATE_UP])
    return made


def _from_megatron(c: ModelConfig, held: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    def get(name: str) -> Tensor:
        if name not in held:
            raise CheckpointError("a weight is missing", where=file, expected=name)
        return finite(f"{file}: {name}", held[name])

    made = {}
    for ours, theirs in _names(c).items():
        tensor = get(theirs)
        tensor = _parted(c, tensor, file) if "linear_qkv" in theirs else tensor
        made[ours] = tensor.t() if c.family == "gpt2" and ".h." in ours and tensor.ndim == 2 else tensor
    if c.family != "gpt2":
        D, n, kv = c.head_dim, c.n_head, c.kv_heads
        for i in range(c.n_layer):
            here, there = f"model.layers.{i}", f"decoder.layers.{i}"
            rows = _parted(c, get(f"{there}.self_attention.linear_qkv.weight"), file)
            qkv = torch.split(rows, [n * D, kv * D, kv * D])
            fc1 = get(f"{there}.mlp.linear_fc1.weight")
            if len(fc1) != 2 * c.ffn_dim:
                raise CheckpointError("has an MLP of another width", where=file, found=tuple(fc1.shape))
            made |= {f"{here}.{name}": part for name, part in zip(_QKV, qkv, strict=True)}
            made |= {f"{here}.{name}": part for name, part in zip(_GATE_UP, fc1.chunk(2), strict=True)}
    return made


def _grouped(c: ModelConfig, qkv: Tensor) -> Tensor:
    """Return the rows of q, k and v (each as a whole) group by group: its queries, its key, its value."""
    D, K = c.head_dim, c.kv_heads
    q, k, v = torch.split(qkv, [c.n_head * D, K * D, K * D])
    rest = qkv.shape[1:]
    parts = [q.reshape(K, -1, *rest), k.reshape(K, D, *rest), v.reshape(K, D, *rest)]
    return torch.cat(parts, 1).reshape(qkv.shape)


def _parted(c: ModelConfig, grouped: Tensor, file: Path) -> Tensor:
    """Undo ``_grouped``."""
    D, K = c.head_dim, c.kv_heads
    q = c.n_head // K * D
    if len(grouped) != K * (q + 2 * D):
        raise CheckpointError("has queries of another shape", where=file, found=tuple(grouped.shape))
    parts = torch.split(grouped.reshape(K, q + 2 * D, *grouped.shape[1:]), [q, D, D], 1)
    return torch.cat([part.reshape(-1, *grouped.shape[1:]) for part in parts])
