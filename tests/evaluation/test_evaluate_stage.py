import json
import math
import shutil
from pathlib import Path

import pytest

import firstlight
from firstlight import progress
from firstlight.errors import CompatibilityError, FirstlightError, StoreError, UsageError
from firstlight.lm import LM
from firstlight.stages.evaluate import evaluate
from firstlight.store import TokenStore
from firstlight.tokenizer import TokenizerSettings, train
from firstlight.types import Document

SETTINGS = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.steps=4",
    "train.checkpoint_every=2",
    "train.eval_every=2",
    "train.log_every=1",
    "train.sample_tokens=4",
    "train.trackers=[]",
    "hardware.threads=1",
]
LINES = ["the cat sat on a mat", "and saw one more bird", "there on the mat", "子曰：学而时习之"]
TEXT = "".join(f"{LINES[(i * i) % 4]} {i % 7}\n" for i in range(400))


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A text, a run on it, and a run on a store that lies elsewhere."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    firstlight.pretrain([str(folder / "text.txt")], out=folder / "run", overrides=SETTINGS)
    store = folder / "run" / "data"
    shutil.copytree(store, folder / "store")
    shutil.copytree(folder / "run" / "tokenizer", folder / "store" / "tokenizer")
    firstlight.pretrain([str(folder / "store")], out=folder / "by-store", overrides=SETTINGS)
    return folder


@pytest.fixture
def world(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


def logged(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = (run / "best").read_text().strip()
    return next(line for line in lines if "valid_loss" in line and line["step"] == int(best.removeprefix("step-")))


def test_the_valid_split_scores_what_training_logged(world):
    (result,) = evaluate(world / "run").texts
    wanted = logged(world / "run")
    assert result.name == "validation split"
    assert result.model.loss == pytest.approx(wanted["valid_loss"], rel=1e-6)
    assert result.model.perplexity == pytest.approx(wanted["perplexity"], rel=1e-5)
    assert result.model.bits_per_byte == pytest.approx(wanted["bits_per_byte"], rel=1e-6)
    assert result.interval[0] < result.model.loss < result.interval[1]
    assert result.baselines.keys() == {"uniform", "unigram"}
    assert result.baselines["uniform"].loss == pytest.approx(math.log(257))
    assert result.baselines["unigram"].loss < result.baselines["uniform"].loss
    written = json.loads((world / "run" / "evaluation.json").read_text())["baselines"]
    assert {name: found.metrics() for name, found in result.baselines.items()} == written


def test_the_text_of_the_valid_split_scores_about_the_same(world):
    store = TokenStore.open(world / "run" / "data")
    lm = LM.load_fp32(world / "run")
    text = lm.tokenizer.decode(store.valid.tokens)
    (world / "valid.txt").write_text(text, encoding="utf-8")
    (own,) = evaluate(lm).texts
    (file,) = evaluate(lm, [str(world / "valid.txt")]).texts
    assert file.n_bytes == own.n_bytes == len(text.encode())
    assert abs(file.n_tokens - own.n_tokens) <= 1
    assert file.model.loss == pytest.approx(own.model.loss, rel=0.01)
    assert file.baselines["unigram"].loss == pytest.approx(own.baselines["unigram"].loss, rel=0.01)


def test_a_smaller_stride_is_told_and_changes_the_loss(world):
    lm = LM.load_fp32(world / "run")
    wide, fine = evaluate(lm), evaluate(lm, stride=4)
    assert (wide.stride, fine.stride) == (16, 4)
    assert wide.texts[0].n_tokens == fine.texts[0].n_tokens
    assert wide.texts[0].model.loss != fine.texts[0].model.loss
    assert wide.texts[0].baselines == fine.texts[0].baselines


def test_each_text_is_scored_by_itself(world):
    (world / "a.txt").write_text("the cat sat")
    (world / "b.jsonl").write_text('{"text": "on a mat"}\n{"text": "there"}\n')
    found = evaluate(world / "run", [str(world / "a.txt"), str(world / "b.jsonl")])
    assert [r.n_bytes for r in found.texts] == [11, 13]
    assert [r.n_tokens for r in found.texts] == [12, 15]
    assert found.model == world / "run" / "checkpoints" / (world / "run" / "best").read_text().strip()


def test_a_run_on_a_store_elsewhere_finds_its_valid_split(world, monkeypatch):
    run_toml = world / "by-store" / "run.toml"
    table = run_toml.read_text()
    original = next(line for line in table.splitlines() if line.startswith("store = "))
    run_toml.write_text(table.replace(original, f'store = "{world / "store"}"'))
    (result,) = evaluate(world / "by-store").texts
    assert result.model.loss == pytest.approx(logged(world / "by-store")["valid_loss"], rel=1e-6)
    shutil.rmtree(world / "store")
    with pytest.raises(UsageError, match="is not in a run"):
        evaluate(world / "by-store")


def test_a_checkpoint_named_from_inside_finds_its_run(world, monkeypatch):
    monkeypatch.chdir(world / "run" / "checkpoints" / (world / "run" / "latest").read_text().strip())
    assert evaluate(".").texts[0].name == "validation split"


def test_a_model_apart_needs_a_text(world):
    LM.load_fp32(world / "run").save(world / "model")
    with pytest.raises(UsageError, match=r"is not in a run .*--text"):
        evaluate(world / "model")
    (result,) = evaluate(world / "model", [str(world / "text.txt")]).texts
    assert result.baselines.keys() == {"uniform"}, "without a training text there is no unigram model"


def test_a_store_of_another_tokenizer_is_refused_for_its_valid_split_only(world):
    checkpoint = world / "run" / "checkpoints" / (world / "run" / "best").read_text().strip()
    (checkpoint / "tokenizer.json").unlink()
    train([Document(TEXT, "x")], TokenizerSettings(kind="char")).save(checkpoint)
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CompatibilityError, match="made with another tokenizer"):
        evaluate(checkpoint)
    (result,) = evaluate(checkpoint, [str(world / "text.txt")]).texts
    assert result.baselines.keys() == {"uniform"}


def test_a_damaged_store_is_refused_or_left_out_and_told(world):
    (world / "run" / "data" / "valid.bin").write_bytes(b"")
    with pytest.raises(StoreError, match=r"valid\.bin"):
        evaluate(world / "run")
    events: list[progress.Event] = []
    with progress.listen(events.append):
        (result,) = evaluate(world / "run", [str(world / "text.txt")]).texts
    assert result.baselines.keys() == {"uniform"}
    assert any(event.level == "warning" and "is not used" in event.text for event in events)


@pytest.mark.parametrize("stride", [0, -1, 17])
def test_a_stride_that_the_model_cannot_take_is_refused(world, stride):
    with pytest.raises(UsageError, match="stride: .*at most 16"):
        evaluate(world / "run", stride=stride)


def test_a_text_without_text_is_refused(world):
    (world / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(FirstlightError, match=r"empty\.jsonl: holds no text"):
        evaluate(world / "run", [str(world / "empty.jsonl")])


def test_a_model_without_tokenizer_reads_no_text(world):
    lm = LM.load_fp32(world / "run")
    with pytest.raises(UsageError, match="has no tokenizer"):
        evaluate(LM(lm.model, None), [str(world / "text.txt")])
    with pytest.raises(UsageError, match="is not in a run"):
        evaluate(LM(lm.model, None))


def test_settings_of_reading_are_obeyed_or_refused(world: Path) -> None:
    text = world / "other.txt"
    text.write_bytes("子曰：学而时习之\n".encode("gb18030") * 20)
    found = evaluate(world / "run", text, overrides="corpus.encoding=gb18030")
    assert found.texts[0].n_bytes == len("子曰：学而时习之\n".encode()) * 20
    assert evaluate(world / "run", overrides="image.labels=auto").texts  # asks for nothing
    with pytest.raises(UsageError, match="corpus.encoding: applies to --text, not to the validation split"):
        evaluate(world / "run", overrides="corpus.encoding=gb18030")
    with pytest.raises(UsageError, match="ids.dtype: applies to a corpus of ids, but this corpus is text"):
        evaluate(world / "run", text, overrides="ids.dtype=uint32")
    with pytest.raises(UsageError, match="image.levels: is decided by the model"):
        evaluate(world / "run", text, overrides="image.levels=4")


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_bits_per_character_are_those_per_byte_over_the_characters(kind: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{LINES[i % 4]} {i % 7}\n" for i in range(200)), encoding="utf-8")
    run = tmp_path / "run"
    vocab = [f"tokenizer.kind={kind}", *(["tokenizer.vocab_size=300"] if kind == "bpe" else [])]
    firstlight.pretrain([str(text)], out=run, overrides=[*SETTINGS[1:], *vocab])
    lm, split = LM.load_fp32(run), TokenStore.open(run / "data").valid
    texts = {"": lm.tokenizer.decode(split.tokens[1:]), str(text): text.read_text(encoding="utf-8")}
    for name, content in texts.items():
        ratio = len(content.encode()) / len(content)
        assert ratio > 1.1, "there must be other characters than ASCII for this to show anything"
        (result,) = evaluate(run, [name] if name else []).texts
        for found in (result.model, *result.baselines.values()):
            assert found.bits_per_character == pytest.approx(found.bits_per_byte * ratio)
        if not name:
            last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
            evaluation = json.loads((run / "evaluation.json").read_text())
            for table in (last, evaluation["valid"], *evaluation["baselines"].values()):
                assert table["bits_per_character"] == pytest.approx(table["bits_per_byte"] * ratio, rel=0.01)
    assert "bits per character" in (run / "report.html").read_text(encoding="utf-8")
