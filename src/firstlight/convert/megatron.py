"""Megatron-LM's checkpoints: import and export of the families gpt2, llama and modern, on one rank.

The layout is that of ``--ckpt-format torch`` with ``--transformer-impl local``: OUT/release/mp_rank_00/
model_optim_rng.pt, whose ``args`` are read by ``--use-checkpoint-args``. The fused weight of q, k and v is ordered by
query group. Source: NVIDIA/Megatron-LM, megatron/core/models/gpt and megatron/training/checkpointing.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.formats import Exporter, Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config, refuse_surplus
from firstlight.convert.torch_file import load, state_dict_of
from firstlight.errors import CheckpointError, UsageError
from firstlight.files import write_atomic
from firstlight.lm import LM, GenerationConfig, text_files
from firstlight.model import ModelConfig, to_hf_state_dict
from firstlight.tokenizer import load as load_tokenizer

_TRACKER, _FILE = "latest_checkpointed_iteration.txt", "mp_rank_00/model_optim_rng.pt"
# Arguments that change the computation, with the only supported value, which is Megatron's default.
_SUPPORTED: dict[str, Any] = {
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
    "rotary_seq_len_interpolation_factor": None,
    "use_rope_scaling": False,
    "apply_layernorm_1p": False,
    "apply_residual_connection_post_layernorm": False,
    "squared_relu": False,
    "num_experts": None,
    "multi_latent_attention": False,
    "window_size": None,
    "softmax_scale": None,
}
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


def recognizes(path: Path) -> bool:
    """Whether a folder has the file that names Megatron-LM's latest checkpoint."""
    return (path / _TRACKER).is_file()


def write(lm: LM, folder: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a checkpoint, and the tokenizer for ``--tokenizer-type HuggingFaceTokenizer``.

    Raises:
        UsageError: Megatron-LM has no model of this family.
    """
    del dtype
    c = lm.config
    if c.family not in ("gpt2", "llama", "modern"):
        raise UsageError(f"Megatron-LM has no model of the family {c.family}", where=lm.source)
    if c.rope_scaling is not None:
        raise UsageError("RoPE scaling is not supported in exports to Megatron-LM", where=lm.source)
    if c.rotary and c.rope_theta != int(c.rope_theta):
        raise UsageError(
            "Megatron-LM takes whole numbers only for rotary_base", where=lm.source, found=f"rope_theta {c.rope_theta}"
        )
    weights = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in _to_megatron(c, to_hf_state_dict(lm.model)).items()
    }
    checkpoint = {
        "args": argparse.Namespace(**_args(c)),
        "checkpoint_version": 3.0,
        "iteration": 0,
        "model": weights,
        "num_floating_point_operations_so_far": 0,
    }
    file = folder / "release" / _FILE
    file.parent.mkdir(parents=True)
    torch.save(checkpoint, file)
    if lm.tokenizer is not None:
        for name, text in text_files(lm.config, lm.tokenizer, lm.generation).items():
            if name != "config.json":  # Megatron-LM takes the sizes from its own arguments
                write_atomic(folder / "tokenizer" / name, text)
    (folder / _TRACKER).write_text("release", encoding="utf-8")
    return {"checkpoint": folder, "weights": file}


def read(folder: Path) -> ImportedModel:
    """Read a checkpoint of one rank.

    Raises:
        CheckpointError: it is damaged, of several ranks, or its args contain more than plain values.
        TokenizerError: its tokenizer is damaged.
    """
    named = (folder / _TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    part = named if named == "release" else f"iter_{int(named):07d}" if named.isdecimal() else None
    if part is None or not (folder / part / _FILE).is_file():
        raise CheckpointError(
            "does not name a checkpoint of one rank", where=folder / _TRACKER, found=named[:40], expected=_FILE
        )
    file = folder / part / _FILE
    checkpoint = load(file, extra_classes=[argparse.Namespace])
    namespace = checkpoint.get("args") if isinstance(checkpoint, dict) else None
    if not isinstance(namespace, argparse.Namespace):
        raise CheckpointError("not a checkpoint of Megatron-LM", where=file, expected="args and model")
    weights = state_dict_of(checkpoint.get("model"), file)
    config = _config(file, vars(namespace), weights)
    tokenizer = folder / "tokenizer"
    return ImportedModel(
        "Megatron-LM",
        config,
        _from_megatron(config, weights, file),
        load_tokenizer(tokenizer) if tokenizer.is_dir() else None,
        {"imported from": f"Megatron-LM {folder.name}"},
        GenerationConfig.read(tokenizer, {}, config.vocab_size or 0),
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
        "openai_gelu": c.choice("mlp") == "gelu_tanh",
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
            raise CheckpointError(
                "missing or invalid argument", where=f"{file}: args", found=args.get(key), expected=key
            )
        return args[key]

    rotary = get("position_embedding_type", str) == "rope"
    norm = "RMSNorm" if rotary else "LayerNorm"
    for key, value in {**_SUPPORTED, "normalization": norm, "swiglu": rotary}.items():
        if args.get(key, value) != value:
            raise CheckpointError("unsupported argument", where=f"{file}: args.{key}", found=args[key], expected=value)
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
        raise CheckpointError("fewer weights than its layers need", where=file, found=len(weights))
    if not rotary:
        # The fused kernel, which is Megatron's default, computes the tanh approximation too.
        is_tanh = args.get("openai_gelu") or args.get("bias_gelu_fusion", True)
        return model_config(file, **sizes, mlp="gelu_tanh" if is_tanh else "gelu")
    kv = get("num_query_groups", int) if args.get("group_query_attention") else sizes["n_head"]
    return model_config(
        file, **sizes, n_kv_head=kv, d_head=get("kv_channels", int), rope_theta=float(args.get("rotary_base", 10_000))
    )


def _names(c: ModelConfig) -> dict[str, str]:
    """Map transformers' names to Megatron's, for weights that are a single one in both."""
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
            f"{block}.{i}.{hf_name}.{kind}": f"decoder.layers.{i}.{name}.{kind}"
            for hf_name, name in parts.items()
            for kind in kinds
        }
    return table if c.tied else {**table, "lm_head.weight": _HEAD}


def _to_megatron(c: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    converted = {}
    for hf_name, name in _names(c).items():
        tensor = weights[hf_name]
        # Conv1D stores weights as (input, output).
        tensor = tensor.t() if c.family == "gpt2" and ".h." in hf_name and tensor.ndim == 2 else tensor
        converted[name] = _to_query_groups(c, tensor) if "linear_qkv" in name else tensor
    if c.family != "gpt2":
        for i in range(c.n_layer):
            hf_layer, layer = f"model.layers.{i}", f"decoder.layers.{i}"
            qkv = torch.cat([weights[f"{hf_layer}.{name}"] for name in _QKV])
            converted[f"{layer}.self_attention.linear_qkv.weight"] = _to_query_groups(c, qkv)
            converted[f"{layer}.mlp.linear_fc1.weight"] = torch.cat([weights[f"{hf_layer}.{n}"] for n in _GATE_UP])
    return converted


def _from_megatron(c: ModelConfig, weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    used = set[str]()

    def get(name: str) -> Tensor:
        if name not in weights:
            raise CheckpointError("missing weight", where=file, expected=name)
        used.add(name)
        return finite_fp32(f"{file}: {name}", weights[name])

    converted = {}
    for hf_name, name in _names(c).items():
        tensor = get(name)
        tensor = _from_query_groups(c, tensor, file) if "linear_qkv" in name else tensor
        converted[hf_name] = tensor.t() if c.family == "gpt2" and ".h." in hf_name and tensor.ndim == 2 else tensor
    if c.family != "gpt2":
        D, H, K = c.head_dim, c.n_head, c.kv_heads
        for i in range(c.n_layer):
            hf_layer, layer = f"model.layers.{i}", f"decoder.layers.{i}"
            rows = _from_query_groups(c, get(f"{layer}.self_attention.linear_qkv.weight"), file)
            qkv = torch.split(rows, [H * D, K * D, K * D])
            fc1 = get(f"{layer}.mlp.linear_fc1.weight")
            if len(fc1) != 2 * c.ffn_dim:
                raise CheckpointError("wrong width of an MLP", where=file, found=tuple(fc1.shape))
            converted |= {f"{hf_layer}.{name}": part for name, part in zip(_QKV, qkv, strict=True)}
            converted |= {f"{hf_layer}.{name}": part for name, part in zip(_GATE_UP, fc1.chunk(2), strict=True)}
    if c.tied and _HEAD in weights and not torch.equal(get(_HEAD), get(_EMBED)):
        raise CheckpointError("has a head that differs from the embedding to which its args tie it", where=file)
    # Transformer Engine keeps its state among the weights.
    refuse_surplus((n for n in weights if n not in used and not n.endswith(("_extra_state", "inv_freq"))), file)
    return converted


def _to_query_groups(c: ModelConfig, qkv: Tensor) -> Tensor:
    """Reorder the rows of a fused weight from all q, all k, all v to (queries, key, value) of each group."""
    D, K = c.head_dim, c.kv_heads
    q, k, v = torch.split(qkv, [c.n_head * D, K * D, K * D])
    rest = qkv.shape[1:]
    parts = [q.reshape(K, -1, *rest), k.reshape(K, D, *rest), v.reshape(K, D, *rest)]
    return torch.cat(parts, 1).reshape(qkv.shape)


def _from_query_groups(c: ModelConfig, grouped: Tensor, file: Path) -> Tensor:
    """Invert ``_to_query_groups``."""
    D, K = c.head_dim, c.kv_heads
    q = c.n_head // K * D
    if len(grouped) != K * (q + 2 * D):
        raise CheckpointError("wrong shape of the fused query, key and value", where=file, found=tuple(grouped.shape))
    parts = torch.split(grouped.reshape(K, q + 2 * D, *grouped.shape[1:]), [q, D, D], 1)
    return torch.cat([part.reshape(-1, *grouped.shape[1:]) for part in parts])


EXPORTER = Exporter(title="Megatron-LM", write=write, is_folder=True)
IMPORTER = Importer(title="Megatron-LM", recognizes=recognizes, read=read)
