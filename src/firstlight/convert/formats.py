"""The formats that a model can be written in, by name; each is loaded when it is asked for."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from firstlight.errors import UnknownName, UsageError
from firstlight.lm import LM

Writer = Callable[[LM, Path], dict[str, str]]

# By name: the module with a function ``write(lm, path)``, and the types of numbers that it knows, the first by default.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gguf": ("gguf_write", ("f32", "f16", "q8_0")),
    "nanogpt": ("nanogpt", ()),
    "megatron": ("megatron", ()),
    "onnx": ("onnx_write", ()),
    "keras": ("keras_write", ()),
    "pt2": ("pt2_write", ()),
}


def writer(name: str, kind: str | None = None) -> Writer:
    """Return the function that writes a format.

    Args:
        name: of the format.
        kind: of its numbers.

    Raises:
        UsageError: there is no such format, or it has no such type of numbers.
    """
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS, where="--to")
    module, kinds = FORMATS[name]
    if kind is not None and kind not in kinds:
        raise UsageError(
            f"{name} has no such numbers", where="--dtype", found=kind, expected=", ".join(kinds) or "none to choose"
        )
    write: Any = importlib.import_module(f"firstlight.convert.{module}").write
    return partial(write, kind=kind) if kind is not None else write
