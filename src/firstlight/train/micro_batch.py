"""The micro-batch size: estimated from free memory before the first step, halved when memory runs out."""

import os
import re
from pathlib import Path

import torch

from firstlight.errors import TrainingError
from firstlight.model import ModelConfig

_MEMORY_FRACTION = 0.4  # of the free memory; the rest is for gradients, the optimizer and other programs
# Messages of the CPU's allocator, Metal and cuBLAS, which raise a RuntimeError.
_MESSAGES = ("can't allocate memory", "backend out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an out-of-memory of a GPU or of the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def activation_bytes(config: ModelConfig, *, bytes_per_number: int, checkpointing: bool) -> int:
    """Estimate the bytes of activations that one row keeps for the backward pass.

    Counted per layer and token: the inputs of the two norms, qkv, the attention's output and
    statistics, and the MLP's hidden values before and after its activation function. What blockwise attention keeps on
    a CPU, at most 4 C, is within the fraction of memory that is left free.
    """
    C = config.n_embd
    per_layer = 2 * C if checkpointing else 8 * C + 3 * config.ffn_dim
    return config.block_size * bytes_per_number * (config.n_layer * per_layer + 6 * C)


def initial_micro_batch(
    config: ModelConfig,
    rows: int,
    device: torch.device,
    *,
    bytes_per_number: int,
    checkpointing: bool,
    processes: int = 1,
) -> int:
    """Return the largest divisor of ``rows`` whose estimated activations fit into the free memory.

    Args:
        config: the model.
        rows: rows of one update in this process.
        device: of the activations.
        bytes_per_number: bytes of one activation value.
        checkpointing: whether activations are recomputed in the backward pass.
        processes: number of processes that share the memory.
    """
    row_bytes = activation_bytes(config, bytes_per_number=bytes_per_number, checkpointing=checkpointing)
    free = free_device_memory(device) // (1 if device.type == "cuda" else processes)
    limit = max(1, int(_MEMORY_FRACTION * free / row_bytes))
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n <= limit or n == 1))


def free_device_memory(device: torch.device) -> int:
    """Return the available memory of a device in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def free_memory(root: Path = Path("/")) -> int:
    """Return the available CPU memory in bytes, within the limit of the container.

    Args:
        root: folder of ``proc`` and ``sys``.
    """
    try:
        table = (root / "proc/meminfo").read_text(encoding="ascii")
        available = int(re.findall(r"^MemAvailable:\s+(\d+) kB", table, re.MULTILINE)[0]) * 1024
    except (OSError, ValueError, IndexError):
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else 4 << 30
    try:
        group = root / "sys/fs/cgroup"
        limit, used = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or "max": no limit
        return available
    return max(0, min(available, limit - used))


def halve(micro_batch: int, rows: int) -> int:
    """Return the largest divisor of ``rows`` that is at most half of ``micro_batch``.

    Raises:
        TrainingError: it is one row already.
    """
    if micro_batch <= 1:
        raise TrainingError(
            "out of memory with micro-batches of one row",
            fix="Use a smaller model or block size, or set train.activation_checkpointing=true.",
        )
    return max(n for n in range(1, micro_batch // 2 + 1) if rows % n == 0)
