"""The plain files of a run are read whatever state they are in; what is wrong is named."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firstlight.files.json_lines import _parse
from firstlight.report import column as column_module
from firstlight.report import events
from firstlight.report.column import Column, ColumnBuilder
from firstlight.report.run_files import find, read_run

FILES = [
    "run.toml",
    "metrics.jsonl",
    "samples.jsonl",
    "events.jsonl",
    "evaluation.json",
    "environment.json",
    "contract.json",
    "state.json",
    "data/manifest.json",
    "tokenizer/tokenizer.json",
    "checkpoints/step-00001700/config.json",
]


def test_a_whole_run_has_no_problems(run: Path):
    files = read_run(run)
    assert files.problems == []
    assert files.checkpoint == "checkpoints/step-00001700"
    assert files.checkpoints == ["step-00001700", "step-00002000"]
    assert files.settings["train"]["steps"] == 2000
    assert len(files.events) == 4
    assert len(files.column("valid_loss")) == 20
    assert set(FILES) <= set(files.present)


def test_columns_keep_what_is_not_finite_and_go_by_step(run: Path):
    loss = read_run(run).column("loss")
    assert len(loss) == 201
    assert math.isnan(loss.values[loss.steps == 900][0])
    assert loss.n_finite() == 199
    assert np.all(np.diff(loss.steps) > 0)
    assert loss.at(911) is None
    assert loss.since(1990).steps.tolist() == [1990, 2000]


def test_column_statistics_ignore_non_finite_values():
    column = Column(np.array([1.0, 2, 3, 4]), np.array([math.nan, 5, 2, math.inf]))
    assert column.min() == (3, 2.0)
    assert column.max() == 5.0
    assert column.median() == 3.5
    assert column.last() == math.inf
    none = Column(np.array([1.0]), np.array([math.nan]))
    assert (none.min(), none.max(), none.median()) == (None, None, None)


@pytest.mark.parametrize("n", [10, 999, 1000, 5000])
def test_a_long_column_keeps_what_matters(monkeypatch: pytest.MonkeyPatch, n: int):
    monkeypatch.setattr(column_module, "_MAX_VALUES", 100)
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    values[rng.integers(0, n, size=n // 50)] = math.nan
    values[n // 2], values[n // 3], values[n - 2] = 50.0, -50.0, math.inf
    steps = np.arange(n, dtype=float)
    whole, builder = Column(steps, values), ColumnBuilder()
    for first in range(0, n, 37):
        builder.add(steps[first : first + 37], values[first : first + 37])
    thin = builder.build()
    assert len(thin) <= 140
    assert (thin.min(), thin.max(), thin.last(), thin.last_step()) == (
        whole.min(),
        whole.max(),
        whole.last(),
        whole.last_step(),
    )
    assert (thin.n_finite(), thin.n_not_finite()) == (whole.n_finite(), whole.n_not_finite())
    # As many early values as late ones.
    early, late = ((thin.steps // (n / 2)) == half for half in (0, 1))
    assert 0.5 < np.count_nonzero(early) / np.count_nonzero(late) < 2
    assert thin.median() == pytest.approx(whole.median(), abs=0.35)
    assert np.all(np.diff(thin.steps) > 0)


def test_many_events_and_samples_are_thinned_and_counted(tmp_path: Path):
    (tmp_path / "events.jsonl").write_text(
        "".join(json.dumps({"step": n, "kind": "spike" if n % 2 else "resume"}) + "\n" for n in range(1, 5001))
    )
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 5001)))
    files = read_run(tmp_path)
    assert [e["step"] for e in files.events] == [*range(1, 1001), *range(4001, 5001)]
    assert files.events_left_out == 3000
    assert files.event_kinds == {"spike": 2500, "resume": 2500}
    shown = events.events(files)
    assert [(e.number, e.step) for e in (shown[0], shown[-1])] == [(1, "1"), (5000, "5,000")]
    assert "5,000 events (2,500 spike, 2,500 resume)" in events.events_summary(files)
    assert files.n_samples == 5000
    assert len(files.samples) <= 202
    assert (files.samples[0]["step"], files.samples[-1]["step"]) == (1, 5000)


def test_lines_that_are_broken_are_counted_and_the_rest_is_read(run: Path):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    broken = [*lines[:3], "", lines[3][: len(lines[3]) // 2], "[1, 2]", "3", *lines[4:], '{"step": 7, "loss": ']
    (run / "metrics.jsonl").write_text("\n".join(broken))
    files = read_run(run)
    assert files.problems == [
        "metrics.jsonl: 3 lines are not JSON objects, the first is line 5; the last line is incomplete"
    ]
    assert len(files.column("loss")) == 200


LINE = st.one_of(
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3).map(json.dumps),
    st.text(alphabet='{}[]",:1 a', max_size=8),
    st.sampled_from(['{"a":1', '"b":2}', '{"a":{}', "{},{}", "[]", "NaN", "", " "]),
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=8))
@example(["{},{}"])
@example(["{}", '{"a":{}', "{}}"])
def test_many_lines_at_once_give_what_each_alone_gives(lines: list[str]):
    def alone(line: str) -> dict | None:
        try:
            table = json.loads(line)
        except ValueError:
            return None
        return table if isinstance(table, dict) else None

    assert _parse([f"{line}\n".encode() for line in lines]) == [alone(line) for line in lines]


@pytest.mark.parametrize(
    ("value", "there"),
    [
        (1, True),
        (2.5, True),
        ("NaN", True),
        ("Infinity", True),
        (10**400, True),
        (None, False),
        (True, False),
        ("a", False),
        ([1], False),
        ({}, False),
    ],
)
def test_only_numbers_become_a_column(tmp_path: Path, value: object, there: bool):
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": value}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_run(tmp_path).column("loss")) == 1 + there


def test_a_line_without_a_step_is_left_out(tmp_path: Path):
    lines = [{"loss": 1.0}, {"step": "x", "loss": 1.0}, {"step": "NaN", "loss": 1.0}, {"step": 3, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(tmp_path).column("loss").steps.tolist() == [3]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "binary", "list", "folder"])
def test_any_damage_is_survived_and_named(run: Path, name: str, damage: str):
    path = run / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "half": whole[: len(whole) // 2 + 1], "binary": b"\x00\xff\xfe{", "list": b"[1]"}[damage]
        )
    files = read_run(run)
    if damage == "missing":
        assert name not in files.present
        assert files.problems == []
    elif name.startswith("checkpoints") and damage == "folder":
        assert files.checkpoint == "checkpoints/step-00002000"
    elif damage != "empty" or name.endswith(".json"):
        assert len(files.problems) == (0 if name == "run.toml" and damage == "list" else 1)  # [1] is TOML
        assert all(name in problem for problem in files.problems)


def test_no_run_at_all(tmp_path: Path):
    files = read_run(tmp_path / "absent")
    assert files.present == []
    assert files.problems == []
    assert files.checkpoint is None


@pytest.mark.parametrize(
    "text", ["run = 3", "[run]\nstore = 7", '[run]\nstore = "\\u0000"', "x = " + "[" * 5000, "x = " + "1" * 5000]
)
def test_settings_of_any_shape(tmp_path: Path, text: str):
    (tmp_path / "run.toml").write_text(text)
    assert read_run(tmp_path).settings_text == text


def test_the_manifest_of_a_store_made_before(run: Path, tmp_path: Path):
    store = tmp_path / "a store"
    store.mkdir()
    (run / "data" / "manifest.json").rename(store / "manifest.json")
    (run / "run.toml").write_text(f"[run]\nstore = '{store}'")
    files = read_run(run)
    assert files.manifest["train_tokens"] == 4_153_993
    assert files.manifest_name == str(store / "manifest.json")


def test_weights_are_counted_from_the_header(run: Path):
    header = {"__metadata__": {"format": "pt"}, "a": {"shape": [3, 4]}, "b": {"shape": []}}
    text = json.dumps(header).encode()
    path = run / "checkpoints" / "step-00001700" / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert read_run(run).weights == {"a": 12, "b": 1}
    for damaged in (b"", b"\xff" * 8, struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 12) + b'{"a":{"s":1}'):
        path.write_bytes(damaged)
        assert read_run(run).weights == {}


@pytest.mark.parametrize(
    ("best", "latest", "expected"),
    [
        ("step-00001700", "step-00002000", "step-00001700"),
        ("step-9", "step-00001700\n", "step-00001700"),
        ("", "../../etc", "step-00002000"),
    ],
)
def test_run_means_best_then_latest_then_the_newest(run: Path, best: str, latest: str, expected: str):
    (run / "best").write_text(best)
    (run / "latest").write_text(latest)
    assert read_run(run).checkpoint == f"checkpoints/{expected}"


def test_find_stops_where_there_is_no_table():
    assert find({"a": {"b": 1}}, "a", "b") == 1
    assert find({"a": 3}, "a", "b") is None
    assert find(None, "a") is None
