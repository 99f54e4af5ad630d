"""What our weights are in Keras: layers by name, each with its arrays in order.

Keras keeps a matrix as input × output, and those of attention with heads as an axis: (C, H, D) for queries, (H, D, C)
for what goes out. KerasHub's GPT-2 has the same arrays under other names.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.model import GPT, ModelConfig

FOLDER = "firstlight"  # in the archive of a .keras file: what is ours, where Keras does not look
WEIGHTS = "model.weights.h5"

_TABLES = ("embed", "positions")  # whose rows are looked up

# KerasHub's layers of GPT-2: of the whole, and in each block.
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
    """Return the layer's name: Keras allows no dots."""
    return module.replace(".", "_")


def to_keras(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return each layer's arrays, of weights in our names."""
    layers: dict[str, list[Tensor]] = {}
    for name, tensor in _apart(config, state).items():
        module, _, kind = name.rpartition(".")
        layers.setdefault(layer_name(module), []).append(_turned(config, module, kind, tensor))
    return layers


def from_keras(config: ModelConfig, layers: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Return weights in our names, of each layer's arrays."""
    with torch.device("meta"):
        names = list(GPT(config).state_dict())
    state = {}
    for name in names:
        module, _, kind = name.rpartition(".")
        parts = [_back(part, kind, layers[layer_name(part)][("weight", "bias").index(kind)]) for part in _parts(module)]
        state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state


def _parts(module: str) -> list[str]:
    """Return the modules that one of ours is in Keras."""
    before, _, last = module.rpartition(".")
    apart = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
    return [f"{before}.{part}" for part in apart[last]] if last in apart else [module]


def _apart(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    D = config.head_dim
    rows = {3: [config.n_head * D, config.kv_heads * D, config.kv_heads * D], 2: [config.ffn_dim] * 2}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        parts = _parts(module)
        pieces = torch.split(tensor, rows[len(parts)]) if len(parts) > 1 else (tensor,)
        found |= {f"{part}.{kind}": piece for part, piece in zip(parts, pieces, strict=True)}
    return found


def _turned(config: ModelConfig, module: str, kind: str, tensor: Tensor) -> Tensor:
    D = config.head_dim
    if module.endswith((".q", ".k", ".v")):
        return tensor.reshape(-1, D, config.n_embd).permute(2, 0, 1) if kind == "weight" else tensor.reshape(-1, D)
    if tensor.ndim != 2 or module in _TABLES:
        return tensor
    return tensor.t().reshape(-1, D, config.n_embd) if module.endswith(".out") else tensor.t()


def _back(module: str, kind: str, tensor: Tensor) -> Tensor:
    if module.endswith((".q", ".k", ".v")):
        return tensor.permute(1, 2, 0).flatten(0, 1) if kind == "weight" else tensor.flatten()
    if kind == "bias" or tensor.ndim == 1 or module in _TABLES:
        return tensor
    return tensor.flatten(0, -2).t()
