"""BPE training: against merging done by hand, and beside the slower library that stands in where rustbpe is missing."""

import re
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight import progress
from firstlight.tokenizer import PATTERNS, TokenizerSettings, train
from firstlight.types import Document
from messy_text import messy_text

WORDS = st.lists(st.text("abcde", min_size=1, max_size=9), min_size=30, max_size=80)


def merged_by_hand(words: list[str], n: int) -> list[bytes]:
    """Merge the commonest pair, of equal ones that whose tokens came first, n times."""
    counts = Counter(tuple(bytes([b]) for b in word.encode()) for word in words)
    order = {bytes([b]): b for b in range(256)}
    for _ in range(n):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], order[p[0]], order[p[1]]))
        order[best[0] + best[1]] = len(order)
        merged: Counter[tuple[bytes, ...]] = Counter()
        for word, count in counts.items():
            parts, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == best else 1
                parts.append(b"".join(word[i : i + step]))
                i += step
            merged[tuple(parts)] += count
        counts = merged
    return list(order)[256:]


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(1, 30))
def test_the_commonest_pair_is_merged_first(words: list[str], n: int) -> None:
    # Each word stands alone, so that the pattern cuts the text where the reference does.
    cut = [piece for word in words for piece in re.findall(r" ?[a-e]+", f" {word}")]
    expected = merged_by_hand(cut, n)
    made = train([Document(f" {word}", "x") for word in words], TokenizerSettings(vocab_size=257 + len(expected)))
    assert [made.decode_bytes([i]) for i in range(257, made.vocab_size)] == expected


@pytest.mark.parametrize("pattern", PATTERNS)
def test_where_rustbpe_is_missing_tokenizers_trains_nearly_the_same_and_says_so(pattern, monkeypatch) -> None:
    documents = [Document(messy_text(seed, 20_000), "x") for seed in range(3)]
    asked = TokenizerSettings(vocab_size=500, pattern=pattern)
    usual = train(documents, asked)
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    monkeypatch.setattr(progress, "notice", said.append)
    other = train(documents, asked)
    assert any("rustbpe is not installed" in line for line in said)
    assert other.vocab_size == usual.vocab_size == 500
    assert len(set(usual.tokens()) & set(other.tokens())) > 480
    text = messy_text(9, 5000)
    assert other.decode(other.encode(text)) == usual.decode(usual.encode(text)) == text


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "A" * 70_000 + "!", "\n" * 50_000, "漢字" * 40_000])
def test_a_text_without_borders_is_trained_on(text: str) -> None:
    for pattern in PATTERNS:
        made = train([Document(text, "x")], TokenizerSettings(pattern=pattern))
        assert made.decode(made.encode(text[:300])) == text[:300]
