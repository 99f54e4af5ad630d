"""Progress as a terminal and as a log file see it; an error is always the last line, whole."""

import contextlib
import re
import time

import pytest

from firstlight import progress
from firstlight.cli import plain_lines
from firstlight.cli.progress_bar import ProgressBar


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(plain_lines, "time", clock)
    return clock


def test_short_work_leaves_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("encode", 10, "B") as task:
        for _ in range(10):
            task.advance()
            clock.now += 0.4
    assert capsys.readouterr() == ("", "")


def test_long_work_gets_a_line_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("encode", 20_000_000, "B") as task:
        for _ in range(20):
            task.advance(1_000_000)
            clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        "encode: 6.0 of 20.0 MB",
        "encode: 11.0 of 20.0 MB",
        "encode: 16.0 of 20.0 MB",
        "encode: 20.0 of 20.0 MB done",
    ]


def test_training_shows_its_first_step_and_its_last(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("train", 30, "steps") as task:
        for step in range(30):
            task.advance(text=f"loss {step}")
            clock.now += 0.1
    assert capsys.readouterr().err.splitlines() == ["train: 1 of 30 steps  loss 0", "train: 30 of 30 steps  loss 29"]


def test_the_same_work_done_twice_is_told_twice(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing):
        for _ in range(2):
            with progress.task("read") as task:
                clock.now += 6
                task.advance()
                clock.now += 6
                task.advance()
    assert capsys.readouterr().err.splitlines() == ["read: 1", "read: 2", "read: 2 done"] * 2


def test_notices_and_warnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    with ProgressBar() as drawing, progress.listen(drawing):
        progress.notice("used again")
        progress.warn("look out")
    assert capsys.readouterr().err.splitlines() == ["used again", "warning: look out"]
    monkeypatch.setenv("RANK", "1")
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("train", 3, "steps") as task:
        progress.notice("used again")
        progress.warn("look out")
        task.advance(text="loss 1")
    assert capsys.readouterr().err.splitlines() == ["warning: look out"]


@pytest.mark.parametrize("forced", [False, True], ids=["file", "terminal"])
def test_an_error_is_one_line_after_all_progress(
    forced: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: forced)
    with ProgressBar() as drawing, progress.listen(drawing):
        task = progress.Task("train", 10, "steps")
        task.advance(text="loss 1")
        drawing.error("file:3: is bad\nin [two] lines")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].rpartition("\r")[2] == "error: file:3: is bad in [two] lines"
    assert err.count("error:") == 1


def test_the_last_line_of_training_is_printed_once(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("train", 2, "steps") as task:
        for step in range(2):
            task.advance(text=f"loss {step}")
            clock.now += 10
        progress.notice("step 2: valid loss 3")
        task.advance(0, "loss 1 · valid loss 3")
    assert capsys.readouterr().err.splitlines() == [
        "train: 1 of 2 steps  loss 0",
        "step 2: valid loss 3",
        "train: 2 of 2 steps  loss 1 · valid loss 3",
    ]


def test_a_run_of_one_step_prints_it(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("train", 1, "steps") as task:
        task.advance(text="loss 1")
    assert capsys.readouterr().err.splitlines() == ["train: 1 of 1 steps  loss 1"]


def test_work_that_fails_is_not_called_done(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with (
        ProgressBar() as drawing,
        progress.listen(drawing),
        contextlib.suppress(ZeroDivisionError),
        progress.task("encode", 20, "documents") as task,
    ):
        clock.now += 6
        task.advance(3)
        raise ZeroDivisionError
    assert capsys.readouterr().err.splitlines() == ["encode: 3 of 20 documents"]


def test_a_run_of_days_prints_a_line_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as drawing, progress.listen(drawing), progress.task("train", 86_400, "steps") as task:
        for _ in range(86_400):
            task.advance(text="loss 1")
            clock.now += 1
    assert 1_440 < len(capsys.readouterr().err.splitlines()) < 1_600


def test_work_that_cannot_count_is_named_if_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(plain_lines, "_SECONDS_BEFORE_NAME", 0.05)
    with ProgressBar() as drawing, progress.listen(drawing):
        with progress.task("load PyTorch"):
            time.sleep(0.3)
        with progress.task("build the model"):
            pass
        time.sleep(0.2)
    assert capsys.readouterr().err == "load PyTorch \u2026\n"


def test_styles_only_where_there_is_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR")
    ProgressBar().error("is bad")
    assert capsys.readouterr().err == "error: is bad\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    ProgressBar().error("is bad")
    assert capsys.readouterr().err == "\x1b[1;31merror: is bad\x1b[0m\n"
    monkeypatch.setenv("TERM", "dumb")
    ProgressBar().error("is bad")
    assert capsys.readouterr().err == "error: is bad\n"


def test_quiet_shows_warnings_and_errors_only(capsys: pytest.CaptureFixture[str]):
    with ProgressBar(quiet=True) as drawing, progress.listen(drawing), progress.task("train", 3, "steps") as task:
        task.advance(text="loss 1")
        progress.notice("used again")
        progress.warn("look out")
        drawing.error("is bad")
    assert capsys.readouterr().err == "warning: look out\nerror: is bad\n"


def test_verbose_shows_details_and_durations(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for verbose in (False, True):
        with ProgressBar(verbose=verbose) as drawing, progress.listen(drawing), progress.task("encode", 3, "B"):
            progress.detail("train.steps=12")
            time.sleep(0.15)
    assert re.sub(r"0\.[1-9] s", "N s", capsys.readouterr().err) == "train.steps=12\nencode: N s\n"
