"""Find rows that belong together, as a split must not separate them: a text of theirs is the same, or nearly so.

Questions about one dialogue, hypotheses about one premise, or a review that was posted twice with a word changed: where
such rows stand on both sides of a split, the validation score is that of texts which the model has seen. Two texts are
near-duplicates if their sets of three words in a row have a Jaccard similarity of at least 0.7; candidates are found by
MinHash (Broder 1997) with locality-sensitive hashing.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from firstlight.finetuning.bag_of_words import WORD
from firstlight.finetuning.examples import Example
from firstlight.finetuning.kinds import kind_of
from firstlight.finetuning.spec import TaskSpec
from firstlight.store import mix64

_T = TypeVar("_T")

_WORD = re.compile(WORD)
# Not symbols, which tell apart C, C++ and C#.
_PUNCTUATION = re.compile(r"""[.,;:!?"'`()\[\]{}…、。,!?;:“”‘’「」『』《》()【】]""")
_SHINGLE = 3  # words
_MIN_WORDS = 8  # of texts that are compared by their words: in shorter ones, a word changes the meaning
_MIN_SHARED_WORDS = 4  # of a text that tells a row apart beside another one: many answers are "yes"
_SIMILARITY = 0.7
_BANDS, _BAND_ROWS = 16, 4  # finds 0.7 with a probability of 98.8 %, 0.4 with 34 %
_NEIGHBOURS = 4  # of a text, in the order of each band, that are compared with it
_MAX_ROWS = 200_000  # that are compared by their words
# Words in a row that more texts have are a template, such as an instruction, and say nothing about a text.
_TEMPLATE_TEXTS, _TEMPLATE_FRACTION = 20, 0.1
# A text beside others that more rows have may be one, such as "What is the topic?".
_TEMPLATE_ROWS = 10
_WEAK = 4  # groups of weak links, which fit into the validation rows


@dataclass(slots=True)
class RelatedRows:
    """The rows of a task by their texts.

    Attributes:
        whole: the normalised texts of each row, all together.
        parts: of each row the normalised texts that tell it apart, with their number in the row.
        has_others: whether a row has further texts beside each of these.
        near: pairs of texts that are near-duplicates.
        common: texts of a part that too many rows have to say anything about a row, with their number of rows.
    """

    whole: list[tuple[str, ...]]
    parts: list[list[tuple[int, str]]]
    has_others: list[bool]
    near: list[tuple[str, str]] = field(default_factory=list)
    common: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, spec: TaskSpec, rows: Sequence[Example]) -> "RelatedRows":
        """Compare the rows of a task.

        Args:
            spec: of the task, whose kind says which texts tell rows apart: the question, but not the answers.
            rows: any number of them.
        """
        inputs = kind_of(spec).inputs
        whole, parts, has_others = [], [], []
        for row in rows:
            whole.append(tuple(_normalize(text) for text in row.texts))
            texts = [_normalize(text) for text in inputs.identifying_texts(row)]
            has_others.append(len(texts) > 1 or (len(row.texts) > 1 and whole[-1][:1] == tuple(texts)))
            least = 1 if len(texts) == 1 else _MIN_SHARED_WORDS
            parts.append([(n, t) for n, t in enumerate(texts) if t and (least == 1 or _n_words(t, least) >= least)])
        found = cls(whole, parts, has_others)
        found._find_common()
        if len(rows) <= _MAX_ROWS:
            distinct = dict.fromkeys(text for row in parts for _, text in row if text not in found.common)
            found.near = list(_near_duplicates(list(distinct)))
        return found

    def _find_common(self) -> None:
        limit = max(_TEMPLATE_ROWS, int(_TEMPLATE_FRACTION * len(self.whole)))
        several = (row for row, has_others in zip(self.parts, self.has_others, strict=True) if has_others)
        counts = Counter(chain.from_iterable({text for _, text in row} for row in several))
        self.common = Counter({text: n for text, n in counts.items() if n > limit})

    def groups(self, n: int, max_rows: int) -> Int[np.ndarray, " N"]:
        """Return the number of the group of each of the first ``n`` rows.

        The strongest links come first: the same row, the same first text, other texts, near-duplicates. One that would
        make a group larger than the validation rows is left out.

        Args:
            n: number of rows.
            max_rows: of a group, of rows with the same first text; weaker links make groups of at most a quarter.
        """
        found, weak = _Groups(n), max(2, max_rows // _WEAK)
        found.join_all(_owners((i, [text]) for i, text in enumerate(self.whole[:n]) if any(text)), n)
        numbers = sorted({number for row in self.parts[:n] for number, _ in row})
        for number in numbers:
            owners = _owners((i, [t for k, t in row if k == number]) for i, row in enumerate(self.parts[:n]))
            kept = {text: rows for text, rows in owners.items() if text not in self.common}
            found.join_all(kept, max_rows if number == numbers[0] else weak)
        owners = _owners((i, [t for _, t in row if t not in self.common]) for i, row in enumerate(self.parts[:n]))
        if len(numbers) > 1:  # a text that is the first of one row and the second of another
            found.join_all(owners, weak)
        for one, other in self.near:
            if one in owners and other in owners:
                found.join([*owners[one], *owners[other]], weak)
        return found.numbers()

    def matches(self, train: Sequence[int], others: Sequence[int]) -> dict[int, int]:
        """Return a training row that shares a text with a row, for each of the other rows that has one.

        Args:
            train: numbers of the training rows.
            others: numbers of the rows to compare with them.
        """
        whole: dict[tuple[str, ...], int] = {}
        by_text: dict[str, int] = {}
        for i in train:
            whole.setdefault(self.whole[i], i)
            for _, text in self.parts[i]:
                if text not in self.common:
                    by_text.setdefault(text, i)
        near: dict[str, list[str]] = {}
        for one, other in self.near:
            near.setdefault(one, []).append(other)
            near.setdefault(other, []).append(one)
        found = {}
        for i in others:
            texts = [text for _, text in self.parts[i]]
            candidates = chain(texts, chain.from_iterable(near.get(text, ()) for text in texts))
            if any(self.whole[i]) and self.whole[i] in whole:
                found[i] = whole[self.whole[i]]
            elif (match := next((t for t in candidates if t in by_text), None)) is not None:
                found[i] = by_text[match]
        return found


def _normalize(text: str) -> str:
    """Return a text without case, punctuation and the kinds of white space; one of punctuation only as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_PUNCTUATION.sub(" ", folded).split()) or text.strip()


def _n_words(text: str, most: int) -> int:
    """Count the words of a text, at most up to a number."""
    return sum(1 for _ in islice(_WORD.finditer(text), most))


def _owners(rows: Iterable[tuple[int, Iterable[_T]]]) -> dict[_T, list[int]]:
    """Return the numbers of the rows that have a text, by text."""
    owners: dict[_T, list[int]] = {}
    for i, texts in rows:
        for text in texts:
            owners.setdefault(text, []).append(i)
    return owners


def _near_duplicates(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of different texts that are near-duplicates."""
    words: dict[str, int] = {}
    kept, ids = [], []
    for text in texts:
        of_text = [words.setdefault(word, len(words)) for word in _WORD.findall(text)]
        if len(of_text) >= _MIN_WORDS:
            kept.append(text)
            ids.append(of_text)
    if len(kept) < 2:
        return
    shingles = _shingles(ids)
    starts = np.cumsum([0, *map(len, shingles)])
    flat = np.concatenate(shingles)
    own = [i for i in range(len(kept)) if len(shingles[i])]  # others are nothing but a template
    if len(own) < 2:
        return
    generator = np.random.default_rng(0)
    seen: set[tuple[int, int]] = set()
    for _ in range(_BANDS):
        band = np.zeros(len(own), dtype=np.uint64)
        for factor in generator.integers(1, 2**63, _BAND_ROWS, dtype=np.uint64) | np.uint64(1):
            minima = np.minimum.reduceat(mix64(flat * factor), starts[:-1][own])
            band = mix64(band * np.uint64(31) + minima)
        order = np.argsort(band, kind="stable")
        for distance in range(1, min(_NEIGHBOURS, len(own) - 1) + 1):
            same = np.flatnonzero(band[order[:-distance]] == band[order[distance:]])
            for i, j in zip(order[same].tolist(), order[same + distance].tolist(), strict=True):
                pair = (min(i, j), max(i, j))
                if pair in seen:
                    continue
                seen.add(pair)
                one, other = shingles[own[i]], shingles[own[j]]
                both = len(np.intersect1d(one, other, assume_unique=True))
                if both >= _SIMILARITY * (len(one) + len(other) - both):
                    yield kept[own[i]], kept[own[j]]


def _shingles(ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return the hashes of three words in a row of each text, once each, without those of templates."""
    ends = np.cumsum([len(of_text) for of_text in ids])
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.uint64, count=int(ends[-1]))
    hashes = np.zeros(len(flat) - _SHINGLE + 1, dtype=np.uint64)
    for k in range(_SHINGLE):
        hashes = mix64(hashes * np.uint64(0x9E3779B97F4A7C15) + flat[k : len(hashes) + k] + np.uint64(1))
    # Those that begin within a text and end in the next one are left out.
    each = [np.unique(hashes[end - len(t) : end - _SHINGLE + 1]) for end, t in zip(ends, ids, strict=True)]
    values, counts = np.unique(np.concatenate(each), return_counts=True)
    templates = values[counts > max(_TEMPLATE_TEXTS, _TEMPLATE_FRACTION * len(ids))]
    return [np.setdiff1d(of_text, templates, assume_unique=True) for of_text in each] if len(templates) else each


class _Groups:
    """Disjoint sets of the numbers below ``n`` (union-find)."""

    def __init__(self, n: int) -> None:
        self._parents, self._sizes = list(range(n)), [1] * n

    def join_all(self, members: Mapping[_T, Sequence[int]], max_size: int) -> None:
        """Join the numbers of each list, the shortest first."""
        for numbers in sorted(members.values(), key=len):
            self.join(numbers, max_size)

    def join(self, members: Sequence[int], max_size: int) -> None:
        """Make one set of the sets of all members, unless it would be too large; its root is the lowest one."""
        roots = sorted({self._root(i) for i in members})
        size = sum(self._sizes[root] for root in roots)
        if size > max_size:
            return
        for root in roots:
            self._parents[root] = roots[0]
        self._sizes[roots[0]] = size

    def numbers(self) -> np.ndarray:
        """Return the root of every number."""
        return np.array([self._root(i) for i in range(len(self._parents))], dtype=np.int64)

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i
