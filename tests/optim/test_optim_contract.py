"""What every optimizer keeps, and the room's public names."""

from pathlib import Path
from typing import Annotated

import pytest
import torch
from torch import nn

import firstlight.optim
from firstlight.config import Settings, dump_toml, read_toml, resolve
from firstlight.errors import CheckpointError, UsageError
from firstlight.optim import (
    OPTIMIZER,
    OPTIMIZERS,
    AdamW,
    Muon,
    OptimizerSettings,
    build_optimizer,
    load_state_tensors,
    state_bytes,
    state_tensors,
)

TABLES: list[dict[str, object]] = [
    *({"name": name} for name in OPTIMIZERS),
    {"name": "muon", "ns_precision": "bf16"},
    {"name": "outside.lion:Lion"},
]
every = pytest.mark.parametrize("settings", TABLES, ids=lambda t: "-".join(map(str, t.values())), indirect=True)


@pytest.fixture
def settings(request: pytest.FixtureRequest, outside: Path) -> OptimizerSettings:
    """The settings of one optimizer, every learning rate 0.02."""
    cls = OPTIMIZER.member(OptimizerSettings, request.param["name"])
    rates = {name: 0.02 for name in cls.model_fields if name.endswith("lr")}
    return resolve(Root, {"optim": {**rates, "weight_decay": 0.0, **request.param}}).optim


class Root(Settings):
    optim: Annotated[OptimizerSettings, OPTIMIZER] = Muon()


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embed.weight": (11, 6),
        "blocks.0.qkv.weight": (18, 6),
        "blocks.0.out.weight": (6, 6),
        "blocks.0.norm.weight": (6,),
        "blocks.0.out.bias": (6,),
        "head.weight": (11, 6),
    }
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def _fill(parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator)


def _build(parameters: dict[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return build_optimizer(parameters.items(), settings, fused_splits={"blocks.0.qkv.weight": (6, 6, 6)})


def test_public_names_are_sorted_and_there() -> None:
    assert firstlight.optim.__all__ == sorted(
        firstlight.optim.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)
    )
    assert all(hasattr(firstlight.optim, name) for name in firstlight.optim.__all__)


@every
def test_descends_a_quadratic(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)

    def loss() -> torch.Tensor:
        return torch.stack([p.square().sum() for p in parameters.values()]).sum()

    first = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.1 * first


@every
def test_state_goes_round_bit_for_bit(settings: OptimizerSettings) -> None:
    ours = _parameters()
    optimizer = _build(ours, settings)
    for seed in range(3):
        _fill(ours, seed)
        optimizer.step()
    theirs = {name: nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    other = _build(theirs, settings)
    saved = {k: v.clone() for k, v in state_tensors(optimizer).items()}
    load_state_tensors(other, saved)
    assert saved.keys() == state_tensors(other).keys()
    for seed in range(3, 6):
        _fill(ours, seed)
        _fill(theirs, seed)
        optimizer.step()
        other.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(v, state_tensors(other)[k]) for k, v in state_tensors(optimizer).items())
    # What was loaded is a copy: later steps leave the checkpoint's tensors alone.
    assert any(not torch.equal(v, state_tensors(other)[k]) for k, v in saved.items())


@every
def test_state_before_the_first_step_goes_round(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)
    load_state_tensors(optimizer, state_tensors(_build(_parameters(), settings)))
    plain = _parameters()
    for held, taker in ((parameters, optimizer), (plain, _build(plain, settings))):
        _fill(held, 0)
        taker.step()
    assert all(torch.equal(parameters[name], plain[name]) for name in plain)


@every
def test_the_state_is_the_declared_one(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)
    _fill(parameters, 0)
    optimizer.step()
    tensors = state_tensors(optimizer)
    assert {key.rpartition("/")[0] for key in tensors} == set(parameters)
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    declared = {name: settings.state_shapes(name, p) for name, p in parameters.items()}
    assert found == {f"{name}/{key}": shape for name, state in declared.items() for key, shape in state.items()}
    assert sum(v.numel() for v in tensors.values()) * 4 == state_bytes(list(parameters.items()), settings)


@every
@pytest.mark.parametrize("key", ["blocks.9.out.weight/exp_avg", "blocks.0.norm.weight/other", "nonsense"])
def test_an_unexpected_state_is_refused(settings: OptimizerSettings, key: str) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)
    _fill(parameters, 0)
    optimizer.step()
    tensors = {k: v.clone() for k, v in state_tensors(optimizer).items()}
    with pytest.raises(CheckpointError, match=key):
        load_state_tensors(optimizer, {**tensors, key: torch.zeros(6)})
    assert all(torch.equal(v, tensors[k]) for k, v in state_tensors(optimizer).items()), "a refusal changes nothing"


@every
def test_every_missing_state_is_refused(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)
    _fill(parameters, 0)
    optimizer.step()
    tensors = {k: v.clone() for k, v in state_tensors(optimizer).items()}
    fresh = state_tensors(_build(_parameters(), settings))
    for key in tensors:
        # A parameter without a gradient so far may have no state, and where it has one tensor only, none is missing.
        if len(settings.state_shapes(key.rpartition("/")[0], parameters[key.rpartition("/")[0]])) == 1 and not fresh:
            continue
        with pytest.raises(CheckpointError, match="missing"):
            load_state_tensors(optimizer, {k: v for k, v in tensors.items() if k != key})


@every
def test_a_wrong_shape_is_refused(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, settings)
    _fill(parameters, 0)
    optimizer.step()
    tensors = state_tensors(optimizer)
    for key, value in tensors.items():
        with pytest.raises(CheckpointError, match="shape"):
            load_state_tensors(optimizer, {**tensors, key: value[None]})


@pytest.mark.parametrize(("saver", "loader"), [(AdamW(), Muon()), (Muon(), AdamW())])
def test_the_state_of_another_optimiser_is_refused(saver: OptimizerSettings, loader: OptimizerSettings) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, saver)
    _fill(parameters, 0)
    optimizer.step()
    with pytest.raises(CheckpointError, match="another optimizer"):
        load_state_tensors(_build(_parameters(), loader), state_tensors(optimizer))


@every
def test_vectors_do_not_decay_and_matrices_do(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = _build(parameters, settings.model_copy(update={"weight_decay": 0.5}))
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in parameters.items():
        expected = before[name] * (1.0 if p.ndim < 2 else 1 - 0.02 * 0.5)
        torch.testing.assert_close(p.detach(), expected)


@every
def test_frozen_parameters_are_left_out(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    parameters["blocks.0.out.weight"].requires_grad_(False)
    optimizer = _build(parameters, settings)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(parameters["blocks.0.out.weight"]) not in held
    assert len(held) == len(parameters) - 1


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"name": "adamw", "momentum": 0.9}, "optim.momentum"),
        ({"name": "adamw", "betas": [0.9, 1.0]}, "optim.betas"),
        ({"name": "adamw", "betas": [-0.1, 0.9]}, "optim.betas"),
        ({"name": "adamw", "eps": 0}, "optim.eps"),
        ({"lr": 0}, "optim.lr"),
        ({"ns_steps": 0}, "optim.ns_steps"),
        ({"ns_precision": "fp8"}, "optim.ns_precision"),
        ({"momentum": 1.0}, "optim.momentum"),
        ({"clip_norm": -1}, "optim.clip_norm"),
        ({"schedule": {"warmup": 3}}, "optim.schedule.warmup"),
        ({"schedule": {"decay_ratio": 0}}, "optim.schedule.decay_ratio"),
        ({"name": "lion"}, "optim.name"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_its_key(table: dict[str, object], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Root, {"optim": table})
    assert (caught.value.where or "").startswith(key)


def test_a_tag_alone_takes_that_optimisers_defaults() -> None:
    assert resolve(Root, {"optim": {"name": "adamw"}}).optim == AdamW()
    assert resolve(Root, {"optim": {"lr": 0.01}}).optim == Muon(lr=0.01)


@every
def test_settings_go_through_run_toml(settings: OptimizerSettings, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(dump_toml(Root(optim=settings)))
    assert resolve(Root, read_toml(tmp_path / "run.toml")).optim == settings


@every
def test_an_unknown_setting_is_refused_with_the_nearest_name(settings: OptimizerSettings) -> None:
    with pytest.raises(UsageError, match=r"Did you mean optim\.weight_decay\?") as caught:
        resolve(Root, {"optim": {"name": settings.name, "weight_decai": 1.0}})
    assert caught.value.where == "optim.weight_decai"


@every
def test_auto_settings_resolve_once(settings: OptimizerSettings) -> None:
    once = settings.resolve(torch.device("cpu"))
    assert "auto" not in once.model_dump().values()
    assert once.resolve(torch.device("cpu")) == once


@every
def test_layerwise_rates_where_they_are_supported(settings: OptimizerSettings) -> None:
    parameters = _parameters()
    if not settings.supports_lr_scales:
        with pytest.raises(AssertionError):
            build_optimizer(parameters.items(), settings, lr_scales={"head.weight": 0.5})
        return
    optimizer = build_optimizer(parameters.items(), settings, lr_scales={"head.weight": 0.5})
    lrs = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(lrs[id(p)] == (0.01 if name == "head.weight" else 0.02) for name, p in parameters.items())
