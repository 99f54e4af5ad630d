"""Commands as a user runs them, in processes of their own, on a run small enough to be repeated."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]

# Bytes of the text that every Python has: no tokenizer to train, a step of a few milliseconds.
TINY = [
    "python-docs",
    "corpus.max_bytes=60000",
    "tokenizer.kind=byte",
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=128",
    "train.trackers=[]",
    "train.sample_tokens=8",
    "train.eval_windows=8",
    "train.log_every=1",
    "hardware.threads=1",
]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Words of a run that takes a second."""
    return list(TINY)


def _environment(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FIRSTLIGHT_ALLOCATOR": "off", "NO_COLOR": "1", **extra}


@pytest.fixture(scope="session")
def start() -> Start:
    """Start a command without waiting for it."""

    def begin(
        *words: object, launcher: Sequence[str] = (), popen: Mapping[str, Any] | None = None, **environment: str
    ) -> "subprocess.Popen[str]":
        command = [sys.executable, *launcher, "-m", "firstlight", *map(str, words)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=_environment(environment), **{**pipes, **(popen or {})})

    return begin


@pytest.fixture(scope="session")
def run(start: Start) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command to its end; by default it must succeed."""

    def command(*words: object, ok: bool = True, **more: object) -> "subprocess.CompletedProcess[str]":
        process = start(*words, **more)
        out, err = process.communicate(timeout=300)
        assert not ok or process.returncode == 0, f"{words}: exit code {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return command
