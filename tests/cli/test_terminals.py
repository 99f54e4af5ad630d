"""Training in a pseudo-terminal: wide, narrow, resized on the way, dumb, without colors, and without UTF-8."""

import contextlib
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_world import RUN_SETTINGS
from terminal import Terminal

fcntl = pytest.importorskip("fcntl", reason="needs pseudo-terminals")
termios = pytest.importorskip("termios", reason="needs pseudo-terminals")

# What a run prints, without its seconds of loading.
PROGRAM = """
import time
from firstlight import progress
from firstlight.cli.progress_bar import ProgressBar
from firstlight.cli.streams import open_standard_streams
open_standard_streams()
with ProgressBar() as display, progress.listen(display), display.watch_output():
    with progress.task("train", 1000, "steps") as train:
        for step in range(1, 41):
            time.sleep(0.02)
            train.advance(25, "ETA 0:10 · loss 1.5000 · valid loss 1.7000 · 3,100 tokens/s · MFU 8 %")
            if step % 20 == 0:
                with progress.task("validate", 5, "windows") as validate:
                    for _ in range(5):
                        time.sleep(0.03)
                        validate.advance()
                progress.notice(f"step {step}: train loss 1.5000 · valid loss 1.7000 (-0.1000) · best so far")
                progress.warn("look")
        train.advance(0, "loss 1.5000")
    print("the result ± 1")
"""
LINES = [
    "step 20: train loss 1.5000 · valid loss 1.7000 (-0.1000) · best so far",
    "warning: look",
    "step 40: train loss 1.5000 · valid loss 1.7000 (-0.1000) · best so far",
    "warning: look",
    "train: 1,000 of 1,000 steps  loss 1.5000",
    "the result ± 1",
    "",
]


def run_in_terminal(
    command: Sequence[str],
    columns: int,
    *,
    resizes: Sequence[int] = (),
    resize_when: str = "train: ",
    reflows: bool = True,
    **environment: str,
) -> tuple[Terminal, str, int]:
    """Run a command in a pseudo-terminal; return the terminal, the raw text, and the exit code.

    Args:
        command: the command.
        columns: width at first.
        resizes: further widths, each half a second after the one before; the first when ``resize_when`` is shown.
        resize_when: a text.
        reflows: as in Terminal.
        environment: variables to set; an empty one is removed.
    """
    main, child = os.openpty()
    terminal, waiting, due = Terminal(columns, reflows=reflows), list(resizes), float("inf")

    def resize(columns: int) -> None:
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        terminal.resize(columns)

    resize(columns)
    variables = {**os.environ, "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "", **environment}
    variables = {name: value for name, value in variables.items() if value}
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=variables)
    raw, end = b"", time.monotonic() + 120
    try:
        while time.monotonic() < end:
            if select.select([main], [], [], 0.05)[0]:
                raw += (data := os.read(main, 65536))
                terminal.feed(data.decode(errors="replace").replace("\r\n", "\n"))
            elif process.poll() is not None:
                break
            if resize_when.encode() in raw and due == float("inf"):
                due = time.monotonic()
            if waiting and time.monotonic() >= due:
                resize(waiting.pop(0))
                due = time.monotonic() + 0.4
    finally:
        process.kill()
        with contextlib.suppress(OSError):
            os.close(main)
        os.close(child)
    assert not waiting, "it ended too early"
    return terminal, raw.decode(errors="replace"), process.wait(10)


SCRIPT = (sys.executable, "-c", PROGRAM)


@pytest.mark.parametrize("columns", [80, 40])
def test_only_whole_lines_stay(columns: int):
    terminal, raw, code = run_in_terminal(SCRIPT, columns)
    assert (terminal.text, code) == (LINES, 0)
    assert "\x1b[33mwarning: look\x1b[0m" in raw
    assert "ETA 0:10" in raw


@pytest.mark.parametrize(("sizes", "reflows"), [((80, 40, 100), True), ((40, 100, 30), False)])
def test_nothing_else_stays_after_resizes(sizes: tuple[int, ...], reflows: bool):
    terminal, _, code = run_in_terminal(SCRIPT, sizes[0], resizes=sizes[1:], reflows=reflows)
    assert (terminal.text, code) == (LINES, 0)


def test_a_dumb_terminal_gets_lines():
    terminal, raw, code = run_in_terminal(SCRIPT, 80, TERM="dumb")
    assert code == 0
    assert "\x1b" not in raw
    first = "train: 25 of 1,000 steps  ETA 0:10 · loss 1.5000 · valid loss 1.7000 · 3,100 tokens/s · MFU 8 %"
    assert terminal.text == [first, *LINES]


def test_no_color():
    terminal, raw, code = run_in_terminal(SCRIPT, 80, NO_COLOR="1")
    assert (terminal.text, code) == (LINES, 0)
    assert "\x1b" not in raw


def test_a_terminal_without_utf_8():
    terminal, raw, code = run_in_terminal(SCRIPT, 80, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (terminal.text, code) == ([line.replace("·", "-").replace("±", "+/-") for line in LINES], 0)
    assert raw.isascii()


@pytest.mark.slow
def test_a_run_that_is_resized(world: Path):
    words = [*RUN_SETTINGS, "train.steps=400", "train.eval_every=100", "train.checkpoint_every=0"]
    command = [sys.executable, "-m", "firstlight", "pretrain", "text.txt", "--out", "new", *words]
    terminal, raw, code = run_in_terminal(command, 80, resizes=(40, 120), reflows=True)
    assert code == 0, raw
    kinds = [line.partition(":")[0] for line in terminal.text]
    assert kinds == [
        "new/data",
        "step 0",
        *(f"step {step}{kind}" for step in (100, 200, 300, 400) for kind in ("", " sample")),
        "train",
        str(Path("new")),
        "last evaluation",
        "best evaluation",
        "report",
        "",
    ]
