"""Our names and transformers' names for the same model, both ways, and its config.json.

A map is a list of rules; each says which tensor of transformers' is which part of ours, and whether
it stands transposed there (GPT-1's and GPT-2's Conv1D keep weights as input × output).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight.errors import CheckpointError
from firstlight.model.config import ModelConfig
from firstlight.model.gpt import GPT

# Angles that a config.json may ask for: two million positions of width 128. No tensor holds them, so none bounds them.
_MOST_ANGLES = 1 << 28
HEADS_FILE = "heads.safetensors"  # beside model.safetensors, where a model has heads of tasks

GELU = {"tanh": "gelu_new", "erf": "gelu"}
HF_CLASSES = {
    "gpt1": ("openai-gpt", "OpenAIGPTLMHeadModel"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gpt3": ("gpt_neo", "GPTNeoForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "modern": ("qwen3", "Qwen3ForCausalLM"),
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """Our tensor is these of theirs, stacked by rows; ``{}`` stands for the layer's number."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def _conv_rules(block: str, tail: dict[str, str]) -> list[_Rule]:
    """GPT-1 and GPT-2: fused c_attn, Conv1D everywhere."""
    names = [
        ("attention.qkv", "attn.c_attn", True),
        ("attention.out", "attn.c_proj", True),
        ("mlp.up", "mlp.c_fc", True),
        ("mlp.down", "mlp.c_proj", True),
        ("norm1", "ln_1", False),
        ("norm2", "ln_2", False),
    ]
    rules = [
        _Rule(f"blocks.{{}}.{ours}.{kind}", (f"{block}.{{}}.{theirs}.{kind}",), turned and kind == "weight")
        for ours, theirs, turned in names
        for kind in ("weight", "bias")
    ]
    return rules + [_Rule(ours, (theirs,)) for ours, theirs in tail.items()]


def _neo_rules() -> list[_Rule]:
    block, attention = "transformer.h.{}", "transformer.h.{}.attn.attention"
    rules = [
        _Rule("blocks.{}.attention.qkv.weight", tuple(f"{attention}.{n}_proj.weight" for n in "qkv")),
    ]
    names = [
        ("attention.out", f"{attention}.out_proj"),
        ("mlp.up", f"{block}.mlp.c_fc"),
        ("mlp.down", f"{block}.mlp.c_proj"),
        ("norm1", f"{block}.ln_1"),
        ("norm2", f"{block}.ln_2"),
    ]
    rules += [_Rule(f"blocks.{{}}.{o}.{kind}", (f"{t}.{kind}",)) for o, t in names for kind in ("weight", "bias")]
    return rules + [_Rule(o, (t,)) for o, t in _GPT2_TAIL.items()]


def _llama_rules(qk_norm: bool) -> list[_Rule]:
    block = "model.layers.{}"
    rules = [
        _Rule("blocks.{}.attention.qkv.weight", tuple(f"{block}.self_attn.{n}_proj.weight" for n in "qkv")),
        _Rule("blocks.{}.attention.out.weight", (f"{block}.self_attn.o_proj.weight",)),
        _Rule("blocks.{}.mlp.gate_up.weight", (f"{block}.mlp.gate_proj.weight", f"{block}.mlp.up_proj.weight")),
        _Rule("blocks.{}.mlp.down.weight", (f"{block}.mlp.down_proj.weight",)),
        _Rule("blocks.{}.norm1.weight", (f"{block}.input_layernorm.weight",)),
        _Rule("blocks.{}.norm2.weight", (f"{block}.post_attention_layernorm.weight",)),
        _Rule("embed.weight", ("model.embed_tokens.weight",)),
        _Rule("norm.weight", ("model.norm.weight",)),
    ]
    if qk_norm:
        rules += [
            _Rule(f"blocks.{{}}.attention.{n}_norm.weight", (f"{block}.self_attn.{n}_norm.weight",)) for n in "qk"
        ]
    return rules


_GPT2_TAIL = {
    "embed.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}
_GPT1_TAIL = {
    "embed.weight": "transformer.tokens_embed.weight",
    "positions.weight": "transformer.positions_embed.weight",
}


def _rules(config: ModelConfig) -> list[_Rule]:
    """Return the rules of one model, layer by layer."""
    makers: dict[str, Callable[[], list[_Rule]]] = {
        "gpt1": lambda: _conv_rules("transformer.h", _GPT1_TAIL),
        "gpt2": lambda: _conv_rules("transformer.h", _GPT2_TAIL),
        "gpt3": _neo_rules,
        "llama": lambda: _llama_rules(False),
        "modern": lambda: _llama_rules(True),
    }
    general = makers[config.family]()
    rules = []
    for rule in general:
        layers = range(config.n_layer) if "{}" in rule.ours else [None]
        rules += [
            rule if i is None else _Rule(rule.ours.format(i), tuple(t.format(i) for t in rule.theirs), rule.transposed)
            for i in layers
        ]
    if not config.tied:
        rules.append(_Rule("head.weight", ("lm_head.weight",)))
    return rules


def to_hf_state_dict(model: GPT) -> dict[str, Tensor]:
    """Return the weights in transformers' names; views where that is possible, a tied head once."""
    folded = {"embed.weight": model.embed.weight.detach()} if model.factors else {}
    return tensors_to_hf(model.config, {**model.state_dict(), **folded})


def tensors_to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in our names in transformers'."""
    exported: dict[str, Tensor] = {}
    for rule in _rules(config):
        ours = state[rule.ours]
        parts = torch.split(ours, _part_rows(config, rule)) if len(rule.theirs) > 1 else (ours,)
        for name, part in zip(rule.theirs, parts, strict=True):
            exported[name] = part.t() if rule.transposed else part
    return exported | {name: tensor for name, tensor in state.items() if name.startswith("heads.")}


def hf_parameter_names(config: ModelConfig, ours: str) -> tuple[tuple[str, ...], list[int], bool]:
    """Return what one of our matrices is in transformers: names, rows of each if several, and whether it is turned."""
    rule = next(rule for rule in _rules(config) if rule.ours == ours)
    return rule.theirs, _part_rows(config, rule) if len(rule.theirs) > 1 else [], rule.transposed


def from_hf_state_dict(config: ModelConfig, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return our weights from transformers' names, and the heads of tasks; buffers and a tied head's copy are left out.

    Args:
        config: the model.
        state: tensors by name; they may be made when they are asked for.

    Raises:
        CheckpointError: a tensor is missing, or has another shape than the model.
    """
    if config.n_layer > len(state):
        # Before anything is built that a damaged config.json asks for.
        raise CheckpointError("has fewer weights than its layers need", found=len(state), expected=config.n_layer)
    if config.rotary and config.block_size * config.head_dim > _MOST_ANGLES:
        raise CheckpointError(
            "has an absurd number of positions",
            found=f"{config.block_size:,} of width {config.head_dim:,}",
            expected=f"{_MOST_ANGLES:,} angles at most",
        )
    with torch.device("meta"):
        expected = {k: v.shape for k, v in GPT(config.complete(config.vocab_size or 1)).state_dict().items()}
    ours: dict[str, Tensor] = {}
    for rule in _rules(config):
        parts = []
        for name in rule.theirs:
            found = state.get(name, state.get(name.removeprefix("transformer.").removeprefix("model.")))
            if found is None:
                raise CheckpointError(
                    "a weight is missing", where=name, found=", ".join(sorted(state)[:4]) + " …", expected=name
                )
            parts.append(found.t() if rule.transposed else found)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if whole.shape != expected[rule.ours]:
            raise CheckpointError(
                "a weight has another shape than config.json says",
                where=" + ".join(rule.theirs),
                found=tuple(whole.shape),
                expected=tuple(expected[rule.ours]),
            )
        ours[rule.ours] = whole.contiguous()
    return ours | {name: tensor for name, tensor in state.items() if name.startswith("heads.")}


def _rope(c: ModelConfig) -> dict[str, Any]:
    scaling, table = c.rope_scaling, {"rope_type": "default", "rope_theta": c.rope_theta}
    if scaling is None:
        return table
    if scaling.original is None:
        return {**table, "rope_type": "linear", "factor": scaling.factor}
    return {
        **table,
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original,
    }


def _part_rows(config: ModelConfig, rule: _Rule) -> list[int]:
    D = config.head_dim
    if "qkv" in rule.ours:
        return [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    return [config.ffn_dim, config.ffn_dim]


def to_hf_config(config: ModelConfig, *, eot_id: int | None) -> dict[str, Any]:
    """Return the config.json of this model."""
    c = config
    model_type, architecture = HF_CLASSES[c.family]
    common: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": c.vocab_size,
        "dtype": "float32",
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "pad_token_id": None,
        "tie_word_embeddings": c.tied,
        "use_cache": True,
        "initializer_range": c.init_std,
    }
    if c.rotary:
        table = {
            **common,
            "hidden_size": c.n_embd,
            "intermediate_size": c.ffn_dim,
            "num_hidden_layers": c.n_layer,
            "num_attention_heads": c.n_head,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "max_position_embeddings": c.block_size,
            "rms_norm_eps": c.eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rope_theta": c.rope_theta,
            "rope_parameters": _rope(c),
        }
        if c.family == "llama":
            return {**table, "mlp_bias": False}
        return {**table, "use_sliding_window": False, "layer_types": ["full_attention"] * c.n_layer}
    if c.family == "gpt3":
        return {
            **common,
            "hidden_size": c.n_embd,
            "intermediate_size": c.ffn_dim,
            "num_layers": c.n_layer,
            "num_heads": c.n_head,
            "max_position_embeddings": c.block_size,
            "window_size": c.window,
            "attention_types": [[["global", "local"], c.n_layer // 2], *([[["global"], 1]] if c.n_layer % 2 else [])],
            "layer_norm_epsilon": c.eps,
            "activation_function": GELU[c.gelu],
            "embed_dropout": c.dropout,
            "attention_dropout": c.dropout,
            "resid_dropout": c.dropout,
        }
    sizes = {
        "n_positions": c.block_size,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "layer_norm_epsilon": c.eps,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
    }
    if c.family == "gpt1":
        return {**common, **sizes, "afn": "gelu"}
    return {**common, **sizes, "n_inner": c.ffn_dim, "activation_function": GELU[c.gelu]}
