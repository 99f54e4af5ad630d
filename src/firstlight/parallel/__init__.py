"""Device, precision, compilation, distributed processes and the CPU memory allocator.

Names are loaded when first used: the allocator must be set before torch is imported.
"""

from typing import TYPE_CHECKING

from firstlight.lazy import attach

if TYPE_CHECKING:
    from firstlight.parallel.allocator import (
        ensure_allocator,
    )
    from firstlight.parallel.cores import (
        WaitingTime,
        usable_cores,
    )
    from firstlight.parallel.device import (
        DeviceContext,
        HardwareSettings,
        autocast,
        compile_module,
        environment,
        grad_scaler,
        has_cxx_compiler,
        limit_threads,
        peak_memory,
        resolve_hardware,
        synchronize,
        with_compilation,
    )
    from firstlight.parallel.distributed import (
        all_gather,
        all_reduce_sum,
        barrier,
        broadcast_object,
        destroy_distributed,
        init_distributed,
        interruptible,
        is_first_rank,
        is_main_process,
        no_sync,
        peer_errors,
        rng_state,
        seed_everything,
        set_rng_state,
        wrap_ddp,
    )
    from firstlight.parallel.flops import (
        peak_flops,
    )
    from firstlight.parallel.launcher import (
        watch_launcher,
    )
    from firstlight.parallel.openmp import (
        adapt_spinning,
        single_threaded,
    )

__all__ = [
    "DeviceContext",
    "HardwareSettings",
    "WaitingTime",
    "adapt_spinning",
    "all_gather",
    "all_reduce_sum",
    "autocast",
    "barrier",
    "broadcast_object",
    "compile_module",
    "destroy_distributed",
    "ensure_allocator",
    "environment",
    "grad_scaler",
    "has_cxx_compiler",
    "init_distributed",
    "interruptible",
    "is_first_rank",
    "is_main_process",
    "limit_threads",
    "no_sync",
    "peak_flops",
    "peak_memory",
    "peer_errors",
    "resolve_hardware",
    "rng_state",
    "seed_everything",
    "set_rng_state",
    "single_threaded",
    "synchronize",
    "usable_cores",
    "watch_launcher",
    "with_compilation",
    "wrap_ddp",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "allocator": [
            "ensure_allocator",
        ],
        "cores": [
            "WaitingTime",
            "usable_cores",
        ],
        "device": [
            "DeviceContext",
            "HardwareSettings",
            "autocast",
            "compile_module",
            "environment",
            "grad_scaler",
            "has_cxx_compiler",
            "limit_threads",
            "peak_memory",
            "resolve_hardware",
            "synchronize",
            "with_compilation",
        ],
        "distributed": [
            "all_gather",
            "all_reduce_sum",
            "barrier",
            "broadcast_object",
            "destroy_distributed",
            "init_distributed",
            "interruptible",
            "is_first_rank",
            "is_main_process",
            "no_sync",
            "peer_errors",
            "rng_state",
            "seed_everything",
            "set_rng_state",
            "wrap_ddp",
        ],
        "flops": [
            "peak_flops",
        ],
        "launcher": [
            "watch_launcher",
        ],
        "openmp": [
            "adapt_spinning",
            "single_threaded",
        ],
    },
)
