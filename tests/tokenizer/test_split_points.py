"""A text may be cut where the ids of its parts are those of the whole, for every kind and pattern."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from firstlight.tokenizer import PATTERNS, Tokenizer, TokenizerSettings, load, train
from firstlight.types import Document
from messy_text import NAMES, PIECES, messy_text, texts

NASTY = [
    "a \n \n b",
    "x\n\n  y",
    "don't  'S",
    "a 's",
    "1 234 5",
    "。\n\n你",
    "é \u0301x",
    "a\u200b b",
    "!\r\n x",
    "a /\n/ b",
    " \n",
]


def _check(tokenizer: Tokenizer, text: str, more: str, at: int) -> None:
    whole = tokenizer.encode(text + more)
    assert tokenizer.encode(text[:at]) + tokenizer.encode(text[at:] + more) == whole, (text, more, at)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=250)
@given(text=texts, more=texts)
@example(text="".join(NASTY), more="".join(PIECES))
@example(text="".join(PIECES), more="".join(reversed(PIECES)))
def test_the_parts_have_the_ids_of_the_whole(trained: dict[str, Tokenizer], name: str, text: str, more: str) -> None:
    tokenizer = trained[name]
    at = tokenizer.split_point(text)
    assert 0 <= at <= len(text)
    _check(tokenizer, text, more, at)
    if name not in ("char", "char-unk", "byte"):
        # Every place that may be chosen, not the last one alone.
        for match in tokenizer._split_points._pattern.finditer(text):  # type: ignore[union-attr]
            _check(tokenizer, text, more, match.start())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_that_cannot_be(trained: dict[str, Tokenizer], name: str) -> None:
    assert trained[name].split_point("") == 0
    for text in (" " * 5000, "字" * 5000, "\n" * 5000, "x" * 5000):
        assert trained[name].split_point(text) in ((0,) if name not in ("char", "char-unk", "byte") else (5000,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox. " * 9,
        "def f(x):\n    return x\n\n\n",
        "天地玄黄，宇宙洪荒。\n日月盈昃，辰宿列张。\n",
        "a\nb\nc\nd",
        "Это слово",
        "a,b",
    ],
)
def test_real_text_is_cut_near_its_end(trained: dict[str, Tokenizer], name: str, text: str) -> None:
    assert trained[name].split_point(text) > max(0, len(text) - 24)


@pytest.mark.parametrize("name", NAMES)
def test_a_far_place_is_found(trained: dict[str, Tokenizer], name: str) -> None:
    if name not in ("char", "char-unk", "byte"):
        assert trained[name].split_point("ab cd" + "x" * 200_000) == 2


def _changed(trained: dict[str, Tokenizer], folder: Path, change: dict[str, object]) -> Tokenizer:
    trained["bpe-qwen2"].save(folder)
    table = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**table, **change}))
    return load(folder)


SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_"}
WHOLE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize(
    ("change", "hangs_together"),
    [
        ({"pre_tokenizer": None}, True),
        ({"pre_tokenizer": WHOLE}, True),
        ({"pre_tokenizer": {**WHOLE, "use_regex": True, "add_prefix_space": True}}, False),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, True),
        ({"normalizer": {"type": "Prepend", "prepend": "_"}}, True),
        ({"normalizer": SPACES}, False),
        ({"normalizer": {"type": "NFC"}}, False),
    ],
)
def test_cuts_ask_the_tokenizer(
    trained: dict[str, Tokenizer], tmp_path: Path, change: dict[str, object], hangs_together: bool
) -> None:
    tokenizer = _changed(trained, tmp_path, change)
    assert (tokenizer.split_point("some words a line\nand more") == 0) is hangs_together
    for text in ("some words, a line\nand 3more", " a  b 1st", "a\n\nb \n", "e\u0301 x\ne", "你好，世界"):
        for more in ("\u0301 and so on", " ", "\nx", "ab", "1", ""):
            _check(tokenizer, text, more, tokenizer.split_point(text))


def _added(content: str, **flags: bool) -> dict[str, object]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": 700, "content": content, **plain, **flags}


@pytest.mark.parametrize("content", ["w1x", "a b", "x.y", "z\nA"])
def test_no_cut_goes_through_an_added_token(trained: dict[str, Tokenizer], tmp_path: Path, content: str) -> None:
    eot = {**_added("<|endoftext|>", special=True), "id": 0}
    tokenizer = _changed(trained, tmp_path, {"added_tokens": [eot, _added(content)]})
    assert 700 in tokenizer.encode(content)
    for end in range(1, len(content)):
        text = f"say {content}"[: 4 + end]
        _check(tokenizer, text, content[end:], tokenizer.split_point(text))


def test_an_added_token_that_swallows_white_space_forbids_cuts(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    eot = {**_added("<|endoftext|>", special=True), "id": 0}
    tokenizer = _changed(trained, tmp_path, {"added_tokens": [eot, _added("<tool>", rstrip=True)]})
    assert tokenizer.split_point("x <tool>  y") == 0
    assert not tokenizer.lossless


@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_between_places_are_whole(pattern: str) -> None:
    # Trained on one long phrase, so that any merge over a word's edge would be learnt if it could be.
    tokenizer = train([Document("ab cd\nef 你好，x1y " * 500, "x")], TokenizerSettings(pattern=pattern))
    assert not any(re.search(r"\w[ĠĊ]", token) for token in tokenizer.tokens())
    text = "ab cd\nef 你好，x1y ab cd"
    for at in range(len(text) + 1):
        _check(tokenizer, text[:at], text[at:], tokenizer.split_point(text[:at]))


def test_untidy_text_is_the_same_in_pieces(trained: dict[str, Tokenizer]) -> None:
    text = messy_text(11, 4000)
    for name in NAMES:
        ids: list[int] = []
        held = ""
        for first in range(0, len(text), 97):
            held += text[first : first + 97]
            at = trained[name].split_point(held)
            ids += trained[name].encode(held[:at])
            held = held[at:]
        assert ids + trained[name].encode(held) == trained[name].encode(text), name
