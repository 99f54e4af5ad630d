"""Conversion between our parameter names and those of transformers.

A mapping is a list of rules; each says which tensors of transformers are which of ours, and whether they are
transposed there (the Conv1D of GPT-1 and GPT-2 stores weights as input x output).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight import progress
from firstlight.errors import CheckpointError
from firstlight.model.config import ModelConfig
from firstlight.model.gpt import GPT
from firstlight.model.hf_config import hf_mismatch
from firstlight.model.skip_init import skip_init

# Rotary angles that a config.json may request. Unlike learned positions, they are not bounded by the size of a stored
# tensor: so many for any model (131,072 positions of width 128), otherwise one per weight, up to two million positions.
_MIN_ANGLES, _MAX_ANGLES = 1 << 24, 1 << 28
# Tensors in published files that are not weights of the language model: masks and rotary angles that old versions of
# transformers and nanoGPT saved, and the head of a sequence classifier.
_MASKS = re.compile(r"(.+\.)?(attn|attention)\.(masked_)?bias")
_KNOWN_BUFFERS = re.compile(
    r"(.+\.)?rotary_emb\.((original_)?inv_freq|cos_cached|sin_cached)|(.+\.)?position_ids|score\.(weight|bias)"
)
_HEAD = "lm_head.weight"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,9})\.")
HEADS_FILE = "heads.safetensors"  # next to model.safetensors, for a model with heads of fine-tuned tasks


@dataclass(frozen=True, slots=True)
class _Rule:
    """One of our tensors, and those of transformers that are its rows; ``{}`` is replaced by the layer."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def _conv1d_rules(block: str, tail: dict[str, str]) -> list[_Rule]:
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
        _Rule(f"blocks.{{}}.{ours}.{kind}", (f"{block}.{{}}.{theirs}.{kind}",), is_conv1d and kind == "weight")
        for ours, theirs, is_conv1d in names
        for kind in ("weight", "bias")
    ]
    return rules + [_Rule(ours, (theirs,)) for ours, theirs in tail.items()]


def _gpt_neo_rules() -> list[_Rule]:
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
_RULES = {
    "gpt1": _conv1d_rules("transformer.h", _GPT1_TAIL),
    "gpt2": _conv1d_rules("transformer.h", _GPT2_TAIL),
    "gpt3": _gpt_neo_rules(),
    "llama": _llama_rules(False),
    "modern": _llama_rules(True),
}


def _rules(config: ModelConfig) -> list[_Rule]:
    """Return the rules of one model, layer by layer."""
    if hf_mismatch(config) is not None:  # there are no other names
        return [_Rule(name, (name,)) for name in _shapes(config)]
    rules = []
    for rule in _RULES[config.family]:
        layers = range(config.n_layer) if "{}" in rule.ours else [None]
        rules += [
            rule if i is None else _Rule(rule.ours.format(i), tuple(t.format(i) for t in rule.theirs), rule.transposed)
            for i in layers
        ]
    if not config.tied:
        rules.append(_Rule("head.weight", (_HEAD,)))
    return rules


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shapes of a model's tensors without allocating them."""
    with torch.device("meta"), skip_init():
        return {k: v.shape for k, v in GPT(config.complete(config.vocab_size or 1)).state_dict().items()}


def to_hf_state_dict(model: GPT) -> dict[str, Tensor]:
    """Return the weights under the names of transformers; as views where possible, a tied head once.

    Models that no transformers class can express (``hf_mismatch``) keep our names.
    """
    folded = {"embed.weight": model.embed.weight.detach()} if model.factors else {}
    return tensors_to_hf(model.config, {**model.state_dict(), **folded})


def tensors_to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of our names under the names of transformers."""
    exported: dict[str, Tensor] = {}
    for rule in _rules(config):
        ours = state[rule.ours]
        parts = torch.split(ours, _split_rows(config, rule)) if len(rule.theirs) > 1 else (ours,)
        for name, part in zip(rule.theirs, parts, strict=True):
            exported[name] = part.t() if rule.transposed else part
    return exported | {name: tensor for name, tensor in state.items() if name.startswith("heads.")}


def hf_parameter_names(config: ModelConfig, ours: str) -> tuple[tuple[str, ...], list[int], bool]:
    """Return a matrix's names in transformers, the rows of each if several, and whether it is transposed there."""
    rule = next(rule for rule in _rules(config) if rule.ours == ours)
    return rule.theirs, _split_rows(config, rule) if len(rule.theirs) > 1 else [], rule.transposed


def from_hf_state_dict(config: ModelConfig, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return our weights, and heads of fine-tuned tasks, from those of transformers.

    Known buffers (``is_known_buffer``) and the copy of a tied head are left out.

    Args:
        config: the model.
        state: tensors by name; may be a lazy mapping.

    Raises:
        CheckpointError: a tensor is missing, its shape does not match ``config``, or ``config`` has no place for it; or
            its head differs from the embedding that it is tied to.
    """
    if config.n_layer > len(state):
        # Checked before a damaged config.json can make us build anything.
        raise CheckpointError("has fewer weights than layers", found=len(state), expected=str(config.n_layer)[:24])
    _check_sizes(config, state)
    shapes = _shapes(config)
    ours: dict[str, Tensor] = {}
    used = set[str]()
    for rule in _rules(config):
        parts = []
        for name in rule.theirs:
            short = name.removeprefix("transformer.").removeprefix("model.")
            stored = name if name in state else short
            found = state.get(stored)
            used.add(stored)
            if found is None:
                raise CheckpointError(
                    "missing weight", where=name, found=", ".join(sorted(state)[:4]) + " …", expected=name
                )
            parts.append(found.t() if rule.transposed else found)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if whole.shape != shapes[rule.ours]:
            raise CheckpointError(
                "weight shape does not match config.json",
                where=" + ".join(rule.theirs),
                found=tuple(whole.shape),
                expected=tuple(shapes[rule.ours]),
            )
        ours[rule.ours] = whole.contiguous()
    if config.tied and _HEAD in state:
        used.add(_HEAD)
        if not torch.equal(state[_HEAD], ours["embed.weight"]):
            raise CheckpointError(
                "has a head that differs from the embedding to which its config ties it",
                where=_HEAD,
                fix="Correct the config or the file: only one of the two can be right.",
            )
    _check_surplus(config, [name for name in state if name not in used and not is_known_buffer(name, state[name])])
    return ours | {name: tensor for name, tensor in state.items() if name.startswith("heads.")}


def match_tied_head(
    config: ModelConfig, state: Mapping[str, Tensor], where: object
) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Decide whether head and embedding are one matrix as transformers does: by the weights, where they differ.

    A model whose config ties the two, and whose file has different ones, is not tied; one with the head alone has it as
    its embedding.

    Args:
        config: the model.
        state: tensors by transformers' names.
        where: the file, for the warning.
    """
    if not config.tied or _HEAD not in state or hf_mismatch(config) is not None:
        return config, state
    name = next(rule.theirs[0] for rule in _RULES[config.family] if rule.ours == "embed.weight")
    stored = next((n for n in (name, name.partition(".")[2]) if n in state), None)
    if stored is None:
        return config, {**state, name: state[_HEAD]}
    if config.family == "gpt1" or torch.equal(state[_HEAD], state[stored]):  # gpt1 has no head of its own
        return config, state
    progress.warn(
        f"{where}: {_HEAD} differs from {stored}, although tie_word_embeddings is true: not tied, as by transformers"
    )
    return config.model_copy(update={"tie_embeddings": False}), state


def is_known_buffer(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a published file is known not to be a weight of the language model.

    A causal mask has the name of a bias, but four axes, or none for the value of masked positions.
    """
    is_mask = tensor.ndim in (0, 4) and _MASKS.fullmatch(name) is not None
    return is_mask or _KNOWN_BUFFERS.fullmatch(name) is not None


def _check_sizes(config: ModelConfig, state: Mapping[str, Any]) -> None:
    """Refuse sizes in a config.json that no weights support, before anything of these sizes is built."""
    if not isinstance(state, dict):  # a lazy mapping, whose reader has compared the sizes
        n_weights = _MAX_ANGLES
    else:
        n_weights = sum(tensor.numel() for tensor in state.values())
        largest = max(config.n_embd, config.n_head, config.kv_heads, config.head_dim, config.ffn_dim)
        if largest > n_weights:
            raise CheckpointError(
                "has fewer weights than config.json needs", found=n_weights, expected=str(largest)[:24]
            )
    n_angles = max(_MIN_ANGLES, min(_MAX_ANGLES, n_weights))
    if config.rotary and config.block_size * config.head_dim > n_angles:
        raise CheckpointError(
            "too many positions",
            found=f"{config.block_size:,} of width {config.head_dim:,}",
            expected=f"at most {n_angles:,} angles",
        )


def _check_surplus(config: ModelConfig, names: list[str]) -> None:
    """Refuse tensors that the model has no place for: without them it would be another model."""
    surplus = [name for name in names if not name.startswith("heads.")]
    if not surplus:
        return
    layers = [int(match[1]) for name in surplus if (match := _LAYER.search(name))]
    if layers and max(layers) >= config.n_layer:
        raise CheckpointError(
            "has weights of more layers than config.json",
            found=f"{max(layers) + 1} layers",
            expected=config.n_layer,
            fix="Correct the number of layers in config.json.",
        )
    more = f" and {len(surplus) - 4} more" if len(surplus) > 4 else ""
    raise CheckpointError(
        "has weights that the model of config.json has no place for",
        found=", ".join(sorted(surplus)[:4]) + more,
        fix="Correct config.json, or remove these tensors from the file if the model works without them.",
    )


def _split_rows(config: ModelConfig, rule: _Rule) -> list[int]:
    D = config.head_dim
    if "qkv" in rule.ours:
        return [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    return [config.ffn_dim, config.ffn_dim]
