"""Map our weights to Keras: layers by name, each with its arrays in order.

Keras stores weights as (input, output), and those of attention with an axis of heads: (C, H, D) for queries, (H, D, C)
for the output projection. KerasHub's GPT-2 has the same arrays under other names.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.model import GPT, ModelConfig

FOLDER = "firstlight"  # in a .keras archive: the config and the tokenizer; Keras ignores it
WEIGHTS = "model.weights.h5"

_EMBEDDINGS = ("embed", "positions")

# KerasHub's names of GPT-2's layers, outside of the blocks and in each block.
HUB_LAYERS = {
    "embed": "reversible_embedding",
    "positions": "position_embedding",
    "norm": "layer_normalization",
    "norm1": "_self_attention_layer_norm",
    "attention_q": "_self_attention_layer/query_dense",
    "attention_k": "_self_attention_layer/key_dense",
    "attention_v": "_self_attention_layer/value_dense",
    "attention_out": "_self_attention_layer/output_dense",
    "norm2": "_feedforward_layer_norm",
    "mlp_up": "_feedforward_intermediate_dense",
    "mlp_down": "_feedforward_output_dense",
}


def layer_name(module: str) -> str:
    """Return the name of a module's layer, without dots, as Keras requires."""
    return module.replace(".", "_")


def to_keras(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Convert a state dict of ours to the arrays of each Keras layer."""
    layers: dict[str, list[Tensor]] = {}
    for name, tensor in _split_fused(config, state).items():
        module, _, kind = name.rpartition(".")
        layers.setdefault(layer_name(module), []).append(_to_keras_layout(config, module, kind, tensor))
    return layers


def from_keras(config: ModelConfig, layers: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Convert the arrays of each Keras layer to a state dict of ours."""
    with torch.device("meta"):
        names = list(GPT(config).state_dict())
    state = {}
    for name in names:
        module, _, kind = name.rpartition(".")
        index = ("weight", "bias").index(kind)
        parts = [_from_keras_layout(part, kind, layers[layer_name(part)][index]) for part in _parts(module)]
        state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state


def _parts(module: str) -> list[str]:
    """Return the modules that a module is in Keras, where fused ones are separate."""
    parent, _, name = module.rpartition(".")
    fused = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
    return [f"{parent}.{part}" for part in fused[name]] if name in fused else [module]


def _split_fused(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    D = config.head_dim
    rows = {3: [config.n_head * D, config.kv_heads * D, config.kv_heads * D], 2: [config.ffn_dim] * 2}
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        parts = _parts(module)
        pieces = torch.split(tensor, rows[len(parts)]) if len(parts) > 1 else (tensor,)
        split |= {f"{part}.{kind}": piece for part, piece in zip(parts, pieces, strict=True)}
    return split


def _to_keras_layout(config: ModelConfig, module: str, kind: str, tensor: Tensor) -> Tensor:
    D = config.head_dim
    if module.endswith((".q", ".k", ".v")):
        return tensor.reshape(-1, D, config.n_embd).permute(2, 0, 1) if kind == "weight" else tensor.reshape(-1, D)
    if tensor.ndim != 2 or module in _EMBEDDINGS:
        return tensor
    return tensor.t().reshape(-1, D, config.n_embd) if module.endswith(".out") else tensor.t()


def _from_keras_layout(module: str, kind: str, tensor: Tensor) -> Tensor:
    if module.endswith((".q", ".k", ".v")):
        return tensor.permute(1, 2, 0).flatten(0, 1) if kind == "weight" else tensor.flatten()
    if kind == "bias" or tensor.ndim == 1 or module in _EMBEDDINGS:
        return tensor
    return tensor.flatten(0, -2).t()
