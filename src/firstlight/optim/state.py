"""An optimizer's state as plain tensors by parameter name, so that checkpoints need no pickle.

Any ``torch.optim.Optimizer`` works whose whole state is in the tensors that its settings declare (``state_shapes``).
State that is kept elsewhere could not be saved, and is an error, so that a resumed run never differs silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from firstlight.errors import CheckpointError, ConfigError
from firstlight.optim.groups import NamedParameter
from firstlight.optim.settings import OptimizerSettings

_SCHEDULED = ("lr", "initial_lr")  # options of a group that the training loop sets


@dataclass(frozen=True, slots=True)
class _Registration:
    """Facts about an optimizer, recorded when it was built.

    Attributes:
        parameters: its parameters by name.
        shapes: the declared state by parameter name: shape by state name.
        from_start: names of parameters whose state exists before the first step.
        options: numbers among the options of its groups.
    """

    parameters: dict[str, torch.nn.Parameter]
    shapes: dict[str, dict[str, tuple[int, ...]]]
    from_start: frozenset[str]
    options: list[dict[str, Any]]


_registered: WeakKeyDictionary[Optimizer, _Registration] = WeakKeyDictionary()


def register_parameters(
    optimizer: Optimizer, named_parameters: Sequence[NamedParameter], settings: OptimizerSettings
) -> None:
    """Remember the names and shapes by which the optimizer's state is saved."""
    _registered[optimizer] = _Registration(
        parameters=dict(named_parameters),
        shapes={name: settings.state_shapes(name, p) for name, p in named_parameters},
        from_start=frozenset(name for name, p in named_parameters if optimizer.state.get(p)),
        options=_group_options(optimizer),
    )


def state_bytes(named_parameters: Sequence[NamedParameter], settings: OptimizerSettings) -> int:
    """Return the memory of the state of an optimizer, all of it in fp32."""
    shapes = (shape for name, p in named_parameters for shape in settings.state_shapes(name, p).values())
    return 4 * sum(torch.Size(shape).numel() for shape in shapes)


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return every state tensor as ``parameter-name/state-name``; not copied.

    A parameter that never had a gradient may have no state yet.

    Raises:
        ConfigError: the optimizer has state that its settings do not declare.
    """
    known = _registered[optimizer]
    tensors = {}
    for name, parameter in known.parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or key not in known.shapes[name]:
                raise _undeclared(f"the state {key!r} of {name}", type(value).__name__)
            tensors[f"{name}/{key}"] = value
    if len(optimizer.state) > sum(p in optimizer.state for p in known.parameters.values()):
        raise _undeclared("state that belongs to no parameter", "an additional key of optimizer.state")
    if _group_options(optimizer) != known.options:
        raise _undeclared("options in param_groups that change", "options other than lr")
    return tensors


def _undeclared(what: str, found: str) -> ConfigError:
    return ConfigError(
        f"the optimizer has {what}, which checkpoints do not save",
        where="optim.name",
        found=found,
        expected="a tensor in optimizer.state[parameter] that state_shapes() declares",
    )


def _group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in group.items() if isinstance(v, Number) and k not in _SCHEDULED}
        for group in optimizer.param_groups
    ]


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what ``state_tensors`` returned, bit for bit; nothing changes where that fails.

    Raises:
        CheckpointError: a name or shape is not this optimizer's, or one of a parameter's tensors is missing.
    """
    known = _registered[optimizer]
    states: dict[str, dict[str, Tensor]] = {name: {} for name in known.parameters}
    for key, value in tensors.items():
        name, _, state_name = key.rpartition("/")
        if name not in states:
            raise CheckpointError("is the state of a parameter that this model does not train", where=key)
        if state_name not in known.shapes[name]:
            raise CheckpointError("is the state of another optimizer", where=key, fix="Set optim.name as in run.toml.")
        expected = known.shapes[name][state_name]
        if tuple(value.shape) != expected:
            raise CheckpointError(
                "has another shape than the model's", where=key, found=tuple(value.shape), expected=expected
            )
        states[name][state_name] = value
    for name, state in states.items():
        missing = known.shapes[name].keys() - state.keys()
        if missing and (state or name in known.from_start):
            raise CheckpointError("a tensor of the optimizer's state is missing", where=f"{name}/{min(missing)}")
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for name, state in states.items():
        parameter = known.parameters[name]
        if state:
            optimizer.state[parameter] = {
                key: value.to(_device(key, parameter, group_of[parameter]), copy=True) for key, value in state.items()
            }


def _device(key: str, parameter: Tensor, group: dict[str, Any]) -> torch.device:
    # As in torch: the count of steps is on the CPU, except in fused and capturable optimizers.
    on_cpu = key == "step" and not (group.get("fused") or group.get("capturable"))
    return torch.device("cpu") if on_cpu else parameter.device
