"""The loop: the same twice, the same in pieces, and what it writes down."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import ROWS, T, curve, differing, go_on, lines, make_context, tensors

from firstlight.files import write_manifest
from firstlight.optim import AdamW, Muon, ScheduleSettings
from firstlight.progress import Event
from firstlight.store import Batches, TokenStore
from firstlight.train import TRACKERS, TrainContext, fit
from firstlight.types import Batch

BOTH = pytest.mark.parametrize(
    "optimizer",
    [pytest.param(AdamW(lr=0.01), id="adamw", marks=pytest.mark.slow), pytest.param(Muon(lr=0.02), id="muon")],
)
EVERYTHING: dict[str, Any] = {
    "dropout": 0.2,
    "ema_decay": 0.9,
    "eval_every": 3,
    "sample_every": 4,
    "checkpoint_every": 5,
    "steps": 20,
}


def rude(ctx: list[TrainContext]) -> Callable[[], str]:
    """A sampler that draws random numbers and leaves the model in another mode."""

    def sample() -> str:
        model = ctx[0].state.model.eval()
        with torch.no_grad():
            ids = torch.randint(0, 11, (1, 4))
            return "".join(chr(97 + int(i)) for i in model(ids)[0].argmax(-1))

    return sample


def job_of(run: Path, store: TokenStore, **kw: Any) -> TrainContext:
    jobs: list[TrainContext] = []
    ctx = make_context(run, store, **{"sample": rude(jobs), **EVERYTHING, **kw})
    jobs.append(ctx)
    return ctx


def last(run: Path) -> Path:
    return run / "checkpoints" / (run / "latest").read_text().strip()


@pytest.mark.slow
@BOTH
def test_the_same_run_twice_gives_the_same_figures(tmp_path: Path, store: TokenStore, optimizer: AdamW | Muon) -> None:
    for name in ("one", "two"):
        fit(job_of(tmp_path / name, store, settings=optimizer))
    one, two = tmp_path / "one", tmp_path / "two"
    assert curve(one) == curve(two)
    assert len([x for x in curve(one) if "loss" in x]) == 20
    assert lines(one, "samples.jsonl") == lines(two, "samples.jsonl")
    assert not differing(tensors(last(one)), tensors(last(two)))


@BOTH
def test_a_run_in_pieces_is_the_unbroken_one(tmp_path: Path, store: TokenStore, optimizer: AdamW | Muon) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job_of(whole, store, settings=optimizer))
    for stop_after in (7, 13, 0):
        result = go_on(job_of(broken, store, settings=optimizer, stop_after=stop_after))
        assert result.finished == (stop_after == 0)
        assert result.step == (stop_after or 20)
    assert curve(broken) == curve(whole)
    assert lines(broken, "samples.jsonl") == lines(whole, "samples.jsonl")
    assert last(broken).name == "step-00000020"
    assert not differing(tensors(last(broken)), tensors(last(whole)))
    names = {file.partition("/")[0] for file in tensors(last(whole))}
    assert names == {"model.safetensors", "optimizer.safetensors", "random.safetensors"}


@BOTH
def test_watching_does_not_change_the_run(tmp_path: Path, store: TokenStore, optimizer: AdamW | Muon) -> None:
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    fit(job_of(watched, store, settings=optimizer))
    fit(
        job_of(
            alone, store, settings=optimizer, eval_every=0, sample_every=0, checkpoint_every=0, log_every=7, sample=None
        )
    )
    assert not differing(tensors(last(watched)), tensors(last(alone)))


def test_random_numbers_and_weights_matter_to_these_tests(tmp_path: Path, store: TokenStore) -> None:
    """Forgetting the random state on a resume is seen."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job_of(whole, store))
    fit(job_of(broken, store, stop_after=7))
    file = last(broken) / "trainer" / "random.safetensors"
    table = {k: v.clone() for k, v in load_file(file).items()}
    table["0/cpu"][8] ^= 1
    save_file(table, file)
    write_manifest(last(broken))
    go_on(job_of(broken, store))
    assert "model.safetensors/transformer.wte.weight" in differing(tensors(last(broken)), tensors(last(whole)))


class Breaks:
    """Batches until the disk is gone."""

    def __init__(self, store: TokenStore, step: int) -> None:
        self.own, self.at = Batches(store, block_size=T, seed=0), step * ROWS

    def batch(self, position: int, rows: int) -> Batch:
        if position >= self.at:
            raise OSError("the disk is gone")
        return self.own.batch(position, rows)

    def sources(self, position: int, rows: int) -> list[str]:
        return self.own.sources(position, rows)


def test_after_a_crash_the_log_is_cut_back_and_the_run_is_the_same(tmp_path: Path, store: TokenStore) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job_of(whole, store))
    ctx = job_of(broken, store, batches=Breaks(store, 18), eval_every=7)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(ctx)
    assert max(x["step"] for x in lines(broken)) == 18
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 19, "lo')
    assert last(broken).name == "step-00000015", "a save under way is waited for"
    (broken / "metrics.jsonl").write_text(
        (broken / "metrics.jsonl").read_text().replace('"step": 14,', '"step": 99,', 1)
    )
    go_on(job_of(broken, store))
    steps = [x["step"] for x in lines(broken) if "loss" in x]
    assert steps == [*range(1, 14), 99, *range(15, 21)], "beyond the checkpoint each is there once, a spoilt one stays"
    assert not differing(tensors(last(broken)), tensors(last(whole)))


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path, store: TokenStore) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job_of(whole, store, checkpoint_every=0, eval_every=0))
    with pytest.raises(OSError, match="gone"):
        fit(job_of(broken, store, checkpoint_every=0, eval_every=0, batches=Breaks(store, 4)))
    go_on(job_of(broken, store, checkpoint_every=0, eval_every=0))
    assert curve(broken) == curve(whole)


def test_a_longer_limit_goes_on(tmp_path: Path, store: TokenStore) -> None:
    flat = AdamW(lr=0.01, schedule=ScheduleSettings(name="constant"))
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    fit(job_of(whole, store, settings=flat))
    assert go_on(job_of(longer, store, settings=flat, steps=12)).finished
    result = go_on(job_of(longer, store, settings=flat))
    assert (result.step, result.stopped_by) == (20, "steps")
    assert not differing(tensors(last(longer)), tensors(last(whole)))
    again = go_on(job_of(longer, store, settings=flat))
    assert (again.step, again.finished) == (20, True)
    assert again.valid == result.valid


def test_what_is_written_down(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=23, log_every=5, eval_every=10, process_start=time.perf_counter() - 50)
    result = fit(ctx)
    trained = [x for x in lines(tmp_path) if "loss" in x]
    assert [x["step"] for x in trained] == [1, 5, 10, 15, 20, 23], "the first and the last one too"
    assert set(trained[0]) == {
        "step",
        "tokens",
        "seconds",
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "memory_bytes",
        "mfu",
    }
    assert [x["tokens"] for x in trained] == [x["step"] * ROWS * T for x in trained]
    assert trained[0]["lr"] == 0.01
    assert 0 < trained[-1]["lr"] < 0.01
    assert trained[0]["mfu"] == pytest.approx(trained[0]["tokens_per_second"] * 1e5 / 1e12, abs=1e-4)
    evaluated = [x for x in lines(tmp_path) if "valid_loss" in x]
    assert [x["step"] for x in evaluated] == [0, 10, 20, 23]
    assert set(evaluated[0]) == {"step", "tokens", "seconds", "valid_loss", "perplexity", "bits_per_byte"}
    seconds = [x["seconds"] for x in lines(tmp_path)]
    assert seconds == sorted(seconds)
    assert 50 < seconds[0] < seconds[-1] <= result.seconds + 0.001 < 100
    assert result.valid is not None
    assert result.valid.loss == evaluated[-1]["valid_loss"]
    assert result.train_loss == trained[-1]["loss"]
    assert (result.tokens, result.finished) == (23 * ROWS * T, True)


def test_it_learns_the_order_of_the_letters(tmp_path: Path, store: TokenStore) -> None:
    result = fit(make_context(tmp_path, store, steps=120, log_every=100))
    assert result.valid is not None
    assert result.valid.loss < 1.0 < 2.3, "from ln 12 = 2.48"


def test_seconds_add_up_over_resumes(tmp_path: Path, store: TokenStore) -> None:
    first = fit(make_context(tmp_path, store, steps=20, stop_after=3, process_start=time.perf_counter() - 100))
    ctx = make_context(tmp_path, store, steps=20, process_start=time.perf_counter() - 30)
    second = go_on(ctx)
    assert 130 < second.seconds < 200
    assert first.seconds + 30 <= second.seconds
    assert 130 < ctx.counters.setup_seconds < second.seconds - 0.01


def test_progress_tells_how_far_it_is(tmp_path: Path, store: TokenStore, events: list[Event]) -> None:
    fit(make_context(tmp_path, store, steps=10, stop_after=4, eval_every=2))
    events.clear()
    go_on(make_context(tmp_path, store, steps=10, eval_every=2))
    told = [e for e in events if e.task == "train"]
    assert [e.done for e in told] == [0, 4, 5, 6, 7, 8, 9, 10, 10, 10]
    assert {(e.total, e.unit) for e in told} == {(10, "steps")}
    assert told[-1].finished
    parts = told[-3].text.split(" · ")
    assert [p.split()[0] for p in (*parts[:3], *parts[4:])] == ["ETA", "loss", "valid", "MFU"]
    assert parts[0] == "ETA 0:00"
    assert parts[3].endswith(" tokens/s")
    assert told[-1].text.startswith("loss "), "no time is left"


def test_evaluation_covers_the_average_too(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=6, ema_decay=0.9)
    fit(ctx)
    (line,) = [x for x in lines(tmp_path) if "valid_loss" in x]
    assert line["valid_loss_average"] > line["valid_loss"], "it lags behind while the loss falls"
    assert ctx.evaluate is not None
    assert ctx.evaluate(4).loss == line["valid_loss"], "the weights are back"


def test_a_model_left_in_evaluation_mode_trains_with_dropout(tmp_path: Path, store: TokenStore) -> None:
    losses = []
    for name in ("one", "two"):
        ctx = job_of(tmp_path / name, store, steps=3)
        ctx.module.train(name == "one")
        losses.append(fit(ctx).train_loss)
    assert losses[0] == losses[1]


def test_a_run_without_valid_text_trains(tmp_path: Path, store: TokenStore) -> None:
    result = fit(make_context(tmp_path, store, steps=4, eval_every=2, evaluate=None))
    assert (result.finished, result.valid) == (True, None)
    assert last(tmp_path).name == "step-00000004"


@pytest.mark.parametrize("breaks_at", [3, 99])
def test_trackers_are_closed_however_a_run_ends(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, breaks_at: int
) -> None:
    seen: list[Any] = []

    class Follower:
        def __init__(self, run: Path) -> None:
            self.run = run

        def log(self, step: int, figures: dict[str, float]) -> None:
            seen.append(step)

        def close(self) -> None:
            seen.append("closed")

    monkeypatch.setitem(TRACKERS, "follower", Follower)
    ctx = make_context(tmp_path, store, steps=4, evaluate=None, trackers=["follower"], batches=Breaks(store, breaks_at))
    try:
        fit(ctx)
    except OSError:
        assert breaks_at == 3
    assert seen == [1, 2, 3, 4][:breaks_at] + ["closed"]
