"""``run.seed`` decides weights, order and dropout; which rows and documents validate is ``data.seed``'s."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from firstlight.runs import read_json_object
from firstlight.stages.finetune import finetune
from firstlight.stages.finetune_seeds import finetune_seeds
from firstlight.stages.pretrain import pretrain
from firstlight.stages.transfer import transfer

SMALL = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=32",
    "train.batch_tokens=64",
    "train.steps=1",
    "train.trackers=[]",
]
TUNE = ["train.steps=1", "train.trackers=[]"]

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 60 documents, two tasks of 40 rows without validation rows, and a model."""
    monkeypatch.chdir(tmp_path)
    documents = [json.dumps({"text": f"document {i}: " + f"the cat saw bird {i} there. " * 5}) for i in range(60)]
    Path("documents.jsonl").write_text("\n".join(documents) + "\n", encoding="utf-8")
    for name in ("a", "b"):
        rows = [f"the {name} day was {word} {i}\t{word}" for i in range(20) for word in ("fine", "grim")]
        Path(f"{name}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
        Path(f"{name}.toml").write_text(
            f'kind = "classification"\n[data]\ntrain = "{name}.tsv"\n[columns]\ntext = "text"\nlabel = "label"\n',
            encoding="utf-8",
        )
    return trained("base")


def trained(out: str, *more: str) -> Path:
    return pretrain(["documents.jsonl"], out=Path(out), overrides=[*SMALL, *more]).run


def weights(run: Path) -> bytes:
    return next((run / "checkpoints").glob("*/model.safetensors")).read_bytes()


def rows(run: Path) -> object:
    """The hash of the rows of a task, and of which of them validate."""
    return read_json_object(run / "contract.json")["store"]


def test_documents_that_validate_do_not_depend_on_the_runs_seed(base: Path) -> None:
    other, moved = trained("other", "run.seed=2"), trained("moved", "data.seed=2")
    for name in ("data/valid.bin", "data/train.bin"):
        assert (other / name).read_bytes() == (base / name).read_bytes()
        assert (moved / name).read_bytes() != (base / name).read_bytes()
    assert weights(other) != weights(base)


def test_seeds_are_validated_on_the_same_rows(base: Path) -> None:
    finetune_seeds(2, base, ["a.toml"], out="seeds", overrides=TUNE)
    assert rows(Path("seeds/seed-1")) == rows(Path("seeds/seed-2"))
    assert weights(Path("seeds/seed-1")) != weights(Path("seeds/seed-2"))
    moved = finetune(base, ["a.toml"], out="moved", overrides=[*TUNE, "data.seed=2"]).run
    assert rows(moved) != rows(Path("seeds/seed-1"))


def in_rows(result: object) -> Sequence[object]:
    return [(row.task, row.trained_on) for row in result.rows]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_transfer_is_between_the_same_rows(base: Path) -> None:
    found = [
        transfer(base, ["a.toml", "b.toml"], out=f"t{seed}", overrides=[*TUNE, f"run.seed={seed}"]) for seed in (1, 2)
    ]
    assert in_rows(found[0]) == in_rows(found[1])
    for name in ("a", "b", "a-with-b", "a-after-b"):
        assert rows(Path("t1") / name) == rows(Path("t2") / name)
