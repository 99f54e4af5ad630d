"""How many characters are within one token, how many take several: counted here character by character."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.stages.tokenizer import show, train
from firstlight.tokenizer import Tokenizer, text_coverage, vocab_coverage
from messy_text import messy_text

NAMES = ["bpe-qwen2", "byte", "char", "char-unk"]


@pytest.mark.parametrize("name", NAMES)
def test_characters_of_a_text(trained: dict[str, Tokenizer], name: str) -> None:
    tokenizer = trained[name]
    text = messy_text(1, 400) + "海边很静。é😀"
    encoded = tokenizer.encode_counted([text])
    counts = np.bincount(encoded.ids, minlength=tokenizer.vocab_size)
    found = text_coverage(tokenizer, "text", counts, encoded.unknown.count)
    data, at, borders = text.encode(), 0, set()
    pieces = [tokenizer.token_bytes()[i] for i in encoded.ids]
    if name == "char-unk":  # an unknown token is one character
        assert found.whole + found.split + found.unk_tokens == len(text)
        return
    assert b"".join(pieces) == data
    for piece in pieces:
        at += len(piece)
        borders.add(at)
    split = non_ascii_split = at = 0
    for c in text:
        inside = set(range(at + 1, at + len(c.encode())))
        split += bool(inside & borders)
        non_ascii_split += bool(inside & borders)
        at += len(c.encode())
    assert (found.split, found.non_ascii_split) == (split, non_ascii_split)
    assert found.whole == len(text) - split
    assert found.non_ascii_whole == sum(not c.isascii() for c in text) - split


def test_tokens_of_a_vocabulary(trained: dict[str, Tokenizer]) -> None:
    found = vocab_coverage(trained["byte"])
    assert (found.single, found.single_non_ascii, found.several, found.partial) == (128, 0, 0, 128)
    for tokenizer in trained.values():
        found = vocab_coverage(tokenizer)
        assert found.single + found.several + found.partial + found.special == tokenizer.vocab_size


def test_show_counts_the_text_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("海边很静，海边很静。the sea\n" * 30, encoding="utf-8")
    train([str(tmp_path / "a.txt")], out=tmp_path / "t", overrides=["tokenizer.kind=char"])
    (tmp_path / "b.txt").write_text("海边老师", encoding="utf-8")
    (text,) = show(tmp_path / "t", [str(tmp_path / "b.txt")]).texts
    assert (text.whole, text.split, text.non_ascii_whole, text.unk_tokens) == (2, 2, 2, 0)
    assert show(tmp_path / "t").texts == []
