"""``firstlight.metrics``: every curve without gaps, as floats; and metrics.jsonl as pandas reads it."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import firstlight
from firstlight import progress
from firstlight.errors import UsageError

LINES = [
    {"step": 0, "tokens": 0, "valid_loss": 5.5},
    {"step": 1, "tokens": 8, "loss": 5.4, "lr": 1e-3},
    {"step": 10, "tokens": 80, "loss": "NaN", "lr": 1e-3, "grad_norm": "Infinity"},
    {"step": 10, "tokens": 80, "valid_loss": 4.5, "perplexity": "Infinity"},
    {"step": 20, "tokens": 160, "loss": 3, "lr": 5e-4},
    {"step": 30, "tokens": 240, "loss": 2.5, "lr": 0, "note": "warm", "ok": True},
    {"step": 30, "tokens": 240, "valid_loss": 3.5},
]


def write_run(run: Path, lines: list[dict] = LINES, tail: str = "") -> Path:
    run.mkdir()
    (run / "run.toml").write_text("")
    (run / "state.json").write_text("{}")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return run


@pytest.mark.parametrize("name", ["", "run.toml", "metrics.jsonl"])
def test_each_metric_has_its_steps_and_values_as_floats(tmp_path: Path, name: str):
    found = firstlight.metrics(write_run(tmp_path / "r") / name)
    assert list(found) == ["tokens", "valid_loss", "loss", "lr", "grad_norm", "perplexity"]
    assert found["loss"].steps.tolist() == [1, 10, 20, 30]
    np.testing.assert_array_equal(found["loss"].values, [5.4, math.nan, 3.0, 2.5])
    steps, values = found["valid_loss"]
    assert (steps.tolist(), values.tolist()) == ([0, 10, 30], [5.5, 4.5, 3.5])
    assert found["grad_norm"].values.tolist() == [math.inf]
    assert all(curve.values.dtype == np.float64 and curve.steps.dtype == np.int64 for curve in found.values())
    assert found["tokens"].steps.tolist() == [0, 1, 10, 20, 30]
    assert "valid_loss: 3" in repr(found)


def test_steps_are_in_order_and_the_later_of_two_values_counts(tmp_path: Path):
    lines = [{"step": s, "loss": v} for s, v in ((1, 5.0), (3, 4.0), (2, 4.5), (3, 3.9))]
    steps, values = firstlight.metrics(write_run(tmp_path / "r", lines))["loss"]
    assert (steps.tolist(), values.tolist()) == ([1, 2, 3], [5.0, 4.5, 3.9])


def test_damaged_lines_are_left_out_and_said(tmp_path: Path):
    run = write_run(tmp_path / "r", tail='[1]\n{"step": 40, "loss"')
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        assert firstlight.metrics(run)["loss"].steps.tolist() == [1, 10, 20, 30]
    (text,) = said
    assert "line 8 is not a JSON object; the last line is incomplete; left out" in text


def test_what_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="not a run directory"):
        firstlight.metrics(tmp_path / "nothing")
    run = write_run(tmp_path / "r")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="has logged no metrics"):
        firstlight.metrics(run)


def test_a_data_frame_without_pandas_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="needs pandas, which is not installed. Run: .*pandas"):
        firstlight.metrics(write_run(tmp_path / "r")).to_pandas()


def test_a_data_frame_has_a_row_per_step(tmp_path: Path):
    pytest.importorskip("pandas")
    frame = firstlight.metrics(write_run(tmp_path / "r")).to_pandas()
    assert frame.index.name == "step"
    assert frame.index.tolist() == [0, 1, 10, 20, 30]
    assert set(frame.dtypes) == {np.dtype(np.float64)}
    assert frame["valid_loss"].dropna().tolist() == [5.5, 4.5, 3.5]


def test_pandas_plots_both_curves_of_the_file(tmp_path: Path):
    pandas, matplotlib = pytest.importorskip("pandas"), pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    frame = pandas.read_json(write_run(tmp_path / "r") / "metrics.jsonl", lines=True)
    axes = frame.plot("step", ["loss", "valid_loss"], marker=".")
    drawn = {line.get_label(): np.isfinite(np.ma.filled(line.get_ydata().astype(float), np.nan)) for line in axes.lines}
    assert {name: int(points.sum()) for name, points in drawn.items()} == {"loss": 3, "valid_loss": 3}
