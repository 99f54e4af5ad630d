"""How many rows one forward pass takes: what fits, found before the first step and halved when memory runs out."""

import os
import re
from pathlib import Path

import torch

from firstlight.errors import TrainingError
from firstlight.model import ModelConfig

_SHARE = 0.4  # of the memory that is free: the rest is for gradients, the optimiser and other programs
# Of the CPU's allocator, of Metal, and of cuBLAS, which have no exception of their own.
_SAID = ("can't allocate memory", "backend out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an out-of-memory, of a GPU or of the CPU's allocator, from other errors."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def activation_bytes(config: ModelConfig, *, bytes_per_number: int, checkpointing: bool) -> int:
    """Estimate the activations that one row keeps for the backward pass, in bytes.

    Counted per layer and token: the inputs of the two norms, qkv, the attention's output and
    statistics, and the MLP's inner values before and after its non-linearity. What attention in blocks keeps on a
    CPU, at most 4 C, lies within the share of memory that is left free.
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
    """Return the largest divisor of ``rows`` whose estimated activations fit the free memory.

    Args:
        config: the model.
        rows: rows of one update in this process.
        device: where the activations are.
        bytes_per_number: of an activation.
        checkpointing: whether activations are computed again in the backward pass.
        processes: how many of them share the memory.
    """
    need = activation_bytes(config, bytes_per_number=bytes_per_number, checkpointing=checkpointing)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes() // processes
    most = max(1, int(_SHARE * free / need))
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n <= most or n == 1))


def free_bytes(root: Path = Path("/")) -> int:
    """Return the CPU memory that may be taken: what the system has available, within a container's limit.

    Args:
        root: where ``proc`` and ``sys`` are.
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
    """Return the largest divisor of ``rows`` of at most half of ``micro_batch``.

    Raises:
        TrainingError: one row is all there is.
    """
    if micro_batch <= 1:
        raise TrainingError(
            "out of memory with one row a forward pass",
            fix="Take a smaller model or block size, or set train.activation_checkpointing=true.",
        )
    return max(n for n in range(1, micro_batch // 2 + 1) if rows % n == 0)
