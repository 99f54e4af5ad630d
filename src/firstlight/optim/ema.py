"""Exponential moving average (EMA) of the weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from firstlight.errors import CheckpointError


class ExponentialMovingAverage:
    """Average of weights over steps: ``average += (1 - decay) * (weights - average)``.

    Args:
        named_parameters: the parameters to follow, with their names.
        decay: fraction of the old average that each update keeps.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self._parameters = dict(named_parameters)
        self._decay = decay
        self._values = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        torch._foreach_lerp_(
            list(self._values.values()), [p.detach() for p in self._parameters.values()], 1 - self._decay
        )

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Replace the weights by their average within the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            own = parameter.detach().clone()
            parameter.copy_(self._values[name])
            self._values[name] = own

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the averages by parameter name; not copied."""
        return dict(self._values)

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load what ``state_tensors`` returned.

        Raises:
            CheckpointError: names or shapes differ.
        """
        if tensors.keys() != self._values.keys():
            odd = sorted(tensors.keys() ^ self._values.keys())
            raise CheckpointError("the averaged weights have other names than the model's", found=", ".join(odd[:4]))
        for name, value in tensors.items():
            own = self._values[name]
            if value.shape != own.shape:
                raise CheckpointError(
                    "an averaged weight has another shape than the model's",
                    where=name,
                    found=tuple(value.shape),
                    expected=tuple(own.shape),
                )
        for name, value in tensors.items():
            self._values[name].copy_(value)
