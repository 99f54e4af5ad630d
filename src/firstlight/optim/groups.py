"""Parameter groups: an ordered list of rules, of which the first that matches decides."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

NamedParameter = tuple[str, nn.Parameter]

# Muon is for matrices between hidden states; embeddings and the head are trained by AdamW.
_EMBEDDING = re.compile(r"(^|\.)(embed|positions|head)\.")


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A kind of parameter: its name, whether weight decay applies to it, and which parameters match."""

    name: str
    decays: bool
    matches: Callable[[str, nn.Parameter], bool]


GROUP_RULES = (
    GroupRule("vectors", False, lambda _, parameter: parameter.ndim < 2),
    GroupRule("embeddings", True, lambda name, parameter: _EMBEDDING.search(name) is not None or parameter.ndim != 2),
    GroupRule("hidden", True, lambda _name, _parameter: True),
)


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a hidden matrix: not an embedding, positions, the head, a norm or a bias."""
    return _rule_of(name, parameter).name == "hidden"


def group_parameters(named_parameters: Iterable[NamedParameter]) -> dict[str, list[NamedParameter]]:
    """Sort parameters into "hidden", "embeddings" (with positions and head) and "vectors"; omit empty groups."""
    groups: dict[str, list[NamedParameter]] = {"hidden": [], "embeddings": [], "vectors": []}
    for name, parameter in named_parameters:
        groups[_rule_of(name, parameter).name].append((name, parameter))
    return {name: members for name, members in groups.items() if members}


def _rule_of(name: str, parameter: nn.Parameter) -> GroupRule:
    return next(rule for rule in GROUP_RULES if rule.matches(name, parameter))


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """One row of a table of parameter groups.

    Attributes:
        n_tensors: parameter tensors in the group.
        n_parameters: values in them.
        lr: learning rate before the schedule.
        weight_decay: fraction of the weights that each step removes, times lr.
    """

    n_tensors: int
    n_parameters: int
    lr: float
    weight_decay: float


def summarize_groups(optimizer: Optimizer) -> list[GroupSummary]:
    """Describe the parameter groups of an optimizer."""
    return [_summary(group) for group in optimizer.param_groups]


def _summary(group: dict[str, Any]) -> GroupSummary:
    return GroupSummary(
        n_tensors=len(group["params"]),
        n_parameters=sum(p.numel() for p in group["params"]),
        lr=float(group.get("initial_lr", group["lr"])),
        weight_decay=float(group.get("weight_decay", 0.0)),
    )
