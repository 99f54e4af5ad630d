"""A setting that is given is obeyed or refused; run.toml says what was used, and starts the same run again."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstlight
from firstlight import progress
from firstlight.cli.app import run as command
from firstlight.errors import CompatibilityError, ConfigError, UsageError
from firstlight.lm import LM
from firstlight.stages import data
from firstlight.stages import tokenizer as tokenizer_stage
from firstlight.stages.list_presets import show_preset
from firstlight.stages.pretrain import PretrainRecipe, dry_run
from firstlight.stages.request import pretrain_request

TEXT = "the cat sat on a mat and saw one more bird there\n" * 60
SHAPE = ["model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16"]
FEW = ["train.steps=2", "train.batch_tokens=32", "train.micro_batch=2", "train.trackers=[]"]
TINY = [*SHAPE, *FEW]

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a run on its characters, and the model of that run without its tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    firstlight.pretrain(folder / "text.txt", out=folder / "char", overrides=[*TINY, "tokenizer.kind=char"])
    checkpoint = next((folder / "char" / "checkpoints").iterdir())
    (folder / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, folder / "bare" / name)
    return folder


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


@pytest.fixture
def notices() -> Iterator[list[str]]:
    found: list[str] = []
    with progress.listen(lambda event: found.append(event.text) if not event.task else None):
        yield found


def saved(run: str) -> dict[str, Any]:
    return tomllib.loads(Path(run, "run.toml").read_text(encoding="utf-8"))


def test_a_model_without_a_tokenizer_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["pretrain", "text.txt", "--from", "bare", "--out", "none", *FEW]) == 2
    assert "bare: has no tokenizer, so what its embeddings stand for is unknown" in capsys.readouterr().err
    assert not Path("none").exists()
    firstlight.pretrain(
        "text.txt", out="named", init_from="bare", overrides=[*FEW, "optim.lr=1e-9", "tokenizer.path=char/tokenizer"]
    )
    assert LM.load_fp32("named").vocab.hash == LM.load_fp32("char").vocab.hash  # type: ignore[union-attr]
    assert saved("named")["tokenizer"] == {"kind": "char", "path": str(Path("char/tokenizer").absolute())}
    data.prepare("text.txt", out="store", tokenizer_path="char/tokenizer")
    assert firstlight.pretrain("store", out="stored", init_from="bare", overrides=FEW).finished


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings() -> None:
    data.prepare("text.txt", out="larger", overrides=["tokenizer.vocab_size=282"])
    for corpus, path in (("text.txt", "larger/tokenizer"), ("larger", None)):
        more = [f"tokenizer.path={path}"] if path else []
        with pytest.raises(CompatibilityError, match="fewer embeddings than there are tokens"):
            firstlight.pretrain(corpus, out="none", init_from="bare", overrides=[*FEW, *more])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tokenizer.kind=bpe"], r"tokenizer.kind: differs from that of the model .*found bpe; expected char"),
        (["tokenizer.vocab_size=270"], "tokenizer.vocab_size: applies to a tokenizer that is trained"),
        (["tokenizer.min_frequency=1"], "tokenizer.min_frequency: applies to"),  # as it is by default
        (["model.init_std=0.02"], "model.init_std: applies to new weights"),
    ],
)
def test_a_run_from_a_model_has_its_tokenizer(words: list[str], says: str) -> None:
    with pytest.raises(UsageError if "kind" not in words[0] else CompatibilityError, match=says):
        firstlight.pretrain("text.txt", out="none", init_from="char", overrides=[*FEW, *words])


@pytest.mark.slow
def test_run_toml_says_which_tokenizer_was_used(notices: list[str]) -> None:
    firstlight.pretrain("text.txt", out="on", init_from="char", overrides=[*FEW, "tokenizer.kind=char"])
    firstlight.pretrain("text.txt", out="unsaid", init_from="char", overrides=FEW)
    for run in ("on", "unsaid"):
        table = saved(run)
        assert table["tokenizer"] == {"kind": "char"}
        assert not {"ids", "image"} & table.keys() and "init_std" not in table["model"]
    assert firstlight.pretrain("on/run.toml", out="on-again").finished
    assert not any("left out" in text for text in notices)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["tokenizer.kind=char", "tokenizer.vocab_size=270"], "tokenizer.vocab_size"),
        (["tokenizer.kind=byte", "tokenizer.min_frequency=2"], "tokenizer.min_frequency"),
        (["tokenizer.kind=word", "tokenizer.pattern=gpt2"], "tokenizer.pattern"),
        (["tokenizer.kind=byte", "tokenizer.sample_bytes=100"], "tokenizer.sample_bytes"),
        (["tokenizer.path=char/tokenizer", "tokenizer.vocab_size=270"], "tokenizer.vocab_size"),
        (["ids.dtype=uint16"], "ids.dtype"),
        (["image.levels=16"], "image.levels"),
    ],
)
def test_what_the_tokenizer_does_not_obey_is_refused(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: applies to .*Leave it out"):
        firstlight.pretrain("text.txt", out="none", overrides=[*TINY, *words])
    lines = [f"{word.partition('=')[0]} = {_toml(word.partition('=')[2])}" for word in words]
    Path("hand.toml").write_text("\n".join(['run.corpus = ["text.txt"]', *lines]), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^hand.toml: {key}: applies to"):
        firstlight.pretrain("hand.toml", out="none", overrides=TINY)


def _toml(value: str) -> str:
    return value if value.isdecimal() else f'"{value}"'


def test_a_store_has_its_own_tokenizer_and_split() -> None:
    data.prepare("text.txt", out="bytes", overrides=["tokenizer.kind=byte"])
    for word in ("tokenizer.vocab_size=270", "data.valid_ratio=0.1", "corpus.encoding=utf-8", "ids.dtype=uint16"):
        with pytest.raises(ConfigError, match=f"^{word.partition('=')[0]}: applies to"):
            firstlight.pretrain("bytes", out="none", overrides=[*TINY, word])
    with pytest.raises(CompatibilityError, match="tokenizer.kind: differs from that of bytes"):
        firstlight.pretrain("bytes", out="none", overrides=[*TINY, "tokenizer.kind=char"])
    with pytest.raises(UsageError, match="image.levels: applies to images"):
        firstlight.pretrain("bytes", out="none", overrides=[*TINY, "image.levels=4"])
    firstlight.pretrain("bytes", out="of-store", overrides=TINY)
    assert saved("of-store")["tokenizer"] == {"kind": "byte"}
    assert "corpus" not in saved("of-store")
    assert dry_run("of-store/run.toml")


def test_a_preset_may_have_settings_that_the_words_leave_without_effect(notices: list[str]) -> None:
    words = [*TINY, "tokenizer.kind=char", "optim.name=adamw"]
    for _ in range(2):  # the second time the run has finished
        assert firstlight.pretrain("text.txt", out="nano", preset="nano", overrides=words, resume=True).finished
    assert "vocab_size" not in saved("nano")["tokenizer"]
    assert saved("nano")["optim"]["lr"] == 1e-3, "that of Muon is not AdamW's"
    assert any("has finished already" in text for text in notices)
    assert not any("left out" in text for text in notices)


def test_what_words_change_of_a_file_is_said(notices: list[str]) -> None:
    firstlight.pretrain("text.txt", out="bpe", overrides=[*TINY, "tokenizer.vocab_size=270"])
    words = ["tokenizer.kind=char", "optim.name=adamw"]
    for _ in range(2):
        assert firstlight.pretrain("bpe/run.toml", out="as-char", overrides=words, resume=True).finished
    said = [text for text in notices if "left out" in text]
    assert len(said) == 1 and "bpe/run.toml: left out, as without an effect beside the other settings: " in said[0]
    assert "tokenizer.vocab_size" in said[0]


def test_a_run_toml_of_an_earlier_version_has_every_key(notices: list[str]) -> None:
    shutil.copytree("char", "old")
    table = Path("old/run.toml").read_text(encoding="utf-8").replace('kind = "char"', 'kind = "char"\nvocab_size = 512')
    Path("old/run.toml").write_text(f'{table}\n[ids]\ndtype = "uint16"\n', encoding="utf-8")
    assert firstlight.pretrain("old", resume=True, overrides=["train.steps=3"]).step == 3
    assert firstlight.pretrain("old/run.toml", out="old-again").finished
    assert "ids" not in saved("old") and "vocab_size" not in saved("old")["tokenizer"]


@pytest.mark.parametrize("name", ["nano", "shakespeare-char-cpu"])
def test_the_whole_text_of_a_preset_is_a_settings_file(name: str) -> None:
    Path("preset.toml").write_text(show_preset(name), encoding="utf-8")
    words = [*TINY, 'run.corpus=["text.txt"]', *(["tokenizer.vocab_size=270"] if name == "nano" else [])]
    assert dry_run("preset.toml", overrides=words)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("text.txt", ["corpus.delimiter=;", "corpus.quotes=true", "corpus.text_field=body"]),
        ("rows.csv", ["corpus.text_split=lines"]),
        ("rows.jsonl", ["corpus.delimiter=;", "corpus.quotes=false", "corpus.text_split=blank-lines"]),
    ],
)
def test_what_no_reader_of_the_corpus_obeys_is_refused(names: str, words: list[str]) -> None:
    Path("rows.csv").write_text("text\n" + TEXT, encoding="utf-8")
    Path("rows.jsonl").write_text('{"text": "the cat"}\n' * 40, encoding="utf-8")
    for word in words:
        key = word.partition("=")[0]
        for ask in (
            lambda word=word: firstlight.pretrain(names, out="unread", overrides=[*TINY, word]),
            lambda word=word: data.prepare(names, out="unread", overrides=[word]),
            lambda word=word: firstlight.evaluate("char", names, overrides=[word]),
            lambda word=word: tokenizer_stage.train(names, out="unread", overrides=[word]),
            lambda word=word: tokenizer_stage.compare("char", names, overrides=[word]),
        ):
            with pytest.raises(ConfigError, match=f"^{key}: applies to .*, but this corpus is"):
                ask()
    assert not Path("unread").exists()
    assert len(tokenizer_stage.compare("char", ["text.txt", "rows.csv"], overrides=["corpus.delimiter=;"])) == 1


def test_the_type_of_ids_is_refused_for_files_that_say_it() -> None:
    np.save("x.npy", np.arange(400, dtype=np.int32) % 9)
    with pytest.raises(ConfigError, match=r"^ids.dtype: applies to \.bin files"):
        data.prepare("x.npy", out="none", overrides=["ids.vocab_size=9", "ids.dtype=uint32"])


def test_another_shape_than_that_of_the_model_is_refused_before_the_corpus_is_read() -> None:
    with pytest.raises(CompatibilityError, match="has another shape"):
        firstlight.pretrain("text.txt", out="shaped", init_from="char", overrides=[*FEW, "model.n_layer=2"])
    assert not Path("shaped", "data").exists() and not Path("shaped", "base").exists()


def test_characters_of_a_run_from_before_there_was_byte_fallback_stay_as_they_were() -> None:
    words = [*TINY, "tokenizer.kind=char", "tokenizer.byte_fallback=false"]
    firstlight.pretrain("text.txt", out="older", overrides=words)
    file = Path("older/run.toml")
    text = file.read_text(encoding="utf-8").replace('min_frequency = "auto"', "min_frequency = 1")
    file.write_text(text.replace("byte_fallback = false\n", ""), encoding="utf-8")
    assert "byte_fallback" not in saved("older")["tokenizer"]
    firstlight.pretrain("older/run.toml", out="older-again")
    assert LM.load_fp32("older-again").vocab.hash == LM.load_fp32("older").vocab.hash  # type: ignore[union-attr]
    options: dict[str, Any] = {"out": None, "preset_name": None, "init_from": None, "overrides": []}
    resumed = pretrain_request(PretrainRecipe(), ["older"], resume=True, **options).settings
    assert not resumed.tokenizer.byte_fallback
