"""Conversion between ModelConfig and the config.json of transformers.

A model that no transformers class can express (other positions, norms or MLPs than its family's) is saved with the
model type ``firstlight`` and the fields of ModelConfig, which transformers refuses by name.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from firstlight.errors import CheckpointError
from firstlight.model.config import FAMILIES, ModelConfig
from firstlight.model.hf_features import check_features
from firstlight.model.hf_rope import read_rope, rope_parameters
from firstlight.model.parts import Part

HF_CLASSES = {
    "gpt1": ("openai-gpt", "OpenAIGPTLMHeadModel"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gpt3": ("gpt_neo", "GPTNeoForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "modern": ("qwen3", "Qwen3ForCausalLM"),
}
FIRSTLIGHT_CLASS = ("firstlight", "FirstlightForCausalLM")  # of models that no class of transformers can express

# Other names of keys that transformers' classes accept.
_GPT2_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_ALIASES: dict[str, dict[str, str]] = {
    "gpt1": _GPT2_ALIASES,
    "gpt2": _GPT2_ALIASES,
    "gpt3": {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
}
# Values of transformers' classes where config.json lacks the key.
_LAYER_NORM_EPS = 1e-5
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "num_key_value_heads": None,
        "head_dim": None,
    },
    "modern": {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32_768,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
}

_MAX_LAYERS = 10_000  # of attention_types that are compared; models have fewer
_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
# MLPs other than the family's default that its transformers class can express.
_OTHER_MLPS = {"gpt2": ["gelu"], "gpt3": ["gelu"]}


def hf_mismatch(config: ModelConfig) -> str | None:
    """Return which setting keeps the family's transformers class from expressing a model, or None."""
    for part in get_args(Part):
        allowed = [getattr(FAMILIES[config.family], part)]
        allowed += _OTHER_MLPS.get(config.family, []) if part == "mlp" else []
        if config.choice(part) not in allowed:
            return f"model.{part}={config.choice(part)}, where the family {config.family} has {' or '.join(allowed)}"
    return None


def from_hf_config(table: Mapping[str, Any], *, where: object = "config.json") -> ModelConfig:
    """Build the ModelConfig that a config.json describes.

    Raises:
        CheckpointError: an unsupported model type or feature; names the key.
    """
    model_type = table.get("model_type")
    family = next((f for f, (name, _) in HF_CLASSES.items() if name == model_type), None)
    if family is None and model_type != FIRSTLIGHT_CLASS[0]:
        raise CheckpointError(
            "unsupported model type",
            where=where,
            found=f"model_type {model_type!r}",
            expected=", ".join(name for name, _ in HF_CLASSES.values()),
        )
    try:
        if family is None:
            return ModelConfig(**{name: table[name] for name in ModelConfig.model_fields})
        table = _rename_aliases(table, family)
        check_features(family, HF_CLASSES[family][1], table, where)
        if family in ("llama", "modern"):
            return _from_llama(family, table, where)
        if family == "gpt3":
            return _from_gpt_neo(table, where)
        return ModelConfig(
            family="gpt1" if family == "gpt1" else "gpt2",
            n_layer=table["n_layer"],
            n_head=table["n_head"],
            n_embd=table["n_embd"],
            d_ff=table.get("n_inner"),
            vocab_size=table["vocab_size"],
            block_size=table["n_positions"],
            norm_eps=table.get("layer_norm_epsilon", _LAYER_NORM_EPS),
            dropout=table.get("resid_pdrop", 0.0),
            mlp=_gelu(table, where),
            tie_embeddings=table.get("tie_word_embeddings", True),
            init_std=table.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise CheckpointError("missing key", where=where, expected=error.args[0]) from error


def _rename_aliases(table: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Rename the other names of keys that transformers' class has; where a file has both, these win."""
    aliases = _ALIASES.get(family, {})
    renamed = {name: value for name, value in table.items() if name not in aliases}
    return renamed | {aliases[name]: value for name, value in table.items() if name in aliases}


def _gelu(table: Mapping[str, Any], where: object) -> Literal["gelu_tanh", "gelu"]:
    found = table.get("activation_function", "gelu_new")
    if found == _ACTIVATIONS["gelu"]:
        return "gelu"
    # Two names of the tanh form.
    if found not in (_ACTIVATIONS["gelu_tanh"], "gelu_pytorch_tanh"):
        raise CheckpointError(
            "unsupported feature",
            where=f"{where}: activation_function",
            found=found,
            expected=" or ".join(_ACTIVATIONS.values()),
        )
    return "gelu_tanh"


def _from_llama(family: str, table: Mapping[str, Any], where: object) -> ModelConfig:
    table = {**_DEFAULTS[family], **table}
    if family == "modern":
        _check_full_attention(table, where)
    rope_theta, rope_scaling = read_rope(table, where)
    n_kv_head, d_head = table["num_key_value_heads"], table["head_dim"]
    return ModelConfig(
        family="llama" if family == "llama" else "modern",
        n_layer=table["num_hidden_layers"],
        n_head=table["num_attention_heads"],
        n_kv_head=table["num_attention_heads"] if n_kv_head is None else n_kv_head,
        n_embd=table["hidden_size"],
        d_head=table["hidden_size"] // table["num_attention_heads"] if d_head is None else d_head,
        d_ff=table["intermediate_size"],
        vocab_size=table["vocab_size"],
        block_size=table["max_position_embeddings"],
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        norm_eps=table["rms_norm_eps"],
        tie_embeddings=table.get("tie_word_embeddings", False),
        init_std=table.get("initializer_range", 0.02),
    )


def _check_full_attention(table: Mapping[str, Any], where: object) -> None:
    """Refuse layers with a sliding window."""
    n_layer = table["num_hidden_layers"]
    key = "layer_types"
    layers = table.get(key)
    if layers is None:
        key = "use_sliding_window"
        has_window = table.get(key) and table.get("sliding_window", 4096) is not None
        n_full = table.get("max_window_layers", 28) if has_window else n_layer
        layers = ["full_attention"] if n_full >= n_layer else ["sliding_attention"]
    other = next((kind for kind in layers if kind != "full_attention"), None)
    if other is not None:
        raise CheckpointError(
            "unsupported feature", where=f"{where}: {key}", found=other, expected="full attention in all layers"
        )


def _attention_layers(attention_types: Any, n_layer: int) -> list[str]:
    """Expand ``[[kinds, count], …]`` to the kind of each layer, without those beyond the last layer."""
    n_layer = min(n_layer, _MAX_LAYERS)
    layers: list[str] = []
    for kinds, n in attention_types:
        missing = max(0, n_layer - len(layers))
        layers += list(kinds) * min(n, -(-missing // max(1, len(kinds))))
    return layers[:n_layer]


def _from_gpt_neo(table: Mapping[str, Any], where: object) -> ModelConfig:
    layers = table.get("attention_layers") or _attention_layers(table["attention_types"], table["num_layers"])
    layers = list(layers)[:_MAX_LAYERS]
    alternating = ["local" if i % 2 else "global" for i in range(len(layers))]
    if len(layers) < min(table["num_layers"], _MAX_LAYERS) or layers != alternating:
        raise CheckpointError(
            "unsupported order of global and local layers",
            where=f"{where}: attention_types",
            found=str(table["attention_types"])[:80],
            expected=f"global and local in turn, for {table['num_layers']} layers",
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
        norm_eps=table.get("layer_norm_epsilon", _LAYER_NORM_EPS),
        dropout=table.get("resid_dropout", 0.0),
        mlp=_gelu(table, where),
        tie_embeddings=table.get("tie_word_embeddings", True),
        init_std=table.get("initializer_range", 0.02),
    )


def to_hf_config(config: ModelConfig, *, eot_id: int | None) -> dict[str, Any]:
    """Build the config.json of a model.

    Args:
        config: complete.
        eot_id: the end-of-text token, if the vocabulary has one.
    """
    c = config
    model_type, architecture = HF_CLASSES[c.family] if hf_mismatch(c) is None else FIRSTLIGHT_CLASS
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
    if model_type == FIRSTLIGHT_CLASS[0]:
        return {**common, **c.model_dump(mode="json")}
    if c.family in ("llama", "modern"):
        return {**common, **_llama_table(c)}
    if c.family == "gpt3":
        return {**common, **_gpt_neo_table(c)}
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
    return {**common, **sizes, "n_inner": c.ffn_dim, "activation_function": _ACTIVATIONS[c.choice("mlp")]}


def _llama_table(c: ModelConfig) -> dict[str, Any]:
    table = {
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
        "rope_parameters": rope_parameters(c),
    }
    if c.family == "llama":
        return {**table, "mlp_bias": False}
    return {**table, "use_sliding_window": False, "layer_types": ["full_attention"] * c.n_layer}


def _gpt_neo_table(c: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": c.n_embd,
        "intermediate_size": c.ffn_dim,
        "num_layers": c.n_layer,
        "num_heads": c.n_head,
        "max_position_embeddings": c.block_size,
        "window_size": c.window,
        "attention_types": [[["global", "local"], c.n_layer // 2], *([[["global"], 1]] if c.n_layer % 2 else [])],
        "layer_norm_epsilon": c.eps,
        "activation_function": _ACTIVATIONS[c.choice("mlp")],
        "embed_dropout": c.dropout,
        "attention_dropout": c.dropout,
        "resid_dropout": c.dropout,
    }
