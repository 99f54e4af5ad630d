"""How many rows one forward pass takes: what fits, found before the first step and halved when memory runs out."""

import os

import torch

from firstlight import progress
from firstlight.errors import TrainingError
from firstlight.model import ModelConfig

_SHARE = 0.4  # of the memory that is free: the rest is for gradients, the optimiser and other programs


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an out-of-memory, of the GPU or of the CPU's allocator, from other errors."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def row_bytes(config: ModelConfig, *, bytes_per_number: int, checkpointing: bool) -> int:
    """Estimate the activations that one row keeps for the backward pass, in bytes.

    Counted per layer and token: the inputs of the two norms, qkv, the attention's output and
    statistics, and the MLP's inner values before and after its non-linearity.
    """
    resolved = config
    hidden = resolved.n_embd
    inner = resolved.d_ff or 4 * hidden
    per_layer = 2 * hidden if checkpointing else 8 * hidden + 3 * inner
    return resolved.block_size * bytes_per_number * (resolved.n_layer * per_layer + 6 * hidden)


def first_guess(config: ModelConfig, rows: int, device: torch.device, *, bytes_per_number: int, checkpointing: bool) -> int:
    """Return the largest divisor of ``rows`` whose estimated activations fit the free memory."""
    need = row_bytes(config, bytes_per_number=bytes_per_number, checkpointing=checkpointing)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = 4 << 30
    most = max(1, int(_SHARE * free / need))
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n <= most or n == 1))


def halved(micro_rows: int, rows: int) -> int:
    """Return the largest divisor of ``rows`` of at most half of ``micro_rows``.

    Raises:
        TrainingError: one row is all there is.
    """
    if micro_rows <= 1:
        raise TrainingError(
            "out of memory with one row a forward pass",
            fix="Take a smaller model or block size, or set train.activation_checkpointing=true.",
        )
    smaller = max(n for n in range(1, micro_rows // 2 + 1) if rows % n == 0)
    progress.warn(f"out of memory with {micro_rows} rows a forward pass; going on with {smaller}")
    return smaller
