"""Text that a model's tokenizer does not know is counted, said, and refused where it is most of the text."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

import firstlight
from firstlight import progress
from firstlight.errors import CorpusError, StoreError
from firstlight.files import write_manifest
from firstlight.lm import LM
from firstlight.report import write_run_report
from firstlight.stages import data, generate, tokenizer
from firstlight.stages.evaluate import evaluate
from firstlight.stages.finetune import finetune
from firstlight.stages.predict import predict

SETTINGS = [
    "model.n_layer=1",
    "model.n_head=1",
    "model.n_embd=8",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.steps=2",
    "train.sample_tokens=4",
    "train.trackers=[]",
    "hardware.threads=1",
]
CHARACTERS = [*SETTINGS, "tokenizer.kind=char", "tokenizer.byte_fallback=false"]
ENGLISH = "the cat sat on a mat and saw one more bird\n" * 60
CHINESE = "子曰学而时习之不亦说乎有朋自远方来" * 40
pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on English, by characters without byte fallback; and texts and a task that it does not know."""
    folder = tmp_path_factory.mktemp("unknown")
    (folder / "en.txt").write_text(ENGLISH)
    (folder / "zh.txt").write_text(CHINESE)
    (folder / "mixed.txt").write_text(ENGLISH + "你好 café" * 9)
    rows = [f"{('good', 'bad')[i % 2]}\tthe cat {'sat' if i % 2 else 'saw'} 中{i}" for i in range(24)]
    (folder / "task.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    task = 'kind = "classification"\n[data]\ntrain = "task.tsv"\n{}[columns]\ntext = "text"\nlabel = "label"\n'
    (folder / "task.toml").write_text(task.format(""))
    (folder / "strict.toml").write_text(task.format("max_unk_fraction = 0.01\n"))
    firstlight.pretrain([str(folder / "en.txt")], out=folder / "run", overrides=CHARACTERS)
    return folder


@pytest.fixture
def events() -> Iterator[list[progress.Event]]:
    found: list[progress.Event] = []
    with progress.listen(lambda event: found.append(event) if event.text and not event.task else None):
        yield found


def test_evaluate_counts_and_warns(made: Path, events: list[progress.Event]) -> None:
    (found,) = evaluate(made / "run", [str(made / "zh.txt")]).texts
    table = found.to_json()
    assert (table["unk_tokens"], table["unk_bytes"]) == (len(CHINESE), len(CHINESE.encode()))
    assert table["unk_fraction"] > 0.99
    assert table["n_bytes"] == len(CHINESE.encode())
    assert min(found.model.bits_per_byte or 0, found.baselines["unigram"].bits_per_byte or 0) > 8
    (warning,) = [event for event in events if event.level == "warning"]
    assert "680 of 681 tokens (99.9 %) are unknown (<unk>): '子', '曰', '学', '而', '时' …" in warning.text


def test_training_is_refused_above_the_fraction(made: Path, tmp_path: Path, events: list[progress.Event]) -> None:
    given = {"out": tmp_path / "new", "overrides": [*SETTINGS, f"tokenizer.path={made / 'run'}"]}
    with pytest.raises(StoreError, match=r"612 of 612 tokens \(100.0 %\).*at most 50 % \(data.max_unk_fraction\)"):
        firstlight.pretrain([str(made / "zh.txt")], **given)
    given["overrides"] += ["data.max_unk_fraction=1"]
    found = firstlight.pretrain([str(made / "zh.txt")], **given)
    assert (found.train_unk_tokens, found.valid_unk_tokens) == (612, 68)
    assert found.valid_unk_fraction > 0.9
    assert found.bits_per_byte is not None
    assert found.bits_per_byte > 8
    (again,) = evaluate(tmp_path / "new").texts
    assert again.model.bits_per_byte == pytest.approx(found.bits_per_byte, rel=1e-4)
    evaluation = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert evaluation["valid"]["unk_tokens"] == 68
    assert evaluation["baselines"]["unigram"]["bits_per_byte"] > 8
    assert sum("training text: 612 of" in event.text and event.level == "warning" for event in events) == 2
    page = (tmp_path / "new" / "report.html").read_text()
    assert "unknown tokens, training" in page
    assert "compare bits per byte" in page


def test_a_store_without_counts_has_no_bits_per_byte(made: Path, tmp_path: Path, events: list[progress.Event]) -> None:
    """As an earlier version wrote it, or another program."""
    data.prepare([str(made / "mixed.txt")], out=tmp_path / "store", tokenizer_path=made / "run")
    table = json.loads((tmp_path / "store" / "manifest.json").read_text())
    kept = {key: value for key, value in table.items() if "_unk_" not in key and key not in ("files", "manifest")}
    write_manifest(tmp_path / "store", kept, exclude=("tokenizer",))
    found = firstlight.pretrain([str(tmp_path / "store")], out=tmp_path / "new", overrides=SETTINGS)
    assert found.train_unk_tokens + found.valid_unk_tokens == table["train_unk_tokens"] + table["valid_unk_tokens"] > 0
    assert (found.bits_per_byte, found.bits_per_token is None) == (None, False)
    assert any("does not say how many bytes" in event.text for event in events)
    (again,) = evaluate(tmp_path / "new").texts
    assert again.model.bits_per_byte is None
    assert again.to_json()["unk_bytes"] is None
    write_run_report(tmp_path / "new")


def test_data_commands_count(made: Path, tmp_path: Path, events: list[progress.Event]) -> None:
    found = data.prepare([str(made / "mixed.txt")], out=tmp_path / "store", tokenizer_path=made / "run")
    assert found.train_unk_tokens + found.valid_unk_tokens == 36  # 你, 好, f and é
    stats, shown = data.stats(tmp_path / "store"), data.inspect(tmp_path / "store")
    assert stats["train"]["unk_tokens"] == shown.unk_tokens["train"] == found.train_unk_tokens
    assert shown.unk_fraction["valid"] == found.valid_unk_fraction > 0
    assert any("text: " in event.text and "unknown" in event.text for event in events)


def test_generate_names_the_characters_of_the_prompt(made: Path, events: list[progress.Event]) -> None:
    model = generate.load(made / "run", device="cpu")
    samples = generate.generate(model, ["the 你好", "a cat"], max_new_tokens=3)
    assert [sample.prompt_unk_tokens for sample in samples] == [2, 0]
    assert "the 2 prompts: 2 of 11 tokens (18.2 %) are unknown (<unk>): '你', '好'" in [event.text for event in events]
    events.clear()
    assert "".join(generate.stream(model, "你", max_new_tokens=1)) is not None
    assert "the prompt: 1 of 1 tokens (100.0 %) are unknown (<unk>): '你'" in [event.text for event in events]


def test_unknown_tokens_that_are_generated_are_counted(made: Path, events: list[progress.Event]) -> None:
    model = generate.load(made / "run", device="cpu")
    assert model.tokenizer is not None
    model.report_generated([[model.tokenizer.unknown_id or 0, 5], [6]])
    assert events[-1].text == "1 of the 3 generated tokens are unknown (<unk>), which the text leaves out"


def test_scores_of_unknown_text_are_not_compared_in_silence(made: Path, events: list[progress.Event]) -> None:
    scores = LM.load_fp32(made / "run").score([("the cat", " 你"), ("the cat", " 好"), ("the cat", " sat")])
    assert [score.unk_tokens for score in scores] == [1, 1, 0]
    assert scores[0].logprob == scores[1].logprob
    assert "2 of 3 continuations have text that the tokenizer does not know" in events[-1].text


def test_tokenizer_commands_count(made: Path, events: list[progress.Event]) -> None:
    found = tokenizer.encode(made / "run", "a你好").to_json()
    assert (found["tokens"], found["unk_tokens"], found["unk_bytes"]) == (["a", "<unk>", "<unk>"], 2, 6)
    assert events[-1].text == "the text: 2 of 3 tokens (66.7 %) are unknown (<unk>): '你', '好'"
    (row,) = tokenizer.compare([made / "run"], [made / "mixed.txt"])
    assert row.to_json()["unk_tokens"] == row.unknown.tokens == 36
    assert tokenizer.show(made / "run").has_unknown


def test_tasks_count_and_refuse(made: Path, tmp_path: Path, events: list[progress.Event]) -> None:
    quick = ["train.steps=2", "train.trackers=[]", "hardware.threads=1"]
    with pytest.raises(CorpusError, match=r"task strict: .*at most 1 % \(data.max_unk_fraction\)"):
        finetune(made / "run", [made / "strict.toml"], out=tmp_path / "strict", overrides=quick)
    events.clear()
    finetune(made / "run", [made / "task.toml"], out=tmp_path / "tuned", overrides=quick)
    assert any(event.text.startswith("task: ") and "are unknown (<unk>): '中'" in event.text for event in events)
    (tmp_path / "new.tsv").write_text("label\ttext\ngood\tthe cat\nbad\t中文\n")
    events.clear()
    rows = [row.to_json() for row in predict(tmp_path / "tuned", tmp_path / "new.tsv", device="cpu")]
    assert ["unk_tokens" in row for row in rows] == [False, True]
    assert rows[1]["unk_tokens"] == 2
    assert [event.level for event in events if "2 of 9 tokens (22.2 %) are unknown" in event.text] == ["warning"]


def test_what_a_tokenizer_left_out_is_not_recorded_by_other_programs(
    tmp_path: Path, events: list[progress.Event]
) -> None:
    """BPE without an unknown token and without all bytes, as the tokenizers library makes it by default."""
    inner = Inner(models.BPE({"<|endoftext|>": 0, **{c: i for i, c in enumerate("abcdefgh", start=1)}}, []))
    inner.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "words").mkdir()
    inner.save(str(tmp_path / "words" / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("abc def gah 中 " * 200)
    given = [*SETTINGS, f"tokenizer.path={tmp_path / 'words'}"]
    found = firstlight.pretrain([str(tmp_path / "text.txt")], out=tmp_path / "run", overrides=given)
    table = json.loads((tmp_path / "run" / "data" / "manifest.json").read_text())
    assert table["train_dropped_characters"] + table["valid_dropped_characters"] == 5 * 200
    assert table["train_dropped_bytes"] + table["valid_dropped_bytes"] == 7 * 200
    assert table["train_bytes"] + table["valid_bytes"] == len(("abc def gah 中 " * 200).encode())
    assert (found.bits_per_byte or 0) > 7 * 8 / 16
    assert any("characters have no token and are left out" in event.text for event in events)
    store = tmp_path / "run" / "data"
    for name in ("manifest.json", "documents.safetensors"):
        (store / name).unlink()
    again = firstlight.pretrain([str(store)], out=tmp_path / "other", overrides=given)
    assert again.bits_per_byte is None
    assert any("or what the tokenizer left out" in event.text for event in events)


def test_one_unknown_token_may_stand_for_a_sentence(tmp_path: Path) -> None:
    """SentencePiece's unigram models join unknown characters, so few tokens are unknown and most of the text is."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -1.0) for c in "▁abc.")]
    inner = Inner(models.Unigram(pieces, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.add_special_tokens(["<unk>", "</s>"])
    (tmp_path / "words").mkdir()
    inner.save(str(tmp_path / "words" / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a b c. 子曰学而时习之不亦说乎 " * 100)
    given = [*SETTINGS, f"tokenizer.path={tmp_path / 'words'}"]
    with pytest.raises(StoreError, match=r"\(1\d\.\d %\) are unknown \(<unk>\), \d\d\.\d % of the bytes; expected"):
        firstlight.pretrain([str(tmp_path / "text.txt")], out=tmp_path / "run", overrides=given)
