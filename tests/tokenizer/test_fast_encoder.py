"""fastokens gives the ids of tokenizers, and where it does not, or is not there, the user hears of it."""

import random
import sys
from typing import Any

import fastokens
import numpy as np
import pytest

from firstlight import progress
from firstlight.tokenizer import Tokenizer, TokenizerSettings, fast_encoder, train
from firstlight.types import Document
from messy_text import NAMES, PIECES, messy_text

BPE = [name for name in NAMES if name.startswith("bpe-")]


def _random_text(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.4:
        return "".join(source.choices(PIECES, k=source.randrange(20)))
    if kind < 0.5:
        return source.choice(PIECES) * source.randrange(1, 400)
    planes = ((0, 0x250), (0x250, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0x4E00, 0x9FFF))
    first, last = source.choice(planes)
    return "".join(chr(source.randrange(first, last)) for _ in range(source.randrange(1, 30)))


def _compare(tokenizer: Tokenizer, n: int, seed: int) -> None:
    assert tokenizer._fast is not None
    source = random.Random(seed)
    texts = [_random_text(source) for _ in range(n)]
    ids, counts = tokenizer._fast._encode(texts)
    wanted, wanted_counts = tokenizer._encode_with_tokenizers(texts)
    different = np.flatnonzero(counts != wanted_counts)
    assert not len(different), [texts[i] for i in different[:3]]
    assert np.array_equal(ids, wanted)


@pytest.mark.parametrize("name", BPE)
def test_random_strings_have_the_same_ids(trained: dict[str, Tokenizer], name: str) -> None:
    _compare(trained[name], 3000, seed=1)


@pytest.mark.parametrize("characters", [1, 40, 1 << 22])
def test_chunks_change_neither_ids_nor_counts(
    trained: dict[str, Tokenizer], characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_encoder, "_CHUNK_CHARACTERS", characters)
    texts = ["", "one two", "three " * 30, "", "四", "five"]
    ids, counts = trained[BPE[0]].encode_batch(texts)
    wanted, wanted_counts = trained[BPE[0]]._encode_with_tokenizers(texts)
    assert np.array_equal(ids, wanted) and np.array_equal(counts, wanted_counts)
    assert trained[BPE[0]].encode_batch([])[0].tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BPE)
def test_very_many_random_strings_have_the_same_ids(trained: dict[str, Tokenizer], name: str) -> None:
    for seed in range(10):
        _compare(trained[name], 4000, seed=100 + seed)


@pytest.mark.parametrize("name", BPE)
@pytest.mark.parametrize("piece", [" ", "\n", "a", "字", "1", "!", "\r\n", " \n", "e\u0301", "don't"])
def test_long_runs_have_the_same_ids(trained: dict[str, Tokenizer], name: str, piece: str) -> None:
    texts = [piece * 20_000, "x" + piece * 5_001 + "y"]
    assert np.array_equal(trained[name].encode_batch(texts)[0], trained[name]._encode_with_tokenizers(texts)[0])
    assert trained[name]._fast is not None
    assert trained[name]._fast.trusted


def _fresh() -> Tokenizer:
    return train([Document(messy_text(1, 3000), "x")], TokenizerSettings(vocab_size=400))


def _heard(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[int], list[progress.Event]]:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        ids = tokenizer.encode_batch(texts)[0].tolist()
    return ids, events


def test_nothing_is_said_where_it_works() -> None:
    assert _heard(_fresh(), ["some text"])[1] == []


def test_without_fastokens(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = _fresh().encode("some text")
    monkeypatch.setitem(sys.modules, "fastokens", None)
    tokenizer = _fresh()
    ids, events = _heard(tokenizer, ["some text"])
    assert ids == wanted
    assert ["fastokens is not installed" in event.text for event in events] == [True]
    assert _heard(tokenizer, ["more"])[1] == []


class _Wrong:
    """fastokens that gives another id wherever a text holds ``trigger``, or cannot read anything."""

    def __init__(self, trigger: str | None) -> None:
        self.trigger, self.asked = trigger, 0

    def from_json_str(self, text: str) -> "_Wrong":
        if self.trigger is None:
            raise ValueError("unsupported model type")
        self.native = _native_from_json(text)
        return self

    def encode_batch_flat(self, texts: list[str], split_special_tokens: bool) -> Any:
        self.asked += 1
        ids, ends = self.native.encode_batch_flat(texts, split_special_tokens=split_special_tokens)
        if any(self.trigger in text for text in texts):  # type: ignore[operator]
            flipped = np.frombuffer(ids, dtype=np.uint32).copy()
            flipped[0] ^= 1
            ids = flipped.tobytes()
        return ids, ends


_native_from_json = fastokens.Tokenizer.from_json_str


@pytest.mark.parametrize(
    ("trigger", "level", "words"),
    [
        (None, "info", "cannot read this tokenizer (unsupported model type)"),
        ("café", "warning", "give different ids on probe texts"),
        ("nowhere else", "warning", "give different ids on this text"),
    ],
)
def test_a_fallback_is_told_and_right(
    monkeypatch: pytest.MonkeyPatch, trigger: str | None, level: str, words: str
) -> None:
    wanted = _fresh().encode_batch(["one", "nowhere else", "three"])[0].tolist()
    monkeypatch.setattr(fastokens, "Tokenizer", _Wrong(trigger))
    tokenizer = _fresh()
    ids, events = _heard(tokenizer, ["one", "nowhere else", "three"])
    assert ids == wanted
    assert [(event.level, words in event.text) for event in events] == [(level, True)]
    again, more = _heard(tokenizer, ["one", "nowhere else", "three"])
    assert (again, more) == (wanted, [])


def test_only_the_beginning_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_encoder, "_COMPARED_CHARACTERS", 1000)
    tokenizer = _fresh()
    asked: list[int] = []
    encoder = tokenizer._fast
    assert encoder is not None
    reference = encoder._reference
    encoder._reference = lambda texts: (asked.append(sum(map(len, texts))), reference(texts))[1]
    for text in ("a" * 400, "b" * 5000, "c" * 100):
        tokenizer.encode(text)
    assert asked == [400, 600]


def test_ids_behind_a_gap_can_be_read(trained: dict[str, Tokenizer]) -> None:
    table = trained["bpe-qwen2"]._json
    special = {**table["added_tokens"][0], "id": 900}
    vocabulary = {t: i for t, i in table["model"]["vocab"].items() if i != 0} | {special["content"]: 900}
    gap = {**table, "added_tokens": [special], "model": {**table["model"], "vocab": vocabulary}}
    assert fast_encoder._without_trailing_special(gap)["model"]["vocab"].get(special["content"]) is None
    assert fast_encoder._without_trailing_special(table)["model"]["vocab"] == table["model"]["vocab"]
