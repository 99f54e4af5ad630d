import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstlight.errors import CheckpointError
from firstlight.optim import AdamW, ExponentialMovingAverage, Muon, clip_gradients


def _with_grads(seed: int = 0, scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2))]
    for p in parameters[:2]:
        p.grad = torch.randn(p.shape, generator=generator) * scale
    return parameters


def _norm(parameters: list[nn.Parameter]) -> float:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item()


@settings(deadline=None)
@given(st.integers(0, 50), st.floats(1e-3, 1e3), st.floats(0.01, 10))
def test_norm_is_bounded_and_direction_kept(seed: int, scale: float, bound: float) -> None:
    parameters = _with_grads(seed, scale)
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    expected = _norm(parameters)
    found = clip_gradients(iter(parameters), AdamW(clip_norm=bound))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert _norm(parameters) <= bound * (1 + 1e-5)
    shrunk = min(1.0, bound / expected)
    for p, grad in zip(parameters, before, strict=False):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, grad * shrunk, rtol=1e-4, atol=1e-6)


def test_zero_turns_both_off() -> None:
    parameters = _with_grads(scale=100)
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    clip_gradients(parameters, Muon(clip_norm=0, clip_value=0))
    assert all(torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=False) if p.grad is not None)


def test_values_are_bounded_before_the_norm() -> None:
    parameters = _with_grads(scale=10)
    before = _norm(parameters)
    expected = [p.grad.clamp(-0.5, 0.5) for p in parameters if p.grad is not None]
    total = torch.cat([e.flatten() for e in expected]).norm()
    found = clip_gradients(parameters, AdamW(clip_value=0.5, clip_norm=1.0))
    assert found.item() == pytest.approx(before, rel=1e-5)
    for p, e in zip(parameters, expected, strict=False):
        torch.testing.assert_close(p.grad, e / total, rtol=1e-4, atol=1e-6)


def test_no_gradient_at_all_has_norm_zero() -> None:
    assert float(clip_gradients([nn.Parameter(torch.zeros(2))], AdamW())) == 0


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    parameters = _with_grads()
    assert parameters[0].grad is not None
    parameters[0].grad[0, 0] = torch.inf
    assert not torch.isfinite(clip_gradients(parameters, AdamW()))


def _model() -> tuple[nn.Linear, ExponentialMovingAverage]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, ExponentialMovingAverage(model.named_parameters(), 0.75)


def test_average_is_the_exponential_one() -> None:
    model, average = _model()
    expected = model.weight.detach().double()
    for step in range(5):
        with torch.no_grad():
            model.weight.add_(step + 1)
        expected = 0.75 * expected + 0.25 * model.weight.detach().double()
        average.update()
    torch.testing.assert_close(average.state_tensors()["weight"].double(), expected, rtol=1e-6, atol=1e-6)


def test_average_parameters_swaps_the_average_in_and_the_weights_back() -> None:
    model, average = _model()
    with torch.no_grad():
        model.weight.add_(1)
    average.update()
    own, kept = model.weight.detach().clone(), average.state_tensors()["weight"].clone()
    with pytest.raises(RuntimeError, match="inside"), average.average_parameters():
        assert torch.equal(model.weight, kept)
        raise RuntimeError("inside")
    assert torch.equal(model.weight, own)
    assert torch.equal(average.state_tensors()["weight"], kept)


def test_average_goes_round_bit_for_bit() -> None:
    (model, average), (twin, other) = _model(), _model()
    with torch.no_grad():
        model.weight.mul_(1.7)
    average.update()
    other.load_state_tensors({k: v.clone() for k, v in average.state_tensors().items()})
    twin.load_state_dict(model.state_dict())
    average.update()
    other.update()
    assert all(torch.equal(v, other.state_tensors()[k]) for k, v in average.state_tensors().items())


def test_average_of_another_model_is_refused_and_changes_nothing() -> None:
    _, average = _model()
    before = {k: v.clone() for k, v in average.state_tensors().items()}
    with pytest.raises(CheckpointError, match="other names"):
        average.load_state_tensors({"weight": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match="shape"):
        average.load_state_tensors({"weight": torch.zeros(2, 3), "bias": torch.zeros(1)})
    assert all(torch.equal(v, before[k]) for k, v in average.state_tensors().items())
