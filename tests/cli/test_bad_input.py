"""Every command answers bad input with one line that says what is wrong, and the right exit code."""

import errno
import os
import shlex
from pathlib import Path

import pytest
import torch
from bad_inputs import CASES, OTHER_FILES, SMALL, Case, flip, remove
from small_world import Answer, Call


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def spoilt(world: Path) -> Path:
    for name, data in OTHER_FILES.items():
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        (world / name).write_bytes(data)
    return world


def check(answer: Answer, code: int, *says: str) -> None:
    """Hold an answer against the rules that every failure keeps."""
    lines = answer.err.splitlines()
    assert answer.code == code, answer
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], answer.err
    assert "Traceback" not in answer.err
    assert "internal error" not in answer.err
    assert answer.out == ""
    at = 0
    for part in says:
        found = lines[-1].find(part, at)
        assert found >= 0, f"{part!r} is not in {lines[-1]!r} (or not in this order)"
        at = found + len(part)


def held(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, but for locks."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_bad_input(case: Case, spoilt: Path, call: Call):
    if case.harm is not None:
        case.harm()
    before = held(spoilt)
    check(call(*shlex.split(case.line)), case.code, *case.says)
    after = held(spoilt)
    assert {name: data for name, data in after.items() if name in before} == before
    # What a run has prepared may stay, since the mended command uses it again; a run must not begin.
    new = {name for name in after if name not in before}
    assert all(name.startswith(("new/tokenizer/", "new/data/", "new/.firstlight-run")) for name in new), new
    assert not [name for name in new if ".firstlight-part-" in name or ".firstlight-old-" in name]
    if case.line.startswith(("data", "tokenizer")):
        assert not new


def test_there_are_enough_cases_of_every_command():
    assert len(CASES) >= 150
    commands = {
        " ".join(case.line.split()[: 2 if case.line.startswith(("data", "tokenizer")) else 1]) for case in CASES
    }
    assert commands >= {
        "pretrain",
        "quickstart",
        "generate",
        "evaluate",
        "verify-resume",
        "doctor",
        "data prepare",
        "data inspect",
        "data verify",
        "data stats",
        "tokenizer train",
        "tokenizer import",
        "tokenizer show",
        "tokenizer encode",
        "tokenizer decode",
        "tokenizer compare",
    }


WRITING = [
    "tokenizer train text.txt --out new tokenizer.kind=char",
    "tokenizer import store --out new",
    "data prepare text.txt --out new tokenizer.kind=byte",
    f"pretrain text.txt --out new {SMALL}",
]


@pytest.mark.parametrize("line", WRITING, ids=lambda line: " ".join(line.split()[:2]))
def test_no_space_on_the_disk(line: str, spoilt: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = held(spoilt)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        check(call(*shlex.split(line)), 1, "new", "no space left on the disk", "Free some space")
    assert held(spoilt) == before
    if not line.startswith("pretrain"):
        assert call(*shlex.split(line)).code == 0  # and once there is space, the same command works


@pytest.mark.parametrize("line", WRITING, ids=lambda line: " ".join(line.split()[:2]))
@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission denied")],
    ids=["read-only", "not permitted"],
)
def test_a_folder_that_may_not_be_written(
    line: str, code: int, says: str, spoilt: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    mkdir = Path.mkdir

    def sealed(path: Path, *args: object, **options: object) -> None:
        if path.absolute().is_relative_to(spoilt / "new") or path.name.startswith(".firstlight-prepare-new"):
            raise OSError(code, os.strerror(code), str(path))
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    before = held(spoilt)
    monkeypatch.setattr(Path, "mkdir", sealed)
    check(call(*shlex.split(line)), 1, "new", says)
    assert held(spoilt) == before
    assert not (spoilt / "new").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may write anywhere")
@pytest.mark.parametrize("line", WRITING, ids=lambda line: " ".join(line.split()[:2]))
def test_a_folder_without_the_right_to_write(line: str, spoilt: Path, call: Call):
    (spoilt / "sealed").mkdir(mode=0o500)
    check(call(*shlex.split(line.replace("new", "sealed/new"))), 1, "sealed/new", "permission denied")


def test_a_folder_below_a_file_is_what_doctor_finds_too(spoilt: Path, call: Call):
    answer = call("doctor", "--folder", "text.txt/runs")
    assert answer.code == 1
    assert answer.err == ""
    assert any(line.startswith("BAD") and "text.txt is a file" in line for line in answer.out.splitlines())


def test_several_problems_of_a_store_are_all_named(spoilt: Path, call: Call):
    flip("store/train.bin")()
    remove("store/valid.bin")()
    answer = call("data", "verify", "store")
    assert answer.code == 1
    assert answer.out.splitlines() == [
        "store/train.bin: bytes differ from the manifest's SHA-256",
        "store/valid.bin: missing",
    ]
    assert answer.err == "error: store: 2 problems found\n"
