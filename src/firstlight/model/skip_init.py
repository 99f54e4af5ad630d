"""Building models without initialising weights that are replaced at once."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def skip_init() -> Iterator[None]:
    """Build modules without initialising their weights, as ``torch.nn.utils.skip_init`` does for one module."""
    with _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Turns the functions of torch.nn.init into no-ops: tensors keep what memory held."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
