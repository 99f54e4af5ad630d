"""One step: its gradient however it is cut, what it refuses, and the order of clip, update and average."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_run import CPU, T, differing, held, make_model, make_state
from torch import Tensor, nn

from firstlight.errors import TrainingError
from firstlight.model import GPT
from firstlight.optim import AdamW, Muon
from firstlight.train import Counters, LossModule, StepResult, TrainState, train_step
from firstlight.types import Batch

FREE = AdamW(clip_norm=0)
BOTH = pytest.mark.parametrize("optimizer", [AdamW(lr=0.01), Muon(lr=0.02)], ids=lambda s: s.name)


def make_batch(weights: Tensor | None = None, rows: int = 6, seed: int = 0) -> Batch:
    ids = torch.randint(0, 12, (rows, T + 1), generator=torch.Generator().manual_seed(seed))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)


def plain(model: GPT, lr: float = 1.0) -> TrainState:
    """A state whose update is the gradient itself, taken off the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return TrainState(model, optimizer)


def step(
    state: TrainState,
    batch: Batch,
    clip: AdamW | Muon = FREE,
    module: nn.Module | None = None,
    **device_context: object,
) -> StepResult:
    return train_step(state, module or LossModule(state.model), batch, 1.0, clip, replace(CPU, **device_context))  # type: ignore[arg-type]


def gradient(model: GPT, batch: Batch, micro: int) -> tuple[dict[str, Tensor], StepResult]:
    """Return the gradient of a step in pieces of ``micro`` rows, as the update that it makes."""
    own = make_model()
    own.load_state_dict(model.state_dict())
    state = plain(own)
    state.counters.micro_batch = micro
    before = {n: p.detach().double().clone() for n, p in own.named_parameters()}
    outcome = step(state, batch)
    return {n: before[n] - p.detach().double() for n, p in own.named_parameters()}, outcome


def reference(model: GPT, batch: Batch, pieces: list[slice]) -> tuple[dict[str, Tensor], float]:
    """Return in float64 the mean over pieces of the weighted mean over each piece's targets, and its gradient."""
    exact = make_model().double()
    exact.load_state_dict(model.state_dict())
    weights = torch.ones(batch.targets.shape) if batch.weights is None else batch.weights
    means = []
    for piece in pieces:
        nats = F.cross_entropy(
            exact(batch.inputs[piece]).flatten(0, 1), batch.targets[piece].flatten(), reduction="none"
        )
        weight = weights[piece].double().flatten()
        means.append((nats * weight).sum() / weight.sum())
    loss = torch.stack(means).mean()
    names, parameters = zip(*exact.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)), loss.item()


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[n] - b[n]).abs().max().item() for n in b)


def uneven() -> Tensor:
    """Weights of six rows: all of the first counts, little of the others, and some by a fraction."""
    weights = torch.zeros(6, T)
    weights[0] = 1
    weights[2, 3] = 2.5
    weights[4, :2] = 0.25
    weights[5, -1] = 1
    return weights


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 6, 100])
@pytest.mark.parametrize("weights", [None, uneven()], ids=["whole", "masked"])
def test_gradient_over_pieces_is_the_whole_batchs(micro: int, weights: Tensor | None) -> None:
    batch, model = make_batch(weights), make_model()
    exact, loss = reference(model, batch, [slice(0, 6)])
    ours, outcome = gradient(model, batch, micro)
    assert distance(ours, exact) < 2e-6
    assert outcome.loss == pytest.approx(loss, rel=1e-6)


def test_a_mean_of_means_would_be_seen() -> None:
    batch, model = make_batch(uneven()), make_model()
    exact, loss = reference(model, batch, [slice(0, 6)])
    wrong, wrong_loss = reference(model, batch, [slice(0, 2), slice(2, 4), slice(4, 6)])
    assert distance(wrong, exact) > 1e-2
    assert abs(wrong_loss - loss) > 1e-2


@given(
    micro=st.integers(1, 6),
    weights=st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.3, 2.0]), min_size=6 * T, max_size=6 * T),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
def test_any_weights_in_any_pieces(micro: int, weights: list[float]) -> None:
    weights[17] = 1.0
    batch, model = make_batch(torch.tensor(weights).view(6, T)), make_model()
    exact, loss = reference(model, batch, [slice(0, 6)])
    ours, outcome = gradient(model, batch, micro)
    assert distance(ours, exact) < 3e-6
    assert outcome.loss == pytest.approx(loss, rel=1e-5)
    assert outcome.targets == sum(w > 0 for w in weights)


def test_document_starts_reach_the_model() -> None:
    ids = make_batch()
    starts = torch.zeros(6, T, dtype=torch.bool)
    starts[:, [0, 5, 9]] = True
    batch = Batch(ids.inputs, ids.targets, None, starts)
    model = make_model()
    with torch.no_grad():
        expected = model.loss(batch.inputs, batch.targets, None, starts).sum.item() / batch.targets.numel()
    _, outcome = gradient(model, batch, 2)
    assert outcome.loss == pytest.approx(expected, rel=1e-6)
    assert outcome.loss != pytest.approx(gradient(model, ids, 2)[1].loss, rel=1e-4)


def test_targets_are_counted_and_not_their_weights() -> None:
    outcome = step(make_state(), make_batch(uneven()))
    assert outcome.targets == T + 4
    assert isinstance(outcome.targets, int)


@BOTH
def test_a_batch_without_targets_changes_nothing(optimizer: AdamW | Muon) -> None:
    state = make_state(optimizer, average=0.9)
    step(state, make_batch())
    before = held(state)
    outcome = step(state, make_batch(torch.zeros(6, T)))
    assert (outcome.targets, outcome.applied) == (0, False)
    assert math.isnan(outcome.loss)
    assert not differing(before, held(state))


class Poisoned(nn.Module):
    """A loss module that spoils its loss, or only its gradient."""

    def __init__(self, model: GPT, how: str) -> None:
        super().__init__()
        self.own, self.how = LossModule(model), how

    def forward(self, *batch: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, count = self.own(*batch)
        if self.how == "gradient":
            return loss + (loss * 0).sqrt(), count  # the root of zero is zero, its slope infinite
        return loss * float(self.how), count


@BOTH
@pytest.mark.parametrize("how", ["nan", "inf", "-inf", "gradient"])
def test_what_is_not_finite_leaves_everything_as_it_was(optimizer: AdamW | Muon, how: str) -> None:
    state = make_state(optimizer, average=0.9)
    for seed in range(3):
        assert step(state, make_batch(seed=seed), optimizer).applied
    before = held(state)
    outcome = step(state, make_batch(seed=3), optimizer, Poisoned(state.model, how))
    assert not outcome.applied
    assert math.isfinite(outcome.loss) == (how == "gradient")
    assert how != "gradient" or not math.isfinite(outcome.grad_norm)
    assert not differing(before, held(state))
    assert all(p.grad is None for p in state.model.parameters()), "nothing of it is left for the next step"
    # The next step is the one that would have followed without it.
    after = step(state, make_batch(seed=4), optimizer)
    other = make_state(optimizer, average=0.9)
    for seed in (0, 1, 2, 4):
        last = step(other, make_batch(seed=seed), optimizer)
    assert after == last
    assert not differing(held(state), held(other))


def test_the_gradient_is_clipped_before_the_update() -> None:
    model = make_model()
    whole, outcome = gradient(model, make_batch(), 6)
    norm = math.sqrt(sum(g.square().sum().item() for g in whole.values()))
    assert outcome.grad_norm == pytest.approx(norm, rel=1e-5)
    state = plain(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    outcome = step(state, make_batch(), AdamW(clip_norm=0.01))
    assert outcome.grad_norm == pytest.approx(norm, rel=1e-5), "the norm before clipping is reported"
    moved = math.sqrt(sum((before[n] - p).double().square().sum().item() for n, p in model.named_parameters()))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_the_gradient_is_clipped_by_value() -> None:
    model = make_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(plain(model), make_batch(), AdamW(clip_norm=0, clip_value=0.002))
    moved = max((before[n] - p).abs().max().item() for n, p in model.named_parameters())
    assert moved == pytest.approx(0.002, rel=1e-3)


def test_the_rate_is_set_for_the_step() -> None:
    state = plain(make_model(), lr=0.5)
    train_step(state, LossModule(state.model), make_batch(), 0.25, FREE, CPU)
    assert state.optimizer.param_groups[0]["lr"] == 0.125


def test_the_average_follows_the_updated_weights() -> None:
    state = make_state(AdamW(lr=0.01), average=0.75)
    old = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    step(state, make_batch())
    assert state.ema is not None
    kept = state.ema.state_tensors()
    for name, new in state.model.named_parameters():
        torch.testing.assert_close(kept[name], 0.75 * old[name] + 0.25 * new.detach())
        assert name.endswith("bias") or not torch.equal(kept[name], old[name])


def scaled(scale: float, **kw: float) -> TrainState:
    state = make_state(AdamW(lr=0.01), **kw)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return state


def test_a_power_of_two_as_loss_scale_changes_no_bit() -> None:
    one, two = make_state(AdamW(lr=0.01)), scaled(2.0**10)
    one.counters.micro_batch = two.counters.micro_batch = 2
    for seed in range(3):
        batch = make_batch(seed=seed)
        assert step(one, batch, AdamW()) == step(two, batch, AdamW())
    assert not differing(held(one), held(two))


def test_an_overflow_of_fp16_lowers_the_scale_and_nothing_else() -> None:
    state = scaled(2.0**60, average=0.5)
    before = held(state)
    outcome = step(state, make_batch(), precision="fp16")
    assert not outcome.applied
    assert math.isfinite(outcome.loss)
    assert not differing(before, held(state))
    assert state.scaler is not None
    assert state.scaler.get_scale() == 2.0**59


def test_fp16_trains_as_fp32_does() -> None:
    half, full = scaled(2.0**8), make_state(AdamW(lr=0.01))
    outcomes = [(step(half, b, precision="fp16"), step(full, b)) for b in (make_batch(seed=s % 2) for s in range(20))]
    assert all(h.applied for h, _ in outcomes)
    assert all(h.loss == pytest.approx(f.loss, rel=0.02) for h, f in outcomes)
    assert outcomes[-1][1].loss < outcomes[0][1].loss - 0.2


def test_out_of_memory_amid_the_update_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    state.counters = Counters(step=6)

    def full() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(state.optimizer, "step", full)
    with pytest.raises(TrainingError, match="step 7: out of memory in the optimizer's update"):
        step(state, make_batch())


def test_other_errors_of_the_update_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()

    def broken() -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(state.optimizer, "step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        step(state, make_batch())
