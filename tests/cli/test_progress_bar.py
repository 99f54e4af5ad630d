"""Progress as a terminal and as a log file see it; an error is always the last line, whole."""

import sys

import pytest

from firstlight import progress
from firstlight.cli import progress_bar
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
    monkeypatch.setattr(progress_bar, "time", clock)
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
    assert capsys.readouterr().err.splitlines() == ["read: 2", "read: 2 done"] * 2


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
    monkeypatch.setenv("FORCE_COLOR", "1" if forced else "")
    with ProgressBar() as drawing, progress.listen(drawing):
        task = progress.Task("train", 10, "steps")
        task.advance(text="loss 1")
        drawing.error("file:3: is bad\nin [two] lines")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("error: file:3: is bad in [two] lines\n")
    assert err.count("error:") == 1


def test_bars_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as drawing, progress.listen(drawing):
        with progress.task("encode", 2_000, "B") as outer:
            outer.advance(1_000)
            progress.notice("[made] before")
            with progress.task("train", 5, "steps") as inner:
                inner.advance(5, text="loss 2.0")
        progress.notice("after all bars")
    err = capsys.readouterr().err
    assert "[made] before" in err
    assert "train: 5 of 5 steps  loss 2.0" in err
    assert err.rstrip().endswith("after all bars")


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


def test_rich_is_not_loaded_before_the_first_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as drawing, progress.listen(drawing):
        progress.notice("no bar yet")
        with pytest.raises(ImportError), progress.task("encode", 3) as task:
            task.advance()
