"""An optimiser's state by parameter name, as plain tensors, so that checkpoints need no pickle."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.errors import CheckpointError
from firstlight.optim.muon import MuonOptimizer

_names: WeakKeyDictionary[Optimizer, dict[nn.Parameter, str]] = WeakKeyDictionary()


def name_parameters(optimizer: Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Remember the names by which the optimiser's state is saved."""
    _names[optimizer] = {p: n for n, p in named}


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return every state tensor as ``parameter-name/state-name``; not copied."""
    names = _names[optimizer]
    tensors: dict[str, Tensor] = {}
    for inner in _inner(optimizer):
        for parameter, state in inner.state.items():
            tensors.update({f"{names[parameter]}/{k}": v for k, v in state.items() if isinstance(v, Tensor)})
    if isinstance(optimizer, MuonOptimizer):
        tensors.update({f"{names[p]}/momentum": b for p, b in optimizer.buffers.items()})
    return tensors


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take up what ``state_tensors`` gave, bit for bit.

    Raises:
        CheckpointError: a name or a shape does not belong to this optimiser.
    """
    by_name = {n: p for p, n in _names[optimizer].items()}
    buffers = optimizer.buffers if isinstance(optimizer, MuonOptimizer) else {}
    places = {p: inner for inner in _inner(optimizer) for g in inner.param_groups for p in g["params"]}
    for inner in _inner(optimizer):
        inner.state.clear()
    for buffer in buffers.values():
        buffer.zero_()
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = by_name.get(name)
        if parameter is None or (kind != "step" and value.shape != parameter.shape):
            raise CheckpointError(
                "an optimiser state does not belong to this model", where=key, found=tuple(value.shape),
                expected=None if parameter is None else tuple(parameter.shape),
            )  # fmt: skip
        if parameter in buffers:
            buffers[parameter].copy_(value)
        elif parameter in places:
            # torch keeps the fused AdamW's step beside the parameter, in fp32.
            places[parameter].state[parameter][kind] = value.to(parameter.device, copy=True)
        else:
            raise CheckpointError("is the state of another optimiser", where=key, fix="Set optim.name as in run.toml.")


def _inner(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimisers that keep their state in torch's way."""
    if isinstance(optimizer, MuonOptimizer):
        return [optimizer.adamw] if optimizer.adamw is not None else []
    return [optimizer]


