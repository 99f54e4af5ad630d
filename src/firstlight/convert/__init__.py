"""Other formats in and out."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstlight.convert.detect import read
    from firstlight.convert.formats import FORMATS, writer
    from firstlight.convert.found import Found
    from firstlight.convert.nanogpt import read_meta as nanogpt_meta

__all__ = ["FORMATS", "Found", "nanogpt_meta", "read", "writer"]

# Loaded when first asked for: each format has libraries of its own.
_LAZY = {
    "Found": ("found", "Found"), "nanogpt_meta": ("nanogpt", "read_meta"), "read": ("detect", "read"),
    "FORMATS": ("formats", "FORMATS"), "writer": ("formats", "writer"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, what = _LAZY[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), what)
