"""How a run ends: by a limit, a signal, or at once."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CPU, ROWS, Letters, T, curve, go_on, lines, make_context, write_model

from firstlight import progress, signals
from firstlight.errors import ConfigError, StoreError, TrainingError
from firstlight.files import verify_manifest
from firstlight.optim import AdamW, ScheduleSettings
from firstlight.progress import Event
from firstlight.signals import StopSignals
from firstlight.store import Batches, TokenStore, Windows
from firstlight.train import (
    CheckpointManager,
    ConvergenceSettings,
    Limits,
    TrainContext,
    ValidationResult,
    fit,
    validate,
)
from firstlight.types import Batch


@pytest.mark.parametrize(
    ("settings", "step", "by"),
    [
        ({"steps": 6}, 6, "steps"),
        ({"tokens": 5 * ROWS * T + 1}, 6, "tokens"),
        ({"epochs": 0.1}, 6, "epochs"),  # 220 windows in an epoch: 22 rows of four
        ({"steps": 100, "stop_after": 3}, 3, "stop_after"),
        ({"steps": 3, "stop_after": 3}, 3, "steps"),
    ],
)
def test_limits_in_steps_tokens_and_epochs(
    tmp_path: Path, store: TokenStore, settings: dict[str, Any], step: int, by: str
) -> None:
    result = fit(make_context(tmp_path, store, **settings))
    assert (result.step, result.stopped_by, result.finished) == (step, by, by != "stop_after")
    assert (tmp_path / "latest").read_text() == f"step-{step:08d}\n"


@pytest.mark.parametrize("name", ["wsd", "cosine", "linear"])
def test_a_limit_in_minutes_runs_the_whole_schedule(tmp_path: Path, store: TokenStore, name: Any) -> None:
    """Half a second of training, after a preparation that takes most of the time."""
    settings = AdamW(lr=0.01, schedule=ScheduleSettings(name=name, warmup_ratio=0.1))
    start_time = time.perf_counter()
    ctx = make_context(
        tmp_path, store, settings=settings, minutes=100.5 / 60, process_start=start_time - 100, eval_every=0
    )
    result = fit(ctx)
    assert (result.stopped_by, result.finished) == ("minutes", True)
    assert result.seconds >= 100.5
    rates = [x["lr"] for x in lines(tmp_path) if "lr" in x]
    assert len(rates) > 5
    assert max(rates) > 0.009, "preparation is no part of the schedule"
    assert rates[-1] < 0.004, "which ends with the time"
    assert rates[0] < 0.001, "and warms up"


def stub_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    given = iter(losses)
    monkeypatch.setattr("small_run.validate", lambda *_: ValidationResult(next(given), 1.0, 10, 10))


def test_convergence_stops_where_the_valid_loss_no_longer_gains(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [9.0, 3.0, 2.0, 1.95, 1.93, 1.8, 1.79, 1.78, 1.77, 1.0])
    stop = ConvergenceSettings(evaluations=3, threshold=0.1)
    flat = AdamW(lr=0.01, schedule=ScheduleSettings(name="constant"))
    result = fit(make_context(tmp_path, store, settings=flat, convergence=stop, eval_every=2))
    assert (result.stopped_by, result.step, result.finished) == ("convergence", 16, True)
    assert (tmp_path / "best").read_text() == "step-00000016\n"


def test_convergence_without_valid_text_is_refused(tmp_path: Path, store: TokenStore) -> None:
    with pytest.raises(ConfigError, match="there is no validation text for convergence"):
        fit(make_context(tmp_path, store, convergence=ConvergenceSettings(evaluations=3), eval_every=2, evaluate=None))


def test_convergence_counts_over_a_resume(tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_losses(monkeypatch, [9.0, 2.0, 2.0, 2.0, 2.0])
    for stop_after in (5, 0):
        ctx = make_context(
            tmp_path,
            store,
            steps=50,
            convergence=ConvergenceSettings(evaluations=3),
            eval_every=2,
            stop_after=stop_after,
        )
        result = go_on(ctx)
    assert (result.stopped_by, result.step) == ("convergence", 8)


ENDING = [getattr(signal, name) for name in signals.NAMES if hasattr(signal, name)]


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
def test_a_signal_saves_and_stops(
    tmp_path: Path, store: TokenStore, events: list[Event], number: signal.Signals
) -> None:
    before = [signal.getsignal(n) for n in ENDING]
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored in this process, as under nohup")
    samples: list[str] = []

    def sample() -> str:
        samples.append("x")
        if len(samples) == 1:
            signal.raise_signal(number)
        return "x"

    result = fit(make_context(tmp_path, store, steps=12, sample_every=5, sample=sample))
    assert (result.stopped_by, result.status, result.step) == (number.name, "interrupted", 5)
    assert samples == ["x"], "no sample and no evaluation at such an end"
    assert lines(tmp_path, "samples.jsonl") == []
    assert [signal.getsignal(n) for n in ENDING] == before
    said = [e.text for e in events if not e.task]
    assert f"{number.name}: stopping after this step and saving" in said[0]
    path = tmp_path / "checkpoints" / "step-00000005"
    assert verify_manifest(path) == []
    assert go_on(make_context(tmp_path, store, steps=12, sample_every=5, sample=sample)).step == 12
    assert [x["step"] for x in lines(tmp_path, "samples.jsonl")] == [5, 10, 12], "the one cut short is repeated"
    unbroken = fit(make_context(tmp_path / "other", store, steps=12))
    assert unbroken.train_loss == [x for x in lines(tmp_path) if "loss" in x][-1]["loss"]


class SignalInEvaluation:
    """Windows of the validation split; the signal arrives when a batch of the evaluation number ``at`` is read."""

    def __init__(self, store: TokenStore, at: int) -> None:
        self._windows, self._left = Windows(store.valid, block_size=T), at
        self.n_windows, self.block_size, self.read_after = self._windows.n_windows, T, 0

    def batch(self, index: int, rows: int) -> Batch:
        self._left -= index == 0
        if self._left == 0 and index == 0:
            signal.raise_signal(signal.SIGTERM)
        self.read_after += self._left <= 0
        return self._windows.batch(index, rows)


@pytest.mark.parametrize("at", [1, 3, 4, 5], ids=["start", "weights", "averaged weights", "later"])
def test_a_signal_cuts_an_evaluation_short_and_the_next_process_repeats_it(
    tmp_path: Path, store: TokenStore, at: int
) -> None:
    def context(run: Path, windows: Any) -> TrainContext:
        ctx = make_context(
            run, store, steps=12, eval_every=4, ema_decay=0.9, dropout=0.2, convergence=ConvergenceSettings()
        )
        lengths = Letters().byte_lengths()
        ctx.evaluate = lambda rows: validate(ctx.state.model, windows, lengths, CPU, rows)
        return ctx

    windows = SignalInEvaluation(store, at)
    result = fit(context(tmp_path / "cut", windows))
    step = {1: 0, 3: 4, 4: 4, 5: 8}[at]
    assert (result.stopped_by, result.step, windows.read_after) == ("SIGTERM", step, 0)
    assert [x["step"] for x in lines(tmp_path / "cut") if "valid_loss" in x] == list(range(0, step, 4))
    whole = Windows(store.valid, block_size=T)
    again = go_on(context(tmp_path / "cut", whole))
    unbroken = fit(context(tmp_path / "unbroken", whole))
    assert again.finished and again.train_loss == unbroken.train_loss
    assert curve(tmp_path / "cut") == curve(tmp_path / "unbroken")
    pointers = [(tmp_path / run / "best").read_text() for run in ("cut", "unbroken")]
    assert pointers[0] == pointers[1]
    last = [tmp_path / run / "checkpoints/step-00000012/model.safetensors" for run in ("cut", "unbroken")]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_a_run_directory_that_is_deleted_is_not_created_again(tmp_path: Path, store: TokenStore) -> None:
    run = tmp_path / "run"

    def sample() -> str:
        shutil.rmtree(run)
        return "x"

    ctx = make_context(run, store, steps=12, sample_every=5, checkpoint_every=6, sample=sample)
    with pytest.raises(TrainingError, match="run: the run directory was deleted or moved"):
        fit(ctx)
    assert not run.exists()


def test_a_checkpoint_does_not_create_a_deleted_run_directory(tmp_path: Path, store: TokenStore) -> None:
    run = tmp_path / "run"
    ctx = make_context(run, store, steps=12, checkpoint_every=4, log_every=100)
    ctx.before_step = lambda step: shutil.rmtree(run) if step == 3 else None
    with pytest.raises(TrainingError, match="run: the run directory was deleted or moved"):
        fit(ctx)
    assert not run.exists()


def test_data_that_cannot_be_read_any_more_end_a_run_that_is_saved(tmp_path: Path, store: TokenStore) -> None:
    """The store's file is cut, which would kill the process if it was mapped into memory."""
    shutil.copytree(store.directory, tmp_path / "store")
    copy = TokenStore.open(tmp_path / "store")
    ctx = make_context(tmp_path / "run", store, batches=Batches(copy, block_size=T, seed=0), steps=12)
    ctx.before_step = lambda step: os.truncate(tmp_path / "store/train.bin", 0) if step == 3 else None
    with pytest.raises(StoreError, match="train.bin: was cut while it was in use .found 0 bytes"):
        fit(ctx)
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) in (4, 5), "the next batch was read in advance"
    shutil.copy(store.directory / "train.bin", tmp_path / "store/train.bin")
    assert go_on(make_context(tmp_path / "run", store, steps=12)).finished


def test_a_signal_during_the_last_save_leaves_it_whole(tmp_path: Path, store: TokenStore) -> None:
    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        write_model(folder, weights)

    result = fit(make_context(tmp_path, store, steps=3, checkpoints=CheckpointManager(tmp_path, write, 2)))
    assert (result.finished, result.step, result.stopped_by) == (False, 3, "SIGTERM")
    assert verify_manifest(tmp_path / "checkpoints" / "step-00000003") == []


def test_a_signal_before_the_first_step_saves_the_start(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Limits, "reached", lambda *_: signal.raise_signal(signal.SIGTERM))
        result = fit(make_context(tmp_path, store, steps=5))
    assert (result.step, result.stopped_by) == (0, "SIGTERM")
    assert go_on(make_context(tmp_path, store, steps=5)).finished


def test_a_notice_that_cannot_be_written_now_ends_nothing() -> None:
    def reentrant(event: Event) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with progress.listen(reentrant), StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.name == "SIGTERM"


def test_only_the_main_thread_takes_signals(tmp_path: Path, store: TokenStore) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fit(make_context(tmp_path, store, steps=3))))
    thread.start()
    thread.join(60)
    assert results[0].finished


PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from small_run import make_context, make_store, write_model
from firstlight.train import CheckpointManager, fit

run = Path(sys.argv[1])

def write(folder, weights):
    write_model(folder, weights)
    if "step-00000005" in str(folder):
        print("saving", flush=True)
        threading.Event().wait()  # for ever

def sample():
    signal.raise_signal(signal.SIGINT)
    return ""

store = make_store(run / "data")
points = CheckpointManager(run, write, 9)
fit(make_context(run, store, steps=50, checkpoint_every=2, sample_every=5, sample=sample, checkpoints=points))
print("never")
"""


def test_a_second_ctrl_c_quits_though_a_save_hangs(tmp_path: Path, store: TokenStore) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n", "the first Ctrl-C saves"
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # What was whole before is whole, and training goes on from it.
    result = go_on(make_context(tmp_path / "run", store, steps=6))
    assert result.step == 6
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
