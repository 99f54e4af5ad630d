"""A run that is killed anywhere and resumed ends with the same bits as one that was never killed."""

import contextlib
import errno
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from journey_files import last_checkpoint, same_bytes

STEPS = 240
EVERY = ["train.checkpoint_every=7", "train.eval_every=30", "train.sample_every=50"]


@pytest.fixture(scope="module", params=["muon", pytest.param("adamw", marks=pytest.mark.slow)])
def unbroken(request, tiny, run, tmp_path_factory) -> tuple[Path, list[str]]:
    """A finished run, and the words that made it; one optimizer with dropout, which draws random numbers."""
    words = [*tiny, *EVERY, f"train.steps={STEPS}", f"optim.name={request.param}"]
    words += ["model.family=gpt2", "model.dropout=0.1", "train.ema_decay=0.9"] if request.param == "adamw" else []
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run("pretrain", *words, "--out", out)
    return out, words


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _kill_at_random(process: subprocess.Popen, out: Path, dice: random.Random) -> None:
    """Kill the process before training begins, or when it has gone on by some steps and a fraction of one."""
    before = len(_lines(out / "metrics.jsonl"))
    steps = dice.choice([None, 1, 3, 6, 10, 14])
    deadline = time.monotonic() + (dice.uniform(0.1, 1.5) if steps is None else 120)
    while process.poll() is None and time.monotonic() < deadline:
        if steps is not None and len(_lines(out / "metrics.jsonl")) >= before + steps:
            break
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.03))
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 20])
def test_killed_anywhere_and_resumed_is_bit_identical(kills, unbroken, start, run, tmp_path):
    whole, words = unbroken
    out, dice = tmp_path / "run", random.Random(kills)
    killed = 0
    while killed < kills:
        process = start("pretrain", *words, "--out", out, "--resume")
        _kill_at_random(process, out, dice)
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: make it longer"
        killed += 1
    run("pretrain", *words, "--out", out, "--resume")
    assert same_bytes(whole, out) == []
    steps = [json.loads(line)["step"] for line in _lines(out / "metrics.jsonl") if "grad_norm" in line]
    assert steps == list(range(1, STEPS + 1)), "a line of metrics is missing or stands twice"
    losses = [
        [json.loads(line)["loss"] for line in _lines(r / "metrics.jsonl") if "grad_norm" in line] for r in (whole, out)
    ]
    assert losses[0] == losses[1]
    assert not [
        p
        for p in out.rglob("*")
        if p.name.startswith((".firstlight-part-", ".firstlight-old-", ".firstlight-prepare-"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly(number, unbroken, start, run, tmp_path):
    whole, words = unbroken
    out = tmp_path / "run"
    process = start("pretrain", *words, "train.checkpoint_every=0", "--out", out)
    while len(_lines(out / "metrics.jsonl")) < 20 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told
    assert "interrupted, checkpoint saved" in printed and "--resume" in printed
    state = json.loads((out / "state.json").read_text(encoding="utf-8"))
    assert (state["status"], state["stopped_by"]) == ("interrupted", number.name)
    assert 20 <= state["step"] < STEPS
    run("pretrain", out, "--resume")
    assert same_bytes(whole, out) == []


@pytest.mark.slow
def test_a_flipped_byte_in_the_newest_checkpoint_means_the_one_before(unbroken, start, run, tmp_path):
    whole, words = unbroken
    out = tmp_path / "run"
    run("pretrain", *words, "train.stop_after=100", "--out", out)
    newest = last_checkpoint(out)
    file = newest / "trainer" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = run("data", "verify", out, ok=False)
    assert found.returncode == 1 and "optimizer.safetensors" in found.stderr
    again = run("pretrain", out, "--resume", "train.stop_after=0")
    assert "damaged" in again.stderr and newest.name in again.stderr
    assert f"damaged-{newest.name}" in again.stderr
    assert not [p for p in (out / "checkpoints").iterdir() if p.name.startswith("damaged-")]  # pruned like others
    assert same_bytes(whole, out) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(small_disk, unbroken, start, run):
    """The disk fills while the run trains: it goes on, fails with one clear line, and resumes when there is room."""
    whole, words = unbroken
    out = small_disk / "run"
    run("pretrain", *words, "train.stop_after=30", "--out", out)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    failed = run("pretrain", out, "--resume", "train.stop_after=0", ok=False)
    assert failed.returncode == 1, failed.stderr
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert "no space left on the disk" in line and "Traceback" not in failed.stderr
    ballast.unlink()
    run("pretrain", out, "--resume", "train.stop_after=0")
    assert same_bytes(whole, out) == []


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_a_warning(tiny, tmp_path, monkeypatch):
    """In this process: fsync says ENOSPC during some saves; the run goes on and its last save is whole."""
    import firstlight
    from firstlight.files import atomic
    from firstlight.progress import listen

    real, calls = atomic.sync_file, []

    def full(path: Path) -> None:
        if "checkpoints" in str(path):
            calls.append(path)
            if 30 < len(calls) < 34:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    monkeypatch.setattr(atomic, "sync_file", full)
    told: list[str] = []
    corpus, *settings = tiny
    with listen(lambda event: told.append(event.text)):
        result = firstlight.pretrain(
            [corpus], out=tmp_path / "run", overrides=[*settings, "train.steps=60", "train.checkpoint_every=5"]
        )
    assert result.finished and len(calls) > 40
    assert any("a checkpoint could not be written" in text and "no space left" in text for text in told)
    run_files = last_checkpoint(tmp_path / "run")
    assert run_files.name == "step-00000060"


@pytest.mark.slow
def test_a_changed_rate_survives_kills_before_the_next_checkpoint(tiny, start, run, tmp_path):
    words = [*tiny, "train.checkpoint_every=40", "train.eval_every=0", "train.sample_every=0", "train.steps=120"]
    whole, out, dice = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    for path in (whole, out):
        run("pretrain", *words, "train.stop_after=40", "--out", path)
    changes = ["optim.lr=0.004", "optim.clip_norm=0.5", "optim.schedule.name=cosine"]
    run("pretrain", whole, "--resume", *changes)
    asked, n_events = changes, 0
    for _ in range(8):
        process = start("pretrain", out, "--resume", *asked)
        _kill_at_random(process, out, dice)
        assert process.returncode == -signal.SIGKILL
        events = [line for line in _lines(out / "events.jsonl") if '"setting"' in line]
        if len(events) >= 3:  # recorded: from now on without a key
            asked, n_events = [], len(events)
    assert not asked, "no process got as far as the change"
    run("pretrain", out, "--resume")
    assert same_bytes(whole, out) == []
    assert n_events == 3
