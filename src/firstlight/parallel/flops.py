"""The ceiling of model FLOPs utilization (MFU): FLOP/s that the device reaches in matrix products."""

import re
import time
from collections.abc import Callable

import torch
from torch import Tensor

from firstlight.model.kernels.linear import linear_forward
from firstlight.parallel.device import DeviceContext

# FLOP/s of dense bf16 matrix products, from the vendors' data sheets.
_DATA_SHEETS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "4090": 165e12,
    "3090": 71e12,
}

# Rows, columns and inner size: for the caches of a few cores, and large enough to keep many busy.
_FEW_CORES, _MANY_CORES = ((512, 512, 512), (1024, 1024, 1024), (1024, 1024, 256)), ((2048, 2048, 2048),)
_PATIENCE = 8  # products of a size without a faster one, after which it is not measured any longer


def peak_flops(device_context: DeviceContext, seconds: float = 0.3) -> float | None:
    """Return the peak FLOP/s of matrix products in the run's precision: a GPU's data sheet, or a CPU measured.

    The best of many short products is taken, since other programs can only make one slower.

    Args:
        device_context: the run's device and precision.
        seconds: at most, for each size of product.

    Returns:
        FLOP/s of one process's device; None if they are not known.
    """
    if device_context.device.type == "cuda":
        name = torch.cuda.get_device_name(device_context.device)
        return next((peak for part, peak in _DATA_SHEETS.items() if re.search(rf"\b{part}\b", name)), None)
    if device_context.device.type != "cpu":
        return None
    best = 0.0
    for m, n, k in _FEW_CORES if device_context.threads <= 4 else _MANY_CORES:
        x, weight = (torch.ones(rows, k, dtype=device_context.dtype) for rows in (m, n))
        products: list[Callable[[Tensor, Tensor], Tensor]] = [torch.nn.functional.linear]
        if device_context.precision == "fp32":
            products.append(linear_forward)  # oneDNN, with which the model computes where it is faster
        for product in products:
            best = max(best, 2 * m * n * k / _best_seconds(product, x, weight, seconds))
    return best


@torch.no_grad()
def _best_seconds(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, seconds: float) -> float:
    best, since, end = float("inf"), 0, time.perf_counter() + seconds
    while since < _PATIENCE and time.perf_counter() < end:
        start = time.perf_counter()
        product(x, weight)
        elapsed = time.perf_counter() - start
        since = 0 if elapsed < best else since + 1
        best = min(best, elapsed)
    return best
