"""The live line of a terminal: what a person sees in wide and narrow ones, and after a resize."""

import os
from typing import TextIO

import pytest
from terminal import Terminal

from firstlight import progress
from firstlight.cli import live_line
from firstlight.cli.live_line import LiveLine
from firstlight.cli.progress_bar import ProgressBar
from firstlight.cli.progress_text import columns_of
from firstlight.progress import Event

DETAILS = "ETA 1:02:40 · loss 1.3428 · valid loss 1.5607 · 13,193 tokens/s · MFU 8 %"


class Screen:
    """A stream whose text a terminal shows."""

    encoding = "utf-8"

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.raw = ""

    def write(self, text: str) -> int:
        self.raw += text
        self.terminal.feed(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99


def screen_of(columns: int, monkeypatch: pytest.MonkeyPatch, *, reflows: bool = True) -> Screen:
    screen = Screen(Terminal(columns, reflows=reflows))
    monkeypatch.setattr(live_line, "_SECONDS_BETWEEN_DRAWS", 0)
    monkeypatch.setattr(
        "firstlight.cli.live_line.os.get_terminal_size", lambda _: os.terminal_size((screen.terminal.columns, 24))
    )
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def stream(screen: Screen) -> TextIO:
    return screen  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            160,
            "train: [==========>             ] 1,200 of 2,600 steps  ETA 1:02:40  loss 1.3428  valid loss 1.5607  "
            "13,193 tokens/s  MFU 8 %",
        ),
        (110, "train: 1,200 of 2,600 steps  ETA 1:02:40  loss 1.3428  valid loss 1.5607  13,193 tokens/s  MFU 8 %"),
        (92, "train: 1,200 of 2,600 steps  ETA 1:02:40  loss 1.3428  valid loss 1.5607  13,193 tokens/s"),
        (80, "train: 1,200/2,600  ETA 1:02:40  loss 1.3428  valid loss 1.5607"),
        (40, "1,200/2,600  ETA 1:02:40  loss 1.3428"),
        (30, "1,200/2,600  ETA 1:02:40"),
        (16, "1,200/2,600"),
        (6, "1,200"),
        (2, "1"),
    ],
)
def test_a_narrow_terminal_keeps_the_time_left(columns: int, line: str, monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(columns, monkeypatch)
    live = LiveLine(stream(screen))
    live.update(Event("train", 1200, 2600, "steps", DETAILS))
    assert screen.terminal.text == [line]
    assert columns_of(line) < columns
    live.clear()
    assert screen.terminal.text == [""]


@pytest.mark.parametrize("reflows", [True, False])
@pytest.mark.parametrize("sizes", [(100, 30, 100), (40, 160, 20), (80, 79, 78)])
def test_a_resize_leaves_nothing_behind(sizes: tuple[int, ...], reflows: bool, monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(80, monkeypatch, reflows=reflows)
    live, expected = LiveLine(stream(screen)), []
    for n, columns in enumerate((80, *sizes)):
        screen.terminal.resize(columns)
        live.update(Event("train", n, 2600, "steps", DETAILS))
        live.print(f"step {n}")
        expected.append(f"step {n}")
        live.update(Event("train", n, 2600, "steps", DETAILS))
        assert screen.terminal.text[:-1] == expected
        assert f"{n}" in screen.terminal.text[-1]
    screen.terminal.resize(25)
    live.clear()
    assert screen.terminal.text == [*expected, ""]


def test_the_task_that_began_last_is_shown(monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(100, monkeypatch)
    with ProgressBar() as display, progress.listen(display), progress.task("train", 9, "steps") as outer:
        outer.advance(3, "loss 2")
        with progress.task("validate", 40, "windows") as inner:
            inner.advance(20)
            assert screen.terminal.text[-1].endswith("20 of 40 windows")
        assert screen.terminal.text[-1].endswith("3 of 9 steps  loss 2")
        progress.notice("step 3: valid loss 1.5")
        outer.advance(6, "loss 1")
    assert screen.terminal.text == ["step 3: valid loss 1.5", "train: 9 of 9 steps  loss 1", ""]


def test_what_others_print_stays_whole(monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(60, monkeypatch)
    monkeypatch.setattr("sys.stdout", screen)
    with (
        ProgressBar() as display,
        progress.listen(display),
        display.watch_output(),
        progress.task("predict", None, "rows") as task,
    ):
        for row in range(3):
            task.advance()
            print(f"row {row}")
        task.advance()
        print("a part", end="")
        task.advance()
        print(" and the rest")
    assert screen.terminal.text == ["row 0", "row 1", "row 2", "a part and the rest", ""]


def test_only_carriage_returns_and_spaces_without_a_resize(monkeypatch: pytest.MonkeyPatch):
    """As notebooks understand them."""
    screen = screen_of(60, monkeypatch)
    with ProgressBar() as display, progress.listen(display), progress.task("train", 9, "steps") as task:
        for _ in range(9):
            task.advance(text=DETAILS)
            progress.notice("a line")
    assert "\x1b" not in screen.raw
    assert screen.terminal.text == ["a line"] * 9 + [f"train: 9 of 9 steps  {DETAILS}", ""]


def test_no_live_line_in_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(60, monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with ProgressBar() as display, progress.listen(display), progress.task("train", 9, "steps") as task:
        for _ in range(9):
            task.advance(text=DETAILS)
    assert "\r" not in screen.raw
    assert screen.raw.count("\n") == 2


def test_colors_are_not_what_decides_on_the_live_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    with ProgressBar() as display, progress.listen(display), progress.task("train", 2, "steps") as task:
        task.advance(text="loss 2")
        progress.warn("look")
    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b[33mwarning: look\x1b[0m" in err


def test_east_asian_text_is_two_columns_wide(monkeypatch: pytest.MonkeyPatch):
    screen = screen_of(20, monkeypatch)
    LiveLine(stream(screen)).update(Event("fetch 三国演义三国演义三国演义"))
    assert columns_of(screen.terminal.text[0]) < 20
