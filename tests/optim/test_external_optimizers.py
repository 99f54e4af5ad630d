"""Optimizers and schedules of other packages: what they get wrong is found before a run depends on it."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import nn

from firstlight.config import Settings, resolve
from firstlight.errors import ConfigError
from firstlight.optim import OPTIMIZER, Muon, Optimizer, OptimizerSettings, build_optimizer, lr_factor, state_tensors

INVERSE_SQRT = "outside.inverse_sqrt:inverse_sqrt"


class Root(Settings):
    optim: Annotated[OptimizerSettings, OPTIMIZER] = Muon()


def _parameters() -> dict[str, nn.Parameter]:
    return {"embed.weight": nn.Parameter(torch.ones(4, 3)), "norm.weight": nn.Parameter(torch.ones(3))}


def _step(settings: OptimizerSettings) -> Optimizer:
    parameters = _parameters()
    optimizer = build_optimizer(parameters.items(), settings)
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def write_optimizer(outside: Path, body: str) -> dict[str, object]:
    """Write a variant of Lion into a module, and return the table of settings that names it."""
    (outside / "odd.py").write_text((outside / "lion.py").read_text() + body)
    return {"name": "outside.odd:Odd", "lr": 0.02}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("class Odd(Lion):\n    build = None", "cannot be loaded: PydanticUserError: A non-annotated attribute"),
        ("class Odd(Lion):\n    def build(self, groups): ...", "its build does not accept"),
        ("class Odd(OptimizerSettings): ...", "it does not implement build, state_shapes"),
        ("class Odd: ...", "not a subclass of firstlight.optim.settings.OptimizerSettings"),
        ("Odd = LionOptimizer", "the class outside.odd.LionOptimizer"),
    ],
)
def test_the_interface_is_checked_before_anything_is_built(outside: Path, body: str, words: str) -> None:
    table = write_optimizer(outside, body)
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(Root, {"optim": table})
    assert caught.value.where == "optim.name"


STEP = """
class Stepper(LionOptimizer):
    def step(self, closure=None):
        super().step()
        {statement}

class Odd(Lion):
    def build(self, named_parameters, *, fused_splits, lr_scales):
        params = [p for _, p in named_parameters]
        return Stepper([{{"params": params, "weight_decay": 0.0}}], lr=self.lr, betas=self.betas)
"""


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("self.state[self.param_groups[0]['params'][0]]['count'] = 1", "state 'count' of embed.weight"),
        ("self.state[self.param_groups[0]['params'][0]]['other'] = torch.zeros(1)", "state 'other' of embed.weight"),
        ("self.state['all'] = {}", "belongs to no parameter"),
        ("self.param_groups[0]['k'] = self.param_groups[0].get('k', 0) + 1", "options in param_groups"),
    ],
)
def test_state_that_a_checkpoint_would_lose_is_an_error(outside: Path, statement: str, words: str) -> None:
    table = write_optimizer(outside, STEP.format(statement=statement))
    optimizer = _step(resolve(Root, {"optim": table}).optim)
    with pytest.raises(ConfigError, match=words):
        state_tensors(optimizer)


def test_a_class_that_builds_no_optimizer_is_refused(outside: Path) -> None:
    table = write_optimizer(outside, "class Odd(Lion):\n    def build(self, p, *, fused_splits, lr_scales): ...")
    with pytest.raises(ConfigError, match="does not build an optimizer"):
        build_optimizer(_parameters().items(), resolve(Root, {"optim": table}).optim)


def test_a_schedule_of_another_package(outside: Path) -> None:
    def factors(**table: Any) -> list[float]:
        schedule = resolve(Root, {"optim": {"schedule": {"name": INVERSE_SQRT, **table}}}).optim.schedule
        return [lr_factor(step, 10, schedule) for step in (0, 5, 10)]

    assert factors() == pytest.approx([1, 6**-0.5, 11**-0.5])
    assert factors(options={"scale": 3}, warmup_steps=2) == pytest.approx([1 / 3, (1 + 3 * 3 / 8) ** -0.5, 0.5])
    with pytest.raises(ConfigError, match=r"optim\.schedule\.options.*'sclae'"):
        factors(options={"sclae": 3})
    with pytest.raises(ConfigError, match="needs a number of steps"):
        lr_factor(
            0,
            None,
            resolve(Root, {"optim": {"schedule": {"name": INVERSE_SQRT}}}).optim.schedule,
        )
