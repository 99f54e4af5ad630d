"""Which parameters are treated alike: an ordered list of rules, of which the first that fits decides."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

Named = tuple[str, nn.Parameter]

# Muon is for maps between hidden states; what reads tokens or writes logits goes to AdamW.
_OUTER = re.compile(r"(^|\.)(embed|positions|head)\.")


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of parameter: its name, whether weight decay applies to it, and what belongs to it."""

    name: str
    decays: bool
    fits: Callable[[str, nn.Parameter], bool]


RULES = (
    Rule("vectors", False, lambda _, parameter: parameter.ndim < 2),
    Rule("outer", True, lambda name, parameter: _OUTER.search(name) is not None or parameter.ndim != 2),
    Rule("hidden", True, lambda _name, _parameter: True),
)


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One line of the table of groups, for plan and report.

    Attributes:
        name: the rule's: hidden, outer (embeddings, positions, head) or vectors (norms, biases).
        optimizer: what updates it: muon or adamw.
        tensors: how many parameter tensors.
        parameters: how many numbers in them.
        lr: learning rate before the schedule.
        weight_decay: share of the weights taken off at each step, over lr.
    """

    name: str
    optimizer: str
    tensors: int
    parameters: int
    lr: float
    weight_decay: float


def rule_of(name: str, parameter: nn.Parameter) -> Rule:
    """Return the first rule that fits."""
    return next(rule for rule in RULES if rule.fits(name, parameter))


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Tell a hidden matrix from embeddings, head and vectors."""
    return rule_of(name, parameter).name == "hidden"


def grouped(named: Iterable[Named]) -> dict[str, list[Named]]:
    """Return the parameters of each rule, each of them in one; rules that nothing fits are left out."""
    groups: dict[str, list[Named]] = {"hidden": [], "outer": [], "vectors": []}
    for name, parameter in named:
        groups[rule_of(name, parameter).name].append((name, parameter))
    return {name: members for name, members in groups.items() if members}
