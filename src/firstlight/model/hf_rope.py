"""Rotary positions in the config.json of transformers.

Their parameters are in ``rope_parameters`` since transformers 5, in ``rope_scaling`` and ``rope_theta`` before. Where a
file has both, this module reads what transformers 5 does (``convert_rope_params_to_dict`` in configuration_utils.py).
"""

from collections.abc import Mapping
from typing import Any

from firstlight import progress
from firstlight.errors import CheckpointError
from firstlight.model.config import ModelConfig, RopeScaling

_DEFAULT_THETA = 10_000.0
# What each type reads, besides rope_type and rope_theta.
_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def read_rope(table: Mapping[str, Any], where: object) -> tuple[float, RopeScaling | None]:
    """Return the base of the rotary frequencies and their scaling.

    Args:
        table: config.json.
        where: its path, for error messages.

    Raises:
        CheckpointError: a type that is not supported, or a missing or invalid value; names the key.
    """
    # rope_scaling replaces rope_parameters as a whole, with its rope_theta.
    key = "rope_scaling" if table.get("rope_scaling") else "rope_parameters"
    rope = table.get(key) or {}
    where = f"{where}: {key}"
    if not isinstance(rope, Mapping):
        raise CheckpointError("not a JSON object", where=where, found=str(rope)[:80])
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", table.get("partial_rotary_factor"))
    nested = any(isinstance(value, Mapping) for value in rope.values())  # other parameters for some of the layers
    if rope_type not in _KEYS or nested or partial not in (None, 1):
        raise CheckpointError(
            "unsupported rotary positions",
            where=where,
            found=dict(rope) if partial in (None, 1) else f"partial_rotary_factor {partial}",
            expected=f"rope_type {', '.join(_KEYS)}, the same for all layers, and partial_rotary_factor 1",
        )
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_KEYS[rope_type]}
    ignored = [name for name, value in rope.items() if name not in known and value is not None]
    if ignored:
        progress.warn(f"{where}: {', '.join(ignored)}: ignored, as by transformers for the rope_type {rope_type}")
    theta = rope["rope_theta"] if "rope_theta" in rope else table.get("rope_theta", _DEFAULT_THETA)
    return _number(theta, f"{where}: rope_theta"), _scaling(rope_type, rope, table, where)


def _scaling(rope_type: str, rope: Mapping[str, Any], table: Mapping[str, Any], where: str) -> RopeScaling | None:
    if rope_type == "default":
        return None
    if rope_type == "linear":
        return RopeScaling(factor=_number(rope["factor"], f"{where}: factor"))
    # At the top level it wins, and where it is missing the context length is meant.
    key = "original_max_position_embeddings"
    original = table.get(key, rope.get(key, table["max_position_embeddings"]))
    return RopeScaling(
        factor=_number(rope["factor"], f"{where}: factor"),
        original=original,
        low=_number(rope["low_freq_factor"], f"{where}: low_freq_factor"),
        high=_number(rope["high_freq_factor"], f"{where}: high_freq_factor"),
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError("not a number", where=where, found=str(value)[:80])
    return float(value)


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """Return the ``rope_parameters`` of a model."""
    scaling, table = config.rope_scaling, {"rope_type": "default", "rope_theta": config.rope_theta}
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
