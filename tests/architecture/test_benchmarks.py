"""The benchmark scripts: all import, the worker serves requests, and tables are written between their markers."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench

    return bench


SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_imports_and_describes_itself(name: str, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 0
    assert module.__doc__.splitlines()[0] in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_runs_the_requested_steps() -> None:
    command = [sys.executable, str(BENCHMARKS / "worker.py"), "firstlight", "gpu-tiny"]
    done = subprocess.run(command, input="2\n1\n", capture_output=True, text=True, timeout=120, check=True)
    first, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["warm_seconds"] > 0
    assert len(answers) == 2
    assert all(a["seconds"] > 0 and a["peak_bytes"] > 1e7 for a in answers)


@pytest.mark.slow
def test_the_gpu_script_runs_at_a_tiny_size_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "bench_gpu.py"), "--device", "cpu", "--shapes", "gpu-tiny"]
    subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, timeout=560, check=True)
    found = json.loads(out.read_text())
    ours = found["training"]["gpu-tiny"]["firstlight, compiled"]
    assert ours["tokens_per_second"] > 0 and ours["of_ceiling"] > 0
    assert set(found["training"]["gpu-tiny"]) >= {"firstlight, compiled", "transformers, compiled"}
    assert len(found["generation"]) == 3


def test_the_steps_to_a_loss_are_read_off_a_curve(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import vectors_help

    curve = [(10, 5.0), (20, 4.0), (30, 3.5)]
    assert vectors_help.steps_to(curve, 5.5) == 10
    assert vectors_help.steps_to(curve, 4.25) == 17.5
    assert vectors_help.steps_to(curve, 3.0) is None
    curves = {"random": [curve, curve], "vectors": [[(10, 4.0), (20, 3.5), (30, 3.0)]] * 2}
    lines = vectors_help.table(curves).splitlines()
    assert lines[0].endswith("| steps to 3.500 | loss at the end |")
    assert "| 20 (0.67 ×) |" in lines[-1]
    assert vectors_help.drawing(curves).count("<polyline") == 2


def test_tables_are_written_between_their_markers(bench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n")
    bench.write_docs({"a": "new"})
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- end of a -->\nafter\n"
    with pytest.raises(SystemExit, match="has no marker <!-- b -->"):
        bench.write_docs({"b": "new"})
    page.write_text("before\n<!-- a -->\nold\nafter\n")
    with pytest.raises(SystemExit, match="has no marker <!-- end of a -->"):
        bench.write_docs({"a": "new"})
    assert page.read_text().endswith("after\n"), "nothing of the page is lost"


def test_the_page_has_every_table_as_measured(bench) -> None:
    results = json.loads(bench.RESULTS.read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for name, table in bench.tables(results).items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in page, f"{name} differs from the results"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_readme_has_the_figures_of_the_results(name: str) -> None:
    found = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    rows = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("|")]

    def ratio(text: str) -> str:
        return f"**{text.split()[0].rstrip('×')}×**"

    training = found["training"]["gpt2-124m-256"]
    expected = [
        [f"{training[peer]['tokens_per_second']:.0f}", ratio(training[peer]["firstlight_over_it"])]
        for peer in ("nanogpt, compiled", "transformers", "litgpt")
    ]
    expected[0].append(f" {training['firstlight']['tokens_per_second']:.0f} ")
    ours = found["memory"]["firstlight"]["peak_mb"]
    for peer in ("nanogpt, compiled", "transformers"):
        theirs = found["memory"][peer]["peak_mb"]
        expected.append([f"{theirs:,} MB", f"**{theirs / ours:.2f}×**"])
    expected[-2].append(f"{ours:,} MB")
    for batch, digits in (("batch 1", 1), ("batch 8", 0)):
        speeds = found["generation"][batch]
        peer = speeds["transformers"]
        speed = f"{speeds['firstlight']['tokens_per_second']:.{digits}f} "
        expected.append([speed, f"{peer['tokens_per_second']:.1f}", ratio(peer["firstlight_over_it"])])
    encoding = found["tokenizing"]
    expected.append([f"{encoding['Firstlight, MB/s']:.0f} MB/", "tiktoken", f"{encoding['tiktoken, MB/s']}"])
    expected.append(["tokenizers", f"{encoding['tokenizers, MB/s']}"])
    expected.append([f"| {found['preparing']['data prepare, MB/s'].split()[0]} MB/"])
    for figures in expected:
        assert any(all(figure in row for figure in figures) for row in rows), figures


def test_the_paired_difference_is_that_of_the_means_over_seeds(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import numpy as np
    import transfer

    from firstlight.statistics import METRICS

    true = np.array([0, 1] * 50)
    ours, theirs = np.stack([true, true]), np.stack([true, 1 - true])
    gain, low, high = transfer.paired(METRICS["accuracy"], ours, theirs, true)
    assert (gain, low, high) == (0.5, 0.5, 0.5), "of 1 and 1 against 1 and 0, whichever rows are drawn"
    source = np.random.default_rng(0)
    gain, low, high = transfer.paired(METRICS["accuracy"], source.integers(0, 2, (3, 100)), theirs, true)
    assert low < gain < high


def test_a_small_task_has_the_rows_of_the_large_one(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import transfer

    from firstlight.finetuning import load_task, read_spec
    from firstlight.finetuning.task_file import _find

    whole = _find(Path("scenes"))
    small = load_task(read_spec(transfer.subset(whole, whole.parent, 50, 20, tmp_path)), seed=1)
    large = load_task(read_spec(whole), seed=1)
    known = {(row.texts, large.spec.labels[row.label]) for row in [*large.train, *large.valid, *large.test]}
    rows = [*small.train, *small.valid, *small.test]
    assert len(small.train) + len(small.valid) == 50 and len(small.test) == 20
    assert {(row.texts, small.spec.labels[row.label]) for row in rows} <= known
    assert {row.texts for row in small.test}.isdisjoint(row.texts for row in [*small.train, *small.valid])
