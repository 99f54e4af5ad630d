"""Signals outside and inside training."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from firstlight import signals
from firstlight.errors import Interrupted
from firstlight.signals import StopSignals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 138), ("SIGXCPU", 152)]
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other numbers")
def test_exit_codes(name: str, code: int) -> None:
    assert Interrupted(name).exit_code == code


def test_within_training_only_work_that_changes_nothing_is_cut_short() -> None:
    with signals.raise_on_signal():
        assert not signals.is_training()
    with StopSignals() as stop:
        assert signals.is_training()
        with pytest.raises(Interrupted, match="SIGUSR1"), signals.raise_on_signal():
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)  # recorded only, outside
        assert stop.name == "SIGUSR1"
        with pytest.raises(Interrupted, match="SIGUSR1"), signals.raise_on_signal():
            pytest.fail("begun after a signal")


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
            assert stop.name is None
    finally:
        signal.signal(signal.SIGHUP, before)


PROGRAM = """
import signal, sys, threading, time
from firstlight import signals
signals.install(lambda name: print("reported", name, flush=True))
print("ready", flush=True)
try:
    {}
finally:
    signals.uninstall()
"""
# The signal reaches another thread, and does not interrupt the call: Python's handlers do not run before it returns.
STUCK = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); time.sleep(30)"


def _ends(body: str, number: signal.Signals) -> tuple[int, str, float]:
    command = [sys.executable, "-c", PROGRAM.format(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        start = time.monotonic()
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        return process.returncode, out, time.monotonic() - start


def test_a_library_call_that_does_not_return_is_ended_within_two_seconds() -> None:
    code, out, seconds = _ends(STUCK, signal.SIGTERM)
    assert (code, out) == (143, "reported SIGTERM\n")
    assert seconds < 3


def test_the_default_action_ends_at_once() -> None:
    code, out, seconds = _ends("with signals.default_action(): time.sleep(30)", signal.SIGTERM)
    assert (code, out) == (-signal.SIGTERM, "")
    assert seconds < 1


def test_the_default_action_is_that_of_the_embedding_program_without_installed_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.default_action():
        assert signal.getsignal(signal.SIGTERM) is before


TWICE = """
import os, signal, time
from rich.console import Console
from rich.progress import Progress
from firstlight.signals import StopSignals
with Progress(console=Console(stderr=True)) as bars, StopSignals():
    bars.add_task("train")
    os.write(1, b"ready\\n")  # rich redirects print
    while True:
        time.sleep(0.05)
"""


def test_a_second_ctrl_c_ends_at_once_and_shows_the_cursor() -> None:
    import pty

    terminal, other = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(terminal, shown), daemon=True)
    reader.start()
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE],
        stdout=subprocess.PIPE,
        stderr=other,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(other)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
        process.communicate(timeout=10)
    reader.join(10)
    os.close(terminal)
    found = b"".join(shown)
    assert found.rindex(b"\x1b[?25h") > found.rindex(b"\x1b[?25l")


def _read_all(terminal: int, shown: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # Linux's answer once the other side is closed
        while piece := os.read(terminal, 1 << 16):
            shown.append(piece)
