"""How this room runs a model: without dropout, and built without first weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

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
