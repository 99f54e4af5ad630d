import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from firstlight.optim import Muon, MuonOptimizer, build_optimizer, orthogonalize, scale_lr
from firstlight.optim import muon as muon_module


def _matrix(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype))


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """The published iteration, written plainly in float64."""
    x = x.double()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def _reference_step(weight: Tensor, momentum: Tensor, grad: Tensor, s: Muon) -> tuple[Tensor, Tensor]:
    momentum = s.momentum * momentum + (1 - s.momentum) * grad.double()
    ahead = (1 - s.momentum) * grad.double() + s.momentum * momentum if s.nesterov else momentum
    rows, columns = weight.shape
    scale = (
        0.2 * math.sqrt(max(rows, columns))
        if s.adjust_lr_fn == "match_rms_adamw"
        else math.sqrt(max(1, rows / columns))
    )
    weight = weight * (1 - s.lr * s.weight_decay) - s.lr * scale * _newton_schulz(ahead, s.ns_steps)
    return weight, momentum


SHAPES = [(8, 8), (8, 24), (24, 8), (24, 8), (16, 8)]


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_a_float64_reference(adjust_lr_fn: str, nesterov: bool) -> None:
    s = Muon.model_validate(
        {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov, "ns_precision": "fp32"}
    )
    ours = [(f"blocks.{i}.weight", _matrix(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    expected = [(p.detach().double(), torch.zeros_like(p, dtype=torch.float64)) for _, p in ours]
    optimizer = build_optimizer(ours, s)
    for step in range(4):
        for i, (_, p) in enumerate(ours):
            p.grad = _matrix(*p.shape, seed=100 * step + i).detach()
            expected[i] = _reference_step(*expected[i], p.grad, s)
        optimizer.step()
    for (_, p), (weight, _) in zip(ours, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_equals_torch_muon_within_its_bf16(adjust_lr_fn: str) -> None:
    s = Muon.model_validate({"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": adjust_lr_fn})
    ours = [(f"blocks.{i}.weight", _matrix(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    theirs = [nn.Parameter(p.detach().clone()) for _, p in ours]
    before = [p.clone() for p in theirs]
    optimizer = build_optimizer(ours, s)
    reference = torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn=adjust_lr_fn)
    for step in range(3):
        for i, ((_, p), q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = _matrix(*p.shape, seed=100 * step + i).detach()
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    for (_, p), q, start in zip(ours, theirs, before, strict=True):
        moved, expected = (p - start).detach(), (q - start).detach()
        assert (moved - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("ns_precision", ["bf16", "fp32"])
def test_precision_of_the_iterations_is_the_one_asked_for(ns_precision: str) -> None:
    stack = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(stack, 5, ns_precision)
    assert found.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[ns_precision]
    expected = torch.stack([_newton_schulz(x, 5) for x in stack])
    tolerance = 0.1 if ns_precision == "bf16" else 1e-5
    assert (found.double() - expected).abs().max() < tolerance


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 12), more=st.integers(0, 12), scale=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 99)
)
def test_singular_values_come_near_one_whatever_the_scale(rows: int, more: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(rows + more, rows, generator=generator)).Q.T
    spectrum = torch.linspace(0.3, 1, rows)
    values = torch.linalg.svdvals(orthogonalize((left * spectrum @ right * scale)[None], 5, "fp32")[0])
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_zero_gradient_gives_no_nan() -> None:
    p = _matrix(4, 6)
    before = p.detach().clone()
    optimizer = build_optimizer([("a.weight", p)], Muon())
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(p.detach(), before)


def test_parts_of_a_fused_matrix_are_treated_as_separate_matrices() -> None:
    s = Muon(lr=0.05, weight_decay=0.1)
    rows, columns = (8, 4, 4), 8
    parts = [_matrix(n, columns, seed=i) for i, n in enumerate(rows)]
    fused = nn.Parameter(torch.cat([p.detach() for p in parts]))
    one = build_optimizer([("blocks.0.qkv.weight", fused)], s, fused_splits={"blocks.0.qkv.weight": rows})
    apart = build_optimizer([(f"blocks.{i}.weight", p) for i, p in enumerate(parts)], s)
    whole = nn.Parameter(fused.detach().clone())
    unsplit = build_optimizer([("blocks.0.qkv.weight", whole)], s)
    for step in range(3):
        for i, p in enumerate(parts):
            p.grad = _matrix(*p.shape, seed=10 * step + i).detach()
        fused.grad = torch.cat([p.grad for p in parts if p.grad is not None])
        whole.grad = fused.grad.clone()
        for optimizer in (one, apart, unsplit):
            optimizer.step()
    torch.testing.assert_close(fused, torch.cat([p.detach() for p in parts]), rtol=0, atol=1e-6)
    assert (whole - fused).abs().max() > 1e-3


def test_splits_that_do_not_add_up_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="parts"):
        build_optimizer([("a.weight", _matrix(6, 4))], Muon(), fused_splits={"a.weight": (4, 4)})


def test_stacking_does_not_change_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(stack: int) -> list[Tensor]:
        monkeypatch.setattr(muon_module, "_MAX_STACK_NUMEL", stack)
        ours = [(f"blocks.{i}.weight", _matrix(8, 24, seed=i)) for i in range(5)]
        optimizer = build_optimizer(ours, Muon())
        for i, (_, p) in enumerate(ours):
            p.grad = _matrix(8, 24, seed=50 + i).detach()
        optimizer.step()
        return [p.detach() for _, p in ours]

    for many, alone in zip(run(2**24), run(1), strict=True):
        torch.testing.assert_close(many, alone, rtol=0, atol=1e-6)


def test_same_gradients_give_the_same_bits() -> None:
    def run() -> Tensor:
        p = _matrix(16, 24)
        optimizer = build_optimizer([("a.weight", p)], Muon())
        for step in range(3):
            p.grad = _matrix(16, 24, seed=step).detach()
            optimizer.step()
        return p.detach()

    assert torch.equal(run(), run())


def test_a_matrix_without_gradient_stays() -> None:
    a, b = _matrix(4, 4), _matrix(4, 4, seed=1)
    before = b.detach().clone()
    optimizer = build_optimizer([("a.weight", a), ("b.weight", b)], Muon(weight_decay=0.1))
    a.grad = torch.ones_like(a)
    optimizer.step()
    assert torch.equal(b.detach(), before)


def test_the_schedule_reaches_both_kinds() -> None:
    hidden, outer = _matrix(4, 4), _matrix(9, 4)
    starts = hidden.detach().clone(), outer.detach().clone()
    optimizer = build_optimizer([("a.weight", hidden), ("embed.weight", outer)], Muon())
    scale_lr(optimizer, 0.0)
    hidden.grad, outer.grad = torch.ones_like(hidden), torch.ones_like(outer)
    optimizer.step()
    assert torch.equal(hidden.detach(), starts[0])
    assert torch.equal(outer.detach(), starts[1])
    scale_lr(optimizer, 1.0)
    optimizer.step()
    assert not torch.equal(hidden.detach(), starts[0])
    assert not torch.equal(outer.detach(), starts[1])


def test_the_rest_is_updated_by_adamw() -> None:
    s = Muon(weight_decay=0.1)
    ours, theirs = _matrix(9, 4), _matrix(9, 4)
    optimizer = build_optimizer([("embed.weight", ours)], s)
    reference = torch.optim.AdamW([theirs], lr=s.adamw_lr, betas=s.betas, eps=s.eps, weight_decay=0.1, fused=True)
    for step in range(3):
        ours.grad = _matrix(9, 4, seed=step).detach()
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(ours, theirs)


def test_torch_state_dict_goes_round() -> None:
    def make() -> tuple[list[nn.Parameter], MuonOptimizer]:
        ps = [_matrix(4, 4), _matrix(9, 4), nn.Parameter(torch.ones(4))]
        optimizer = build_optimizer(zip(("a.weight", "embed.weight", "norm.weight"), ps, strict=True), Muon())
        assert isinstance(optimizer, MuonOptimizer)
        return ps, optimizer

    def step(ps: list[nn.Parameter], optimizer: MuonOptimizer, seed: int) -> None:
        for p in ps:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    (ps, optimizer), (qs, other) = make(), make()
    step(ps, optimizer, 0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    for seed in (1, 2):
        step(ps, optimizer, seed)
        step(qs, other, seed)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    scale_lr(other, 0.0)
    held = [q.detach().clone() for q in qs]
    step(qs, other, 3)
    assert all(torch.equal(q.detach(), h) for q, h in zip(qs, held, strict=True))
