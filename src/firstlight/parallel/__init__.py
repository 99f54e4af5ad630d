"""Where and in which precision a model runs: device, precision, compilation, processes, memory allocator.

Names are loaded when first used: the allocator must be set before torch is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstlight.parallel.allocator import ensure_allocator
    from firstlight.parallel.place import (
        Hardware,
        Place,
        autocast,
        ceiling,
        compile_module,
        environment,
        memory,
        resolve,
        scaler,
    )
    from firstlight.parallel.processes import (
        all_sum,
        barrier,
        broadcast_object,
        gather,
        is_main,
        no_sync,
        rng_state,
        seed_everything,
        set_rng_state,
        start,
        stop,
        wrap,
    )

__all__ = [
    "Hardware",
    "Place",
    "all_sum",
    "autocast",
    "barrier",
    "broadcast_object",
    "ceiling",
    "compile_module",
    "ensure_allocator",
    "environment",
    "gather",
    "is_main",
    "memory",
    "no_sync",
    "resolve",
    "rng_state",
    "scaler",
    "seed_everything",
    "set_rng_state",
    "start",
    "stop",
    "wrap",
]

_PROCESSES = {
    "all_sum", "barrier", "broadcast_object", "gather", "is_main", "no_sync", "rng_state", "seed_everything",
    "set_rng_state", "start", "stop", "wrap",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "allocator" if name == "ensure_allocator" else "processes" if name in _PROCESSES else "place"
    return getattr(importlib.import_module(f"{__name__}.{file}"), name)
