"""What every kind of tokenizer promises: round trips, counts, bytes, and that text stays text."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight import progress
from firstlight.errors import StorageError, TokenizerError
from firstlight.tokenizer import END_OF_TEXT, Tokenizer, TokenizerSettings, load, train
from firstlight.types import Document
from messy_text import LOSSLESS, NAMES, messy_text, texts

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
KINDS = {**dict.fromkeys(LOSSLESS, "bpe"), "word": "word", "char": "char", "char-unk": "char", "byte": "byte"}


@pytest.mark.parametrize("name", NAMES)
def test_kind_and_size(trained: dict[str, Tokenizer], name: str) -> None:
    tokenizer = trained[name]
    assert tokenizer.kind == KINDS[name]
    assert tokenizer.lossless is (name in LOSSLESS)
    assert len(tokenizer.tokens()) == tokenizer.vocab_size
    assert tokenizer.tokens()[tokenizer.eot_id] == END_OF_TEXT
    assert tokenizer.vocab_size == (257 if name == "byte" else 700 if name.startswith("bpe") else tokenizer.vocab_size)


@pytest.mark.parametrize("name", LOSSLESS)
@settings(deadline=None)
@given(text=texts | st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_is_exact_on_any_string(trained: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = trained[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert int(tokenizer.byte_lengths()[ids].sum()) == len(text.encode())
    assert tokenizer.eot_id not in ids


def test_byte_ids_are_the_bytes(trained: dict[str, Tokenizer]) -> None:
    assert trained["byte"].encode("aé€") == list("aé€".encode())
    assert trained["byte"].eot_id == 256


def test_characters_that_were_seen_come_back(trained: dict[str, Tokenizer]) -> None:
    text = messy_text(0, 300)
    tokenizer = trained["char-unk"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)
    assert int(tokenizer.byte_lengths()[tokenizer.encode(text)].sum()) == len(text.encode())
    assert tokenizer.encode("a\U0001f999a") == [*tokenizer.encode("a"), tokenizer.unk_id, *tokenizer.encode("a")]


def test_words_of_english_and_chinese_are_written_as_people_do() -> None:
    text = "The cat sat, and it slept. 你好，世界。 cat 你"
    tokenizer = train([Document(text, "x")], TokenizerSettings(kind="word"))
    assert tokenizer.decode(tokenizer.encode("The cat slept, and sat.")) == "The cat slept, and sat."
    assert tokenizer.decode(tokenizer.encode("世界，你好。")) == "世界，你好。"
    assert tokenizer.encode("dog") == [tokenizer.unk_id]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>d", "<|endoftext|><|endoftext|>\n", "x <unk> d"])
def test_special_tokens_in_a_text_are_text(trained: dict[str, Tokenizer], name: str, text: str, tmp_path: Path) -> None:
    trained[name].save(tmp_path)
    for tokenizer in (trained[name], load(tmp_path)):
        unknown = set() if tokenizer.has_unknown else {tokenizer.unk_id}
        for ids in (
            tokenizer.encode(text),
            tokenizer.encode_batch(["before", text, "after"])[0].tolist(),
            tokenizer._encode([text])[0].tolist(),
        ):
            assert tokenizer.eot_id not in ids
            assert not unknown & set(ids)
        if tokenizer.kind != "word":
            assert tokenizer.decode(tokenizer.encode(text)) == text
    assert trained[name].tokens().index(END_OF_TEXT) == trained[name].eot_id


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_texts_end_to_end(trained: dict[str, Tokenizer], name: str) -> None:
    batch = ["", messy_text(3, 40), " ", messy_text(4, 7), ""]
    ids, counts = trained[name].encode_batch(batch)
    assert (ids.dtype, counts.dtype) == (np.int32, np.int64)
    assert counts.tolist() == [len(trained[name].encode(text)) for text in batch]
    assert ids.tolist() == [i for text in batch for i in trained[name].encode(text)]
    empty, none = trained[name].encode_batch([])
    assert (len(empty), len(none)) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_half_a_surrogate_pair_is_one_replacement_character(trained: dict[str, Tokenizer], name: str) -> None:
    heard: list[str] = []
    trained[name]._warned = False
    with progress.listen(lambda event: heard.append(event.text)):
        ids = trained[name].encode_batch(["a\ud83d a", "\udc00"])[0]
    assert ids.tolist() == trained[name].encode_batch(["a\ufffd a", "\ufffd"])[0].tolist()
    assert [text for text in heard if "surrogate" in text] != []


def test_training_text_may_hold_half_a_surrogate_pair() -> None:
    for kind in ("bpe", "word", "char"):
        tokenizer = train([Document("abc \ud800 abd abc " * 9, "x")], TokenizerSettings(kind=kind))  # type: ignore[arg-type]
        assert not any("\ud800" in token for token in tokenizer.tokens())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1, 10**6, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(trained: dict[str, Tokenizer], name: str, bad: int) -> None:
    for call in (
        trained[name].decode,
        trained[name].decode_bytes,
        trained[name].stream_decoder().push,
    ):
        with pytest.raises(TokenizerError, match=f"found {bad}; expected 0 to {trained[name].vocab_size - 1}"):
            call(bad if call.__name__ == "push" else [0, bad])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_is_the_same(trained: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
    trained[name].save(tmp_path, model_max_length=64)
    again = load(tmp_path)
    text = messy_text(5, 200)
    assert again.hash == trained[name].hash
    assert again.kind == trained[name].kind
    assert again.encode(text) == trained[name].encode(text)
    assert (again.eot, again.unk, again.vocab_size) == (
        trained[name].eot,
        trained[name].unk,
        trained[name].vocab_size,
    )
    again.save(tmp_path / "twice", model_max_length=64)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_hashes_differ_where_ids_do(trained: dict[str, Tokenizer]) -> None:
    assert len({trained[name].hash for name in NAMES}) == len(NAMES)


def test_a_hash_forgets_no_id(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    trained["byte"].save(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    assert load(tmp_path).hash != trained["byte"].hash


def test_end_of_text_is_never_the_padding_token(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    for name in NAMES:
        trained[name].save(tmp_path / name)
        config = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert config["eos_token"] == END_OF_TEXT
        assert "pad_token" not in config


def test_bpe_dropout_is_switched_off(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    trained["bpe-gpt2"].save(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    table["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    text = messy_text(6, 100)
    assert load(tmp_path).encode(text) == trained["bpe-gpt2"].encode(text)


def test_a_folder_that_may_not_be_written(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="exists where a folder is needed"):
        trained["byte"].save(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "kind", "lossless"),
    [
        ({"normalizer": {"type": "NFC"}}, "bpe", False),
        ({"decoder": None}, "other", False),
        ({"pre_tokenizer": None}, "other", False),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "bpe", False),
        ({"pre_tokenizer": BYTE_LEVEL}, "byte", True),
    ],
)
def test_short_ways_are_taken_only_where_they_are_right(
    trained: dict[str, Tokenizer], tmp_path: Path, change: dict[str, object], kind: str, lossless: bool
) -> None:
    trained["byte"].save(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**table, **change}))
    tokenizer = load(tmp_path)
    assert (tokenizer.kind, tokenizer.lossless) == (kind, lossless)
    text = "e\u0301 x\ny"
    assert tokenizer.encode(text) == tokenizer._encode_with_tokenizers([text])[0].tolist()


def test_words_of_one_letter_do_not_make_a_character_tokenizer() -> None:
    tokenizer = train([Document("a b c , a", "x")], TokenizerSettings(kind="word"))
    assert tokenizer.kind == "word"
    assert tokenizer.encode("a b") == tokenizer.encode("a  b")
