"""How this room runs a model: without dropout."""

import contextlib
from collections.abc import Iterator

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
