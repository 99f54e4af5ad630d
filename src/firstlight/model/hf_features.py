"""Keys of config.json that change what a model computes: which values are supported, and which keys are not read."""

from collections.abc import Mapping
from typing import Any

from firstlight import progress
from firstlight.errors import CheckpointError

# Keys that change the computation, with the only supported values; the first is the default.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "is_causal": (True,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "per_layer_config": (None, {}),
    "tie_word_embeddings": (True, False),
}
_SUPPORTED_ACTIVATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt1": {"afn": ("gelu",)},
    "llama": {"hidden_act": ("silu", "swish")},
    "modern": {"hidden_act": ("silu", "swish")},
}
# Keys that change the computation of other classes. Those of our families do not read them.
_OTHER_CLASSES = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "clip_qkv",
    "alibi",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "rotary_pct",
    "rotary_dim",
    "no_rope_layers",
    "use_qk_norm",
    "qk_layernorm",
    "parallel_attn",
    "use_parallel_residual",
    "multi_query",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "hidden_activation",
)
# Keys that only some of our families read.
_NOT_READ = {
    "gpt1": ("activation_function", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "hidden_act"),
    "gpt2": ("rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "hidden_act", "layer_norm_eps"),
    "gpt3": ("rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "hidden_act", "layer_norm_eps"),
    "llama": ("sliding_window", "use_sliding_window", "activation_function", "layer_norm_eps"),
    "modern": ("activation_function", "layer_norm_eps"),
}
_NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, "", [], {})


def check_features(family: str, hf_class: str, table: Mapping[str, Any], where: object) -> None:
    """Refuse values that the family does not support, and warn of keys that its class does not read.

    Args:
        family: of the model.
        hf_class: its class in transformers.
        table: config.json.
        where: its path.

    Raises:
        CheckpointError: a value is not supported; names the key.
    """
    for key, values in {**_SUPPORTED, **_SUPPORTED_ACTIVATIONS.get(family, {})}.items():
        found = table.get(key, values[0])
        if found not in values:
            expected = " or ".join(str(value) for value in values if value is not None)
            raise CheckpointError("unsupported feature", where=f"{where}: {key}", found=found, expected=expected)
    ignored = [key for key in (*_OTHER_CLASSES, *_NOT_READ[family]) if table.get(key) not in _NEUTRAL]
    if family == "llama" and any(kind != "full_attention" for kind in table.get("layer_types") or ()):
        ignored.append("layer_types")
    if ignored:
        progress.warn(f"{where}: {', '.join(ignored)}: ignored, as by {hf_class} of transformers")
