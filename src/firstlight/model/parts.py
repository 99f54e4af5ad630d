"""Tables of the interchangeable parts of a model: position schemes, norms and MLPs.

An entry maps the name that a setting uses (``model.positions``, ``model.norm``, ``model.mlp``) to the class that
implements it, which is imported when a model needs it. Classes outside Firstlight are written
``package.module:Class``. Attention, blocks and GPT call the classes' methods and never ask for a name.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from firstlight.config import load_object

POSITIONS = {
    "learned": "firstlight.model.positions:LearnedPositions",
    "rotary": "firstlight.model.positions:RotaryPositions",
    "alibi": "firstlight.model.positions:AlibiPositions",
    "none": "firstlight.model.positions:PositionScheme",
}
NORMS = {
    "layernorm": "firstlight.model.norms:LayerNorm",
    "rmsnorm": "firstlight.model.norms:RMSNorm",
}
MLPS = {
    "gelu_tanh": "firstlight.model.mlp:TanhGeluMLP",
    "gelu": "firstlight.model.mlp:GeluMLP",
    "swiglu": "firstlight.model.mlp:SwiGLUMLP",
}

Part = Literal["positions", "norm", "mlp"]


class _Table(NamedTuple):
    entries: Mapping[str, str]
    kind: str
    interface: str


_TABLES: dict[Part, _Table] = {
    "positions": _Table(POSITIONS, "position scheme", "firstlight.model.positions:PositionScheme"),
    "norm": _Table(NORMS, "norm", "firstlight.model.norms:Norm"),
    "mlp": _Table(MLPS, "MLP", "firstlight.model.mlp:MLP"),
}


def load_part(part: Part, name: str) -> Any:
    """Return the class that a setting names: an entry of its table, or ``package.module:Class``.

    Raises:
        UnknownName: neither.
        ConfigError: it cannot be imported, or is not a subclass of the interface.
    """
    table = _TABLES[part]
    interface = load_object("interface", {"interface": table.interface}, kind="interface")
    return load_object(name, table.entries, kind=table.kind, interface=interface, where=f"model.{part}")
