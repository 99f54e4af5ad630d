"""A run whose process is killed, or whose disk fails, at any point ends after a resume with the same bits."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ENVIRONMENT, PRETRAIN, Ended, Server

pytestmark = pytest.mark.faults

KILLS = 100
PER_RUN = 10
ERRORS = {
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.ENOSPC),
    "unlink": (errno.EACCES, errno.EROFS),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "open": (errno.ENOSPC, errno.EMFILE),
}


def last_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "latest").read_text(encoding="utf-8").strip()


def check(whole: Path, run: Path, *, logs: bool = True) -> None:
    """Compare the last checkpoints bit for bit; check that each step and sample is logged once, and nothing is left."""
    one, two = last_checkpoint(whole), last_checkpoint(run)
    assert one.name == two.name
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for name, keep in (("metrics.jsonl", ("step", "loss", "valid_loss")), ("samples.jsonl", ("step", "text"))):
        lines = [
            [{k: v for k, v in json.loads(line).items() if k in keep} for line in (r / name).read_text().splitlines()]
            for r in (whole, run)
            if (r / name).is_file() or logs
        ]
        assert lines[0] == lines[-1] or not logs, name
    assert json.loads((run / "state.json").read_text())["status"] == "finished"
    assert not [
        p
        for p in run.rglob("*")
        if p.name.startswith((".firstlight-part-", ".firstlight-old-", ".firstlight-prepare-"))
    ]


def check_message(ended: Ended) -> None:
    assert "Traceback" not in ended.text, ended.text
    assert "internal error" not in ended.text, ended.text
    assert ended.code == 0 or [line for line in ended.text.splitlines() if line.startswith("error: ")], ended.text


@pytest.mark.parametrize("seed", range(KILLS // PER_RUN))
def test_random_kills(seed: int, unbroken, tmp_path: Path, count: Callable[..., None]) -> None:
    """Processes of their own, killed at any time from their start to their end."""
    whole, _ = unbroken
    out, dice = tmp_path / "run", random.Random(seed)
    command = [sys.executable, "-m", "firstlight", *PRETRAIN, "--out", str(out), "--resume"]
    environment = {**os.environ, **ENVIRONMENT}
    start = time.monotonic()
    subprocess.run([*command[:-3], "--dry-run"], env=environment, check=True, capture_output=True)
    seconds = time.monotonic() - start  # of a process that trains little
    kills = 0
    while kills < PER_RUN:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=dice.uniform(0.3, 1.5) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.returncode == 0:  # ended before it was killed: the run starts anew, elsewhere
            check(whole, out)
            out = out.with_name(f"{out.name}-")
            command[command.index("--out") + 1] = str(out)
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
    subprocess.run(command, env=environment, check=True, capture_output=True)
    check(whole, out)
    count("random kills, each run resumed to the same bits", kills)


GROUPS = 12


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("what", ["kill", "once", "from then on"])
def test_every_call(
    what: str, group: int, unbroken, server: Server, tmp_path: Path, count: Callable[..., None]
) -> None:
    """Each system call that changes the run: the process is killed there, or the call fails once, or always."""
    whole, calls = unbroken
    for index, (call, place) in list(enumerate(calls))[group::GROUPS]:
        folder = tmp_path / str(index)
        folder.mkdir()
        command = (*PRETRAIN, "--out", folder / "run", "--resume")
        dice = random.Random(f"{call} {place} {what}")
        code = 0 if what == "kill" else dice.choice(ERRORS[call])
        more = {"FAULT_STICKY": 1} if what == "from then on" else {}
        fault = {"FAULT_FOLDER": folder, "FAULT_CALL": call, "FAULT_PLACE": place, "FAULT_ERRNO": code, **more}
        first = ended = server.run(*command, FAULT_NTH=dice.choice([1, 1, 2]), **fault)
        where = f"{what} at {call} {place}: errno {code}"
        if what != "kill":
            check_message(ended)
            assert ended.code in (0, 1), f"{where}\n{ended.text}"
        if ended.code != 0:
            ended = server.run(*command)
            assert ended.code == 0, f"{where}: cannot be resumed\n{ended.text}"
        # Lines that cannot be written to the end are lost, and the command says so.
        lost = what == "from then on" and place in ("/run/metrics.jsonl", "/run/samples.jsonl")
        try:
            assert not lost or (first.code == 1 and f"{place}: the last" in first.text), first.text
            check(whole, folder / "run", logs=not lost)
        except AssertionError as error:
            raise AssertionError(where) from error
        count(f"{'kills' if what == 'kill' else 'errors'} at {call}", 1)
