"""Values as JSON and as rows."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight.cli import output
from firstlight.runs import RunResult


@dataclass(frozen=True, slots=True)
class Part:
    path: Path
    values: list[float]


def test_plain_values():
    held = {"a": Part(Path("x/y"), [1.5, float("nan"), float("-inf")]), 3: (None, True, "é")}
    assert output.to_plain(held) == {"a": {"path": "x/y", "values": [1.5, "NaN", "-Infinity"]}, "3": [None, True, "é"]}


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]):
    output.print_result({"text": "two\nlines\u2028猫"}, True, print)
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": "two\nlines\u2028猫"}
    assert out.count("\n") == 1


def test_pairs_are_aligned(capsys: pytest.CaptureFixture[str]):
    output.print_pairs({"a": 1, "long": "two"})
    assert capsys.readouterr().out == "   a  1\nlong  two\n"
    output.print_pairs({})
    assert capsys.readouterr().out == ""


def test_a_table_takes_its_cells_as_text(capsys: pytest.CaptureFixture[str]):
    output.print_table(("name", "count"), [("[bold]x", "12"), ("y", "1,000")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["name     count", "[bold]x     12", "y        1,000"]


def test_names_in_a_narrow_terminal_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    row = ("optim.schedule.warmup_steps", "constant, linear or cosine", "steps of warm-up " * 9)
    output.print_table(("setting", "values", "meaning"), [row], n_text=3)
    assert "optim.schedule.warmup_steps " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e9, "5.0 GB"), (7.25e15, "7,250.0 TB")],
)
def test_sizes(n_bytes: float, text: str):
    assert output.format_bytes(n_bytes) == text


def test_control_characters_in_cells_are_escaped(capsys: pytest.CaptureFixture[str]):
    output.print_pairs({"sources": "a\x1b[31m\u202e.txt"})
    output.print_table(["name"], [["a\x9b.txt"]])
    assert capsys.readouterr().out.split() == ["sources", "a\\x1b[31m\\u202e.txt", "name", "a\\x9b.txt"]


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("has_files", [True, False])
def test_the_end_of_a_run_names_report_and_tensorboard(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    has_files: bool,
):
    run = tmp_path / "my run"
    (run / "tensorboard" if has_files else run).mkdir(parents=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    output.print_report(
        RunResult(run=run, stopped_by="steps", finished=True, step=1, seconds=1.0, report=run / "r.html")
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"report: {run / 'r.html'}"
    if not installed:
        assert re.fullmatch(
            r"curves in TensorBoard: it is not installed\. Run: .* -m pip install 'tensorboard>=.*'", lines[1]
        )
    elif has_files:
        assert re.fullmatch(rf"curves in TensorBoard: .*tensorboard.* --logdir '{run}/tensorboard'", lines[1])
    assert len(lines) == 1 + (has_files or not installed)
    output.print_report(RunResult(run=run, stopped_by="steps", finished=True, step=1, seconds=1.0, report=None))
    assert capsys.readouterr().out == ""
