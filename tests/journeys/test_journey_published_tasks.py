"""Every example of a published task, whole, from one command: the files as people have them, to figures and report."""

import json
import math
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "tasks").glob("*.toml"))
TINY = [
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=32",
    "model.block_size=96",
    "train.steps=10",
    "tokenizer.kind=byte",
    "train.batch_tokens=384",
    "train.trackers=[]",
    "hardware.threads=1",
    "train.eval_windows=4",
]


@pytest.fixture(scope="module")
def base(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "text.txt").write_text("a film, 一部电影, and a question.\n" * 400, encoding="utf-8")
    run("pretrain", folder / "text.txt", *TINY, "--out", folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_from_one_command(path: Path, base: Path, run, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / ("zero-shot" if path.stem in ("copa", "hellaswag") else "tasks")
    words = ["train.steps=6", "train.trackers=[]", "hardware.threads=1", "finetune.batch_size=16"]
    told = run("finetune", base, path, "--data", data, "--out", tmp_path / "run", *words)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    figures = found["tasks"][path.stem]
    assert figures["n"] > 20 and figures["low"] <= figures["value"] <= figures["high"]
    assert math.isfinite(figures["loss"])
    assert f"{path.stem}, valid: {figures['metric']}" in told.stdout
    assert path.stem in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
