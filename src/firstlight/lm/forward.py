"""How this room runs a model: without dropout, without first weights, and with a head that few rows go through fast.

The next token of one text, or of a few, is a product of a few rows with the head. torch gives it to MKL, which on
AMD's processors reads the matrix at half the speed of memory or less; oneDNN, which torch brings along, reads it at
full speed. The sums are the same but for rounding.
"""

import contextlib
import functools
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from firstlight.model import GPT


@contextlib.contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Put ``model`` into evaluation mode, and back."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def linear(x: Float[Tensor, "B C"], weight: Float[Tensor, "V C"]) -> Float[Tensor, "B V"]:
    """Return ``x @ weight.T`` for few rows, without gradients."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _has_onednn():
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return y
    return F.linear(x, weight)


@functools.cache
def _has_onednn() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextlib.contextmanager
def no_drawing() -> Iterator[None]:
    """Build modules without drawing their first weights, where others are put in their place at once."""
    with _NoDrawing():
        yield


class _NoDrawing(TorchFunctionMode):
    """Lets the functions of torch.nn.init do nothing: their tensors keep what memory held."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
