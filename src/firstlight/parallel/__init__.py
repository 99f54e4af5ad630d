"""Where and in which precision a model runs: device, precision, compilation, processes, memory allocator.

Names are loaded when first used: the allocator must be set before torch is imported.
"""

from typing import TYPE_CHECKING

from firstlight.lazy import attach

if TYPE_CHECKING:
    from firstlight.parallel.allocator import ensure_allocator
    from firstlight.parallel.device import (
        DeviceContext,
        Hardware,
        autocast,
        compile_module,
        environment,
        memory,
        peak_flops,
        resolve,
        scaler,
    )
    from firstlight.parallel.distributed import (
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
    "DeviceContext",
    "Hardware",
    "all_sum",
    "autocast",
    "barrier",
    "broadcast_object",
    "compile_module",
    "ensure_allocator",
    "environment",
    "gather",
    "is_main",
    "memory",
    "no_sync",
    "peak_flops",
    "resolve",
    "rng_state",
    "scaler",
    "seed_everything",
    "set_rng_state",
    "start",
    "stop",
    "wrap",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "allocator": ["ensure_allocator"],
        "device": [
            "Hardware",
            "DeviceContext",
            "autocast",
            "peak_flops",
            "compile_module",
            "environment",
            "memory",
            "resolve",
            "scaler",
        ],
        "distributed": [
            "all_sum",
            "barrier",
            "broadcast_object",
            "gather",
            "is_main",
            "no_sync",
            "rng_state",
            "seed_everything",
            "set_rng_state",
            "start",
            "stop",
            "wrap",
        ],
    },
)
