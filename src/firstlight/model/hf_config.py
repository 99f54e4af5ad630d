"""The model that a config.json of transformers describes."""

from collections.abc import Mapping
from typing import Any, Literal

from firstlight.errors import CheckpointError
from firstlight.model.config import ModelConfig, RopeScaling
from firstlight.model.hf_state_dict import GELU, HF_CLASSES


def from_hf_config(table: Mapping[str, Any], *, where: object = "config.json") -> ModelConfig:
    """Return the model that a config.json describes.

    Raises:
        CheckpointError: another kind of model, or a feature that no family has; names the key.
    """
    kind = table.get("model_type")
    family = next((f for f, (name, _) in HF_CLASSES.items() if name == kind), None)
    if family is None:
        known = ", ".join(name for name, _ in HF_CLASSES.values())
        raise CheckpointError(
            "holds a model of another kind", where=where, found=f"model_type {kind!r}", expected=known
        )
    try:
        _refuse(table, where)
        if family in ("llama", "modern"):
            return _from_llama(family, table, where)
        if family == "gpt3":
            return _from_neo(table, where)
        return ModelConfig(
            family="gpt1" if family == "gpt1" else "gpt2",
            n_layer=table["n_layer"],
            n_head=table["n_head"],
            n_embd=table["n_embd"],
            d_ff=table.get("n_inner"),
            vocab_size=table["vocab_size"],
            block_size=table["n_positions"],
            norm_eps=table["layer_norm_epsilon"],
            dropout=table.get("resid_pdrop", 0.0),
            gelu=_gelu_of(table, where),
            tie_embeddings=table.get("tie_word_embeddings", True),
            init_std=table.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise CheckpointError("lacks a key", where=where, expected=error.args[0]) from error


# Keys that would change what is computed, with the only value that a family has.
_ONLY: dict[str, Any] = {
    "afn": "gelu",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def _refuse(table: Mapping[str, Any], where: object) -> None:
    for key, value in _ONLY.items():
        found = table.get(key, value)
        if found != value:
            raise CheckpointError(
                "uses a feature that no family has", where=f"{where}: {key}", found=found, expected=value
            )


def _gelu_of(table: Mapping[str, Any], where: object) -> Literal["tanh", "erf"]:
    found = table.get("activation_function", "gelu_new")
    if found == GELU["erf"]:
        return "erf"
    # Two names of the tanh form.
    if found not in (GELU["tanh"], "gelu_pytorch_tanh"):
        raise CheckpointError(
            "uses a feature that no family has",
            where=f"{where}: activation_function",
            found=found,
            expected=" or ".join(GELU.values()),
        )
    return "tanh"


def _from_llama(family: str, table: Mapping[str, Any], where: object) -> ModelConfig:
    key = "rope_parameters" if table.get("rope_parameters") else "rope_scaling"
    rope = table.get(key) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3") or rope.get("partial_rotary_factor", 1) != 1:
        raise CheckpointError("turns positions in a way that no family does", where=f"{where}: {key}", found=rope)
    return ModelConfig(
        family="llama" if family == "llama" else "modern",
        n_layer=table["num_hidden_layers"],
        n_head=table["num_attention_heads"],
        n_kv_head=table.get("num_key_value_heads") or table["num_attention_heads"],
        n_embd=table["hidden_size"],
        d_head=table.get("head_dim") or table["hidden_size"] // table["num_attention_heads"],
        d_ff=table["intermediate_size"],
        vocab_size=table["vocab_size"],
        block_size=table["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or table.get("rope_theta") or 10_000.0),
        rope_scaling=_scaling(kind, rope),
        norm_eps=table["rms_norm_eps"],
        tie_embeddings=bool(table.get("tie_word_embeddings", False)),
        init_std=table.get("initializer_range", 0.02),
    )


def _scaling(kind: str, rope: Mapping[str, Any]) -> RopeScaling | None:
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(factor=rope["factor"])
    return RopeScaling(
        factor=rope["factor"],
        original=rope["original_max_position_embeddings"],
        low=rope["low_freq_factor"],
        high=rope["high_freq_factor"],
    )


def _from_neo(table: Mapping[str, Any], where: object) -> ModelConfig:
    pattern = [kind for kinds, n in table["attention_types"] for _ in range(n) for kind in kinds]
    wanted = ["local" if i % 2 else "global" for i in range(table["num_layers"])]
    if pattern[: len(wanted)] != wanted:
        raise CheckpointError(
            "has another order of global and local layers",
            where=f"{where}: attention_types",
            found=pattern,
            expected=wanted,
        )
    return ModelConfig(
        family="gpt3",
        n_layer=table["num_layers"],
        n_head=table["num_heads"],
        n_embd=table["hidden_size"],
        d_ff=table.get("intermediate_size") or 4 * table["hidden_size"],
        vocab_size=table["vocab_size"],
        block_size=table["max_position_embeddings"],
        window=table["window_size"],
        norm_eps=table["layer_norm_epsilon"],
        dropout=table.get("resid_dropout", 0.0),
        gelu=_gelu_of(table, where),
        tie_embeddings=table.get("tie_word_embeddings", True),
        init_std=table.get("initializer_range", 0.02),
    )
