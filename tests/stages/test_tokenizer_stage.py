"""Training, importing and comparing tokenizers as stages: what is kept, used again, refused."""

import json
from pathlib import Path

import pytest

from firstlight.corpus import open_corpus
from firstlight.errors import FirstlightError, TokenizerError, UsageError
from firstlight.stages import tokenizer as stage
from firstlight.stages.tokenizer_cache import train_on_corpus
from firstlight.tokenizer import TokenizerSettings

TEXT = "the cat sat on a mat and saw one more bird there\n" * 40


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


def train(out: str, *overrides: str) -> stage.TokenizerSummary:
    return stage.train(["text.txt"], out=out, overrides=overrides)


def test_train_saves_what_it_tells():
    facts = train("words", "tokenizer.kind=word")
    assert (facts.kind, facts.vocab_size, facts.eot, facts.unk_id) == ("word", 14, "<|endoftext|>", 1)
    assert facts == stage.show("words")
    assert len(facts.longest) == 8
    assert "there" in facts.longest


def test_the_same_is_used_again_and_another_is_refused():
    facts = train("here", "tokenizer.kind=char")
    file = Path("here/tokenizer.json")
    made = file.stat().st_mtime_ns
    assert train("here", "tokenizer.kind=char") == facts
    assert file.stat().st_mtime_ns == made
    with pytest.raises(UsageError, match="already has another tokenizer"):
        train("here", "tokenizer.kind=byte")
    with pytest.raises(UsageError, match="already has another tokenizer"):
        stage.import_(_byte("bytes"), out="here")
    assert stage.show("here") == facts


def test_overwrite_replaces_another_tokenizer():
    train("here", "tokenizer.kind=char")
    facts = stage.train(["text.txt"], out="here", overrides=["tokenizer.kind=byte"], overwrite=True)
    assert stage.show("here") == facts and facts.kind == "byte"
    assert stage.import_(_byte("bytes"), out="here", overwrite=True).kind == "byte"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "origin.json"])
def test_files_of_others_in_the_folder_are_kept(name: str):
    folder = Path("model")
    folder.mkdir()
    (folder / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=f"{name}: already exists"):
        train("model", "tokenizer.kind=char")
    with pytest.raises(UsageError, match=f"{name}: already exists"):
        stage.import_(_byte("bytes"), out="model")
    assert (folder / name).read_text(encoding="utf-8") == "mine"


def test_a_tokenizer_without_its_cache_key_is_trained_again():
    facts = train("here", "tokenizer.kind=char")
    Path("here/origin.json").unlink()
    assert train("here", "tokenizer.kind=char") == facts
    assert Path("here/origin.json").is_file()


def test_a_damaged_tokenizer_is_not_replaced_unasked():
    train("here", "tokenizer.kind=char")
    Path("here/origin.json").unlink()
    Path("here/tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="found damaged"):
        train("here", "tokenizer.kind=char")


def test_the_same_text_read_in_another_way_has_another_cache_key():
    settings = TokenizerSettings(kind="char")
    key = stage.cache_key(settings, open_corpus(["text.txt"]))
    assert key == stage.cache_key(settings, open_corpus(["text.txt"]))
    assert key == json.loads(json.dumps(key))
    Path("text.txt").write_text(TEXT + "x", encoding="utf-8")
    assert key != stage.cache_key(settings, open_corpus(["text.txt"]))


def _byte(out: str) -> str:
    train(out, "tokenizer.kind=byte")
    return out


def test_import_takes_what_it_made_before():
    source = _byte("bytes")
    facts = stage.import_(source, out="copy")
    assert facts.hash == stage.show(source).hash
    assert stage.import_(source, out="copy") == facts


def test_nothing_is_written_where_training_fails():
    for overrides in (["tokenizer.vocab_size=9000"], ["tokenizer.path=x"], ["tokenizer.kind=letters"]):
        with pytest.raises(FirstlightError):
            train("new", *overrides)
    assert not Path("new").exists()
    with pytest.raises(UsageError, match="is a file"):
        train("text.txt")


def test_encode_shows_what_each_id_stands_for():
    train("chars", "tokenizer.kind=char", "tokenizer.byte_fallback=false")
    encoded = stage.encode("chars", "cat?")
    assert encoded.tokens == ["c", "a", "t", "<unk>"]
    assert stage.decode("chars", encoded.ids) == "cat"
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        stage.decode("chars", [10_000])
    with pytest.raises(UsageError, match="no such file"):
        stage.encode("nothere", "x")


def test_compare_is_about_the_text_and_not_about_documents():
    train("chars", "tokenizer.kind=char", "tokenizer.byte_fallback=false")
    Path("other.jsonl").write_text('{"text": "cat é"}\n{"text": "bird"}\n', encoding="utf-8")
    chars, raw = stage.compare(["chars", _byte("bytes")], ["other.jsonl"])
    assert (chars.tokens, chars.unknown.tokens, raw.tokens, raw.unknown.tokens) == (9, 1, 10, 0)
    assert (chars.bytes_per_token, chars.characters_per_token) == (10 / 9, 1.0)
    assert (raw.bytes_per_token, raw.characters_per_token) == (1.0, 0.9)


def test_every_source_is_in_the_sample_of_a_tokenizer():
    Path("a.txt").write_text("alpha " * 500, encoding="utf-8")
    Path("b.txt").write_text("beta " * 500, encoding="utf-8")
    settings = TokenizerSettings.model_validate({"kind": "word", "sample_bytes": 600})
    made = train_on_corpus(open_corpus(["a.txt", "b.txt"]), settings)
    assert made.unk_id not in made.encode("alpha beta")
    alone = train_on_corpus(open_corpus(["a.txt"]), settings)
    assert alone.unk_id in alone.encode("alpha beta")
