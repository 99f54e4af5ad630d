"""Which validation losses of two runs compare, and what the comparison says where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from firstlight.stages.list_runs import compare_runs


def write_run(path: Path, *, settings: str = "", manifest: Any = None, contract: Any = None) -> Path:
    (path / "data").mkdir(parents=True)
    (path / "run.toml").write_text("[run]\nseed = 1\n" + settings)
    plain = {"tokenizer": "t", "valid_bytes": 100, "files": {"valid.bin": {"sha256": "v"}}}
    (path / "data" / "manifest.json").write_text(json.dumps({**plain, **(manifest or {})}))
    (path / "contract.json").write_text(json.dumps(contract or {}))
    return path


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, []),
        ({"manifest": {"valid_bytes": 90, "files": {"valid.bin": {"sha256": "w"}}}}, ["100 bytes and 90 bytes"]),
        ({"manifest": {"files": {"valid.bin": {"sha256": "w"}}}}, ["validation texts differ"]),
        # The same text in other tokens: bits per byte compare.
        ({"manifest": {"tokenizer": "u", "files": {"valid.bin": {"sha256": "w"}}}}, ["tokenizers differ"]),
        ({"manifest": {"tokenizer": "u", "valid_bytes": 90}}, ["validation texts differ", "tokenizers differ"]),
        ({"settings": "[train]\neval_windows = 8\n"}, ["all and 8 of its windows"]),
        ({"settings": '[train]\neval_windows = "all"\n[model]\nblock_size = 128\n'}, ["windows of 64 and 128 tokens"]),
        ({"settings": "[finetune]\nbatch_size = 8\n"}, ["next tokens in one run, of labels in the other"]),
    ],
)
def test_why_losses_do_not_compare(tmp_path: Path, second: dict[str, Any], expected: list[str]) -> None:
    plain = '[train]\neval_windows = "all"\n[model]\nblock_size = 64\n'
    write_run(tmp_path / "a", settings=plain)
    write_run(tmp_path / "b", **{"settings": plain, **second})
    notes = compare_runs(tmp_path / "a", tmp_path / "b").notes
    assert len(notes) == len(expected)
    assert all(part in note for part, note in zip(expected, notes, strict=True))


def test_fine_tuned_runs_on_other_rows(tmp_path: Path) -> None:
    for name, store in (("a", "x"), ("b", "x"), ("c", "y")):
        write_run(tmp_path / name, settings="[finetune]\nbatch_size = 8\n", contract={"store": store})
    assert compare_runs(tmp_path / "a", tmp_path / "b").notes == []
    assert "rows of the tasks differ" in compare_runs(tmp_path / "a", tmp_path / "c").notes[0]


def test_files_that_are_missing_say_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    assert compare_runs(tmp_path / "a", tmp_path / "b").notes == []


def test_a_checkpoint_stands_for_its_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run / "checkpoints" / "step-00000010").mkdir(parents=True)
    [note] = compare_runs(f"{run}@10", run).notes
    assert "stands for the whole run" in note
    assert f"firstlight evaluate {run}@10" in note
