"""An optimiser's state by parameter name, as plain tensors, so that checkpoints need no pickle."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.errors import CheckpointError
from firstlight.optim.groups import is_hidden
from firstlight.optim.muon import MuonOptimizer

_names: WeakKeyDictionary[Optimizer, dict[nn.Parameter, str]] = WeakKeyDictionary()


def name_parameters(optimizer: Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Remember the names by which the optimiser's state is saved."""
    _names[optimizer] = {p: n for n, p in named}


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return every state tensor as ``parameter-name/state-name``; not copied.

    A parameter that never had a gradient has no AdamW state yet.
    """
    return {
        f"{name}/{kind}": value
        for parameter, name in _names[optimizer].items()
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take up what ``state_tensors`` gave, bit for bit; nothing changes where that fails.

    Raises:
        CheckpointError: a name, kind or shape is not this optimiser's, or one of a parameter's tensors is missing.
    """
    by_name = {n: p for p, n in _names[optimizer].items()}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in by_name}
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        if name not in by_name:
            raise CheckpointError("is the state of a parameter that this model does not train", where=key)
        if kind not in _kinds(optimizer, by_name[name]):
            raise CheckpointError("is the state of another optimiser", where=key, fix="Set optim.name as in run.toml.")
        expected = () if kind == "step" else tuple(by_name[name].shape)
        if tuple(value.shape) != expected:
            raise CheckpointError(
                "has another shape than the model's", where=key, found=tuple(value.shape), expected=expected
            )
        states[name][kind] = value
    for name, state in states.items():
        missing = _kinds(optimizer, by_name[name]) - state.keys()
        if missing and (state or "momentum" in missing):
            raise CheckpointError("a state of the optimiser is missing", where=f"{name}/{min(missing)}")
    optimizer.state.clear()
    for name, state in states.items():
        if state:
            # torch keeps the fused AdamW's step beside the parameter, in fp32.
            device = by_name[name].device
            optimizer.state[by_name[name]] = {k: v.to(device, copy=True) for k, v in state.items()}


def _kinds(optimizer: Optimizer, parameter: nn.Parameter) -> set[str]:
    if isinstance(optimizer, MuonOptimizer) and is_hidden(_names[optimizer][parameter], parameter):
        return {"momentum"}
    return {"step", "exp_avg", "exp_avg_sq"}
