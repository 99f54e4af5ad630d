"""A signal that ends a run in somebody's own program is delivered again, after the run has been saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

PROGRAM = """
import signal, threading
import firstlight

{handler}
settings = ["model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "tokenizer.kind=byte",
    "train.steps=10000000", "train.batch_tokens=32", "train.log_every=1"]
def train():
    result = firstlight.pretrain("text.txt", out="run", overrides=settings)
    print("returned", result.stopped_by, flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
print("default", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, flush=True)
"""
OWN = 'signal.signal(signal.SIGTERM, lambda number, frame: print("own handler", number, flush=True))'


def _train(folder: Path, number: signal.Signals, handler: str = "", call: str = "train()") -> tuple[int, list[str]]:
    (folder / "text.txt").write_text("the cat sat on a mat\n" * 100)
    program = [sys.executable, "-c", PROGRAM.format(handler=handler, call=call)]
    with subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 60
        metrics = folder / "run" / "metrics.jsonl"
        while process.poll() is None and not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()  # otherwise it would train on, and be waited for
    return process.returncode, out.splitlines()


@pytest.mark.parametrize(
    ("number", "handler", "code", "lines"),
    [
        (signal.SIGINT, "", 0, ["KeyboardInterrupt", "default True"]),
        pytest.param(signal.SIGTERM, "", -signal.SIGTERM, [], marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, OWN, 0, ["own handler 15", "returned SIGTERM"], marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "sigterm", "own-handler"],
)
def test_the_program_sees_the_signal_once_the_run_is_saved(
    number: signal.Signals, handler: str, code: int, lines: list[str], tmp_path: Path
) -> None:
    found = _train(tmp_path, number, handler)
    assert found[0] == code
    assert found[1][: len(lines)] == lines
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert '"interrupted"' in (tmp_path / "run" / "state.json").read_text()


@pytest.mark.slow
def test_outside_the_main_thread_no_handlers_are_set(tmp_path: Path) -> None:
    call = "t = threading.Thread(target=train); t.start(); t.join()"
    code, lines = _train(tmp_path, signal.SIGTERM, call=call)
    assert (code, lines) == (-signal.SIGTERM, [])
