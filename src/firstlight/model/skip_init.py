"""Models built without drawing their first weights, since others take their place."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def skip_init() -> Iterator[None]:
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
