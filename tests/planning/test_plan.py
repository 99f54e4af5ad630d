"""A plan against what a run really needs."""

from typing import Any

import pytest
import torch

from firstlight import optim
from firstlight.model import GPT, ModelConfig, flops_per_token, fused_splits
from firstlight.optim import AdamW, Muon
from firstlight.planning import Plan, estimate

CONFIG = ModelConfig(n_layer=3, n_head=4, n_embd=64, block_size=32, vocab_size=300)


def plan(config: ModelConfig = CONFIG, **changes: Any) -> Plan:
    asked: dict[str, Any] = {
        "optimizer": AdamW(),
        "steps": 100,
        "minutes": None,
        "step_tokens": 64,
        "train_tokens": 3200,
        "valid_tokens": 320,
        "activation_bytes": 0,
        "ema": False,
        "kept_checkpoints": 2,
        "store_bytes": 0,
        "step_seconds": 0.5,
    }
    return estimate(config, **{**asked, **changes})


def bytes_of(settings: AdamW | Muon, averaged: bool) -> tuple[int, int, int]:
    """Return the bytes of weights, of gradients, and of what else is kept, after a real step."""
    model = GPT(CONFIG)
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer = optim.build_optimizer(model.named_parameters(), settings, fused_splits=fused_splits(model))
    average = optim.ExponentialMovingAverage(model.named_parameters(), 0.9) if averaged else None
    ids = torch.arange(64).reshape(2, 32)
    model(ids).sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = sum(t.nbytes for t in optim.state_tensors(optimizer).values() if t.numel() > 1)
    return weights, gradients, states + (weights if average is not None else 0)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("settings", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_memory_and_disk_are_those_of_a_real_step(settings: AdamW | Muon, averaged: bool):
    weights, gradients, kept = bytes_of(settings, averaged)
    found = plan(optimizer=settings, ema=averaged, activation_bytes=1_000_000, store_bytes=5_000)
    assert found.memory_bytes - 1_000_000 == pytest.approx(weights + gradients + kept, rel=0.01)
    # Two checkpoints beside the best one, with weights and what else is kept.
    assert found.disk_bytes - 5_000 == pytest.approx(3 * (weights + kept), rel=0.01)
    assert found.parameters == weights // 4


def test_counts_follow_from_the_steps():
    found = plan()
    assert found.epochs == 2.0
    assert found.total_seconds == 50.0
    assert found.total_flops == 100 * 64 * flops_per_token(CONFIG, 32)
    assert found.embedding_parameters == 2 * 300 * 64  # the head of the family modern is its own matrix
    assert found.to_json()["train_tokens"] == 3200


@pytest.mark.parametrize(
    ("steps", "minutes", "step_seconds", "seconds"),
    [
        (100, 0.5, 0.5, 30.0),
        (10, 0.5, 0.5, 5.0),
        (None, 2, 0.5, 120.0),
        (None, None, 0.5, None),
        (100, None, None, None),
    ],
)
def test_the_first_limit_ends_a_run(
    steps: int | None, minutes: float | None, step_seconds: float | None, seconds: float | None
):
    found = plan(steps=steps, minutes=minutes, step_seconds=step_seconds)
    assert found.total_seconds == seconds
    assert (found.epochs is None) == (found.total_flops is None) == (steps is None)
