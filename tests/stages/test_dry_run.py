"""A dry run says what is free at once, and times only a part of a large step."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.cli.app import run
from firstlight.planning import Plan
from firstlight.progress import Event, listen
from firstlight.stages import dry_run as module
from firstlight.stages.pretrain import dry_run
from firstlight.types import Batch

SETTINGS = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=256",
    "train.steps=3",
    "train.trackers=[]",
    "hardware.threads=1",
]


@pytest.fixture(autouse=True)
def _as_it_was(torch_as_it_was: None) -> None:
    """Every test here trains a little."""


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The tokens of the updates that are taken, in a folder with a text."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some text of some length, " * 200, encoding="utf-8")
    tokens: list[int] = []
    train_step = module.train_step

    def counted(state, loss, batch: Batch, *rest):
        tokens.append(batch.inputs.numel())
        return train_step(state, loss, batch, *rest)

    monkeypatch.setattr(module, "train_step", counted)
    yield tokens
    assert not Path("runs").exists()


def test_a_small_step_is_timed_as_a_whole(taken: list[int]):
    plan = dry_run(["text.txt"], overrides=[*SETTINGS, "train.batch_tokens=1024"])
    assert plan.timed_tokens == plan.step_tokens == 1024
    assert plan.step_seconds is not None
    assert plan.total_seconds == 3 * plan.step_seconds
    assert taken[-4:] == [1024] * 4


def test_half_a_million_tokens_are_never_timed(taken: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MAX_SECONDS", 0.5)
    given: list[Plan] = []
    words = [*SETTINGS, "train.batch_tokens=524288"]
    plan = dry_run(["text.txt"], overrides=words, on_estimate=lambda plan: given.append(plan) or taken.clear())
    assert max(taken) <= 2 * 32_768
    assert plan.timed_tokens is not None
    assert plan.timed_tokens < plan.step_tokens == 524_288
    assert plan.step_seconds is not None
    assert plan.step_seconds > 0
    assert (given[0].parameters, given[0].step_tokens, given[0].steps) == (plan.parameters, plan.step_tokens, 3)
    assert given[0].step_seconds is None


def test_the_time_of_a_step_is_that_of_its_passes_and_one_update(taken: list[int], monkeypatch: pytest.MonkeyPatch):
    """Of 0.2 s for 256 tokens, 1 s for an update: 64 passes of 256 tokens."""
    monkeypatch.setattr(module, "_part_seconds", lambda _, rows, length, n=1: 1 + 0.2 * n * rows * length / 256)
    plan = dry_run(["text.txt"], overrides=[*SETTINGS, "train.batch_tokens=16384"])
    assert plan.step_seconds == pytest.approx(1 + 64 * 0.2, rel=0.1)
    assert plan.timed_tokens == 128


def test_a_model_that_does_not_fit_is_not_built(taken: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "free_device_memory", lambda _: 1000)
    events: list[Event] = []
    with listen(events.append):
        plan = dry_run(["text.txt"], overrides=SETTINGS)
    assert taken == []
    assert (plan.step_seconds, plan.total_seconds, plan.timed_tokens) == (None, None, None)
    assert any(e.level == "warning" and "not measured: the run needs about 0.0 GB of memory" in e.text for e in events)


def test_what_the_command_prints(taken: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    before: list[str] = []
    monkeypatch.setattr(module, "_step_seconds", lambda *_: (before.append(capsys.readouterr().out), (60.0, 512))[1])
    words = ["pretrain", "text.txt", "--dry-run", *SETTINGS, "train.batch_tokens=1024"]
    assert run(words) == 0
    names = [line.split()[0] for line in before[0].splitlines()]
    assert names == ["parameters", "data", "steps", "memory", "disk", "FLOPs"]
    assert capsys.readouterr().out.splitlines() == [
        "      time  3.0 min, 60.0 s per step, scaled from 512 of the 1,024 tokens of a step, timed on this machine",
        "Dry run: nothing was trained.",
    ]
    assert run([*words, "--json"]) == 0
    assert before[1] == ""
    assert json.loads(capsys.readouterr().out)["timed_tokens"] == 512
