"""Tests that kill runs and make system calls fail. ``make test-faults`` runs them and prints how many of each."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STEPS = 24
# Byte tokens of the text that every Python has: no tokenizer to train, a step of a few milliseconds.
PRETRAIN = [
    "pretrain",
    "python-docs",
    "corpus.max_bytes=60000",
    "tokenizer.kind=byte",
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=128",
    "train.trackers=[]",
    "train.sample_tokens=4",
    "train.eval_windows=8",
    "train.log_every=1",
    f"train.steps={STEPS}",
    "train.checkpoint_every=5",
    "train.eval_every=8",
    "train.sample_every=12",
    "hardware.threads=1",
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "FIRSTLIGHT_ALLOCATOR": "off", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    text: str


class Server:
    """Runs commands in processes forked from one that has imported everything."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._output = folder / "output"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, "LD_PRELOAD": str(library)},
        )
        assert self._read() == "ready"

    def run(self, *arguments: object, **environment: object) -> Ended:
        """Run a command to its end."""
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {key: str(value) for key, value in environment.items()},
            "output": str(self._output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._read())
        return Ended(code, self._output.read_text(errors="replace"))

    def close(self) -> None:
        """End the server."""
        self._process.communicate(timeout=60)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes system calls fail, compiled."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (cc)")
    path = tmp_path_factory.mktemp("library") / "inject.so"
    source = Path(__file__).with_name("inject.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(path), str(source), "-ldl"], check=True)
    return path


@pytest.fixture(scope="session")
def server(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of commands."""
    server = Server(library, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def unbroken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A run that nothing happened to, and its system calls: (call, place), each once."""
    folder = tmp_path_factory.mktemp("unbroken")
    log = folder / "calls"
    ended = server.run(*PRETRAIN, "--out", folder / "run", FAULT_FOLDER=folder, FAULT_LOG=log)
    assert ended.code == 0, ended.text
    calls = dict.fromkeys(tuple(line.split(" ", 1)) for line in log.read_text().splitlines())
    return folder / "run", [call for call in calls if call[1].startswith("/run") and call != ("mkdir", "/run")]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Count something for the summary."""

    def add(what: str, n: int = 1) -> None:
        record_property(f"fault: {what}", n)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of all tests."""
    totals: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key.startswith("fault: ") and getattr(report, "when", "") == "call":
                    totals[key.removeprefix("fault: ")] += value
    if totals:
        terminalreporter.section("kills and faults")
        for what, n in sorted(totals.items()):
            terminalreporter.write_line(f"{n:6d}  {what}")
