"""Find rows that belong together, as a split must not separate them: a text of theirs is the same, or nearly so.

Questions about one dialogue, hypotheses about one premise, or a review that was posted twice with a word changed: where
such rows stand on both sides of a split, the validation score is that of texts which the model has seen. Two texts are
nearly the same if their sets of three words in a row have a Jaccard similarity of at least 0.7; candidates are found by
MinHash (Broder 1997) with locality-sensitive hashing.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int

from firstlight.finetuning.bag_of_words import WORD
from firstlight.finetuning.examples import Example
from firstlight.finetuning.kinds import kind_of
from firstlight.finetuning.spec import TaskSpec
from firstlight.store import mix64

_WORD = re.compile(WORD)
_SHINGLE = 3  # words
_MIN_WORDS = 8  # of texts that are compared by their words: in shorter ones, a word changes the meaning
_MIN_SHARED_WORDS = 4  # of a text that tells a row apart beside another one: many answers are "yes"
_SIMILARITY = 0.7
_BANDS, _BAND_ROWS = 16, 4  # finds 0.7 with a probability of 98.8 %, 0.4 with 34 %
_MAX_ROWS = 200_000  # that are compared by their words
# A text in more rows than this is a template, such as "What is the topic?", and says nothing about the row.
_TEMPLATE_ROWS, _TEMPLATE_FRACTION = 10, 0.02


def related_rows(spec: TaskSpec, rows: Sequence[Example]) -> Int[np.ndarray, " N"]:
    """Return the number of each row's group: rows with the same number belong together.

    Args:
        spec: of the task, whose kind says which texts tell rows apart: the question, but not the answers.
        rows: any number of them.
    """
    groups = _Groups(len(rows))
    texts, owners = [], []
    for i, row in enumerate(rows):
        parts = kind_of(spec).inputs.identifying_texts(row)
        for part in parts:
            words = _WORD.findall(unicodedata.normalize("NFKC", part).casefold())
            if words and (len(parts) == 1 or len(words) >= _MIN_SHARED_WORDS):
                texts.append(" ".join(words))
                owners.append(i)
    limit = max(_TEMPLATE_ROWS, int(_TEMPLATE_FRACTION * len(rows)))
    by_text: dict[str, list[int]] = {}
    for text, owner in zip(texts, owners, strict=True):
        by_text.setdefault(text, []).append(owner)
    shared = {text: found for text, found in by_text.items() if len(set(found)) <= limit}
    for found in shared.values():
        groups.join(found)
    if len(rows) <= _MAX_ROWS:
        representatives = {text: found[0] for text, found in shared.items()}
        for one, other in _near_copies(list(representatives)):
            groups.join([representatives[one], representatives[other]])
    return groups.numbers()


def _near_copies(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of different texts that are nearly the same."""
    words: dict[str, int] = {}
    kept, ids = [], []
    for text in texts:
        of_text = [words.setdefault(word, len(words)) for word in text.split()]
        if len(of_text) >= _MIN_WORDS:
            kept.append(text)
            ids.append(of_text)
    if len(kept) < 2:
        return
    ends = np.cumsum([len(of_text) for of_text in ids])
    hashes = _hash_shingles(np.fromiter(chain.from_iterable(ids), dtype=np.uint64, count=int(ends[-1])))
    # Those that begin within a text and end in the next one are left out.
    whole = np.concatenate(
        [np.arange(end - len(of_text), end - _SHINGLE + 1) for end, of_text in zip(ends, ids, strict=True)]
    )
    flat = hashes[whole]
    starts = np.cumsum([0, *(len(of_text) - _SHINGLE + 1 for of_text in ids)])
    generator = np.random.default_rng(0)
    seen: set[tuple[int, int]] = set()
    for _ in range(_BANDS):
        band = np.zeros(len(kept), dtype=np.uint64)
        for factor in generator.integers(1, 2**63, _BAND_ROWS, dtype=np.uint64) | np.uint64(1):
            minima = np.minimum.reduceat(mix64(flat * factor), starts[:-1])
            band = mix64(band * np.uint64(31) + minima)
        order = np.argsort(band, kind="stable")
        for i, j in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            if band[i] == band[j] and (i, j) not in seen:
                seen.add((i, j))
                one, other = (np.unique(flat[starts[k] : starts[k + 1]]) for k in (i, j))
                both = len(np.intersect1d(one, other, assume_unique=True))
                if both >= _SIMILARITY * (len(one) + len(other) - both):
                    yield kept[i], kept[j]


def _hash_shingles(ids: np.ndarray) -> np.ndarray:
    found = np.zeros(len(ids) - _SHINGLE + 1, dtype=np.uint64)
    for k in range(_SHINGLE):
        found = mix64(found * np.uint64(0x9E3779B97F4A7C15) + ids[k : len(found) + k] + np.uint64(1))
    return found


class _Groups:
    """Disjoint sets of the numbers below ``n`` (union-find)."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def join(self, members: Sequence[int]) -> None:
        """Make one set of the sets of all members; its root is the lowest of the roots."""
        roots = [self._root(i) for i in members]
        for root in roots:
            self._parents[root] = min(roots)

    def numbers(self) -> np.ndarray:
        """Return the root of every number."""
        return np.array([self._root(i) for i in range(len(self._parents))], dtype=np.int64)

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i
