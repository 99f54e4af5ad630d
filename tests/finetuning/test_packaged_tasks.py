"""The labelled sets of the package: balanced, without overlaps, found by name; a default fine-tune learns them."""

from collections import Counter
from pathlib import Path

import pytest

from firstlight import finetune, pretrain
from firstlight.errors import UsageError
from firstlight.finetuning import load_task, packaged_tasks, read_spec

BOOKS = Path(__file__).parents[2] / "examples"
NAMES = ["scenes", "zh_scenes"]


def test_their_names() -> None:
    assert packaged_tasks() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_three_hundred_rows_with_licence(name: str) -> None:
    spec = read_spec(Path(name))
    data = load_task(spec, seed=1)
    sides = {"train": data.train, "valid": data.valid, "test": data.test}
    texts = [row.texts[0] for rows in sides.values() for row in rows]
    assert len(set(texts)) == len(texts) == 300
    for side, rows in sides.items():
        counts = Counter(row.label for row in rows)
        assert len(counts) == 3 and len(set(counts.values())) == 1, f"{side}: {counts}"
    toml = Path(spec.data.folder).with_name(f"{name}.toml").read_text(encoding="utf-8")
    assert "CC0" in toml
    header = (Path(spec.data.folder) / "train.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert header == "text,label,source"


def test_a_name_stands_for_the_packages_task_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = read_spec(Path("scenes"))
    assert (packaged.name, Path(packaged.data.folder, "train.csv").is_file()) == ("scenes", True)
    assert read_spec(Path("scenes"), data=tmp_path).data.folder == packaged.data.folder, "--data is for files"
    with pytest.raises(UsageError, match=r"unknown task 'scense'.*scenes.*Did you mean 'scenes'"):
        read_spec(Path("scense"))
    with pytest.raises(UsageError, match="no such settings file"):
        read_spec(Path("tasks/scenes"))
    (tmp_path / "scenes").write_text('kind = "text"\n[data]\ntrain = "a.txt"\n[columns]\ntext = 0\n', encoding="utf-8")
    assert read_spec(Path("scenes")).kind == "text", "a file of the user comes first"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "book"), [("scenes", "books"), ("zh_scenes", "books-zh")])
def test_a_default_fine_tune_beats_the_majority_class_beyond_its_interval(
    name: str, book: str, tmp_path: Path, torch_as_it_was: None
) -> None:
    settings = ["train.steps=120", "train.eval_every=0", "train.eval_windows=32", "train.sample_every=0"]
    settings += ["tokenizer.vocab_size=4096"] if name == "zh_scenes" else []
    pretrain([BOOKS / book], out=tmp_path / "base", preset="micro", overrides=settings)
    for seed in (1, 2, 3):
        out = tmp_path / f"seed-{seed}"
        result = finetune(tmp_path / "base", [name], out=out, overrides=[f"run.seed={seed}"])
        assert result.test[name]["low"] > 1 / 3, f"seed {seed}: {result.test[name]}"
