"""Judge word vectors: do near words mean alike, and do differences of words carry over."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.statistics import METRICS
from firstlight.vectors.stream import open_vectors
from firstlight.vectors.word_vectors import WordVectors

_MOST_LINE = 1 << 16
_NUMBERS_AT_ONCE = 1 << 25  # of the table of questions by words


@dataclass(frozen=True, slots=True)
class Similarity:
    """How well cosines rank pairs of words as people did.

    Attributes:
        spearman: of the pairs found; None with fewer than three.
        found: pairs both of whose words have a vector.
        skipped: others.
    """

    file: str
    spearman: float | None
    found: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Section:
    """Questions of one kind: how many were answered right, of those whose four words have a vector."""

    name: str
    right: int
    found: int
    skipped: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, or None where no question could be asked."""
        return self.right / self.found if self.found else None


def similarity(vectors: WordVectors, path: Path) -> Similarity:
    """Rank pairs of words, a line each with people's score behind them, by the cosine of their vectors.

    Raises:
        TokenizerError: a line that is none.
    """
    rows, scores, skipped = [], [], 0
    for first, second, score in _pairs(path):
        found = vectors.find(first), vectors.find(second)
        if found[0] is None or found[1] is None:
            skipped += 1
            continue
        rows.append((found[0][0], found[1][0]))
        scores.append(score)
    if len(rows) < 3:
        return Similarity(path.name, None, len(rows), skipped)
    units = _units(vectors.matrix)
    at = np.array(rows)
    cosines = (units[at[:, 0]] * units[at[:, 1]]).sum(1)
    return Similarity(path.name, METRICS["spearman"](cosines, np.array(scores)), len(rows), skipped)


def analogies(vectors: WordVectors, path: Path, *, most: int) -> list[Section]:
    """Answer a is to b as c is to ? by the word nearest to b - a + c, the question's own left out (3CosAdd).

    Args:
        vectors: which words there are.
        path: questions, four words a line, in sections that begin with a colon.
        most: only the first so many words take part, as in word2vec's own program.

    Returns:
        The sections; then ``semantic`` and ``syntactic`` ones together, where both are there, and ``total``.

    Raises:
        TokenizerError: a line that is none.
    """
    part = WordVectors(vectors.words[:most], vectors.matrix[:most], vectors.source)
    units = _units(part.matrix)
    sections = []
    for name, questions in _questions(path):
        found = [[part.find(word) for word in question] for question in questions]
        asked = np.array([[hit[0] for hit in hits if hit] for hits in found if all(hits)], dtype=np.int64)
        right = _right(units, asked.reshape(-1, 4))
        sections.append(Section(name, right, len(asked), len(questions) - len(asked)))
    syntactic = [s for s in sections if s.name.startswith("gram")]
    semantic = [s for s in sections if not s.name.startswith("gram")]
    if syntactic and semantic:
        sections += [_sum("semantic", semantic), _sum("syntactic", syntactic)]
        return [*sections, _sum("total", semantic + syntactic)]
    return [*sections, _sum("total", sections)]


def _right(units: np.ndarray, asked: np.ndarray) -> int:
    """Count the questions (N, 4) whose fourth word is the nearest one."""
    count, size = 0, max(1, _NUMBERS_AT_ONCE // len(units))
    for first in range(0, len(asked), size):
        rows = asked[first : first + size]
        a, b, c, d = rows.T
        near = (units[b] - units[a] + units[c]) @ units.T  # (n, V)
        np.put_along_axis(near, rows[:, :3], -np.inf, 1)
        count += int((near.argmax(1) == d).sum())
    return count


def _sum(name: str, sections: list[Section]) -> Section:
    return Section(name, *(sum(getattr(s, what) for s in sections) for what in ("right", "found", "skipped")))


def _units(matrix: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(lengths, np.finfo(np.float32).tiny))


def _pairs(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield two words and a score; SimLex-999's own table has a heading, which says where its score stands."""
    column, begun = 2, False
    for number, line in _lines(path):
        parts = re.split(r"[\t,;]", line) if re.search(r"[\t,;]", line) else line.split()
        if not begun:
            begun = True
            names = [part.strip().lower() for part in parts]
            if len(parts) > 2 and not _is_number(parts[2]):
                column = names.index("simlex999") if "simlex999" in names else 2
                continue
        if len(parts) <= column or not _is_number(parts[column]):
            raise TokenizerError(
                "is no pair with a score",
                where=f"{path}:{number}",
                found=repr(line[:40]),
                expected="word, word, number",
            )
        yield parts[0].strip(), parts[1].strip(), float(parts[column])


def _questions(path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    name, held = path.stem, list[list[str]]()
    for number, line in _lines(path):
        if line.startswith(":"):
            if held:
                yield name, held
            name, held = line[1:].strip(), []
            continue
        words = line.split()
        if len(words) != 4:
            raise TokenizerError(
                "is no question of four words",
                where=f"{path}:{number}",
                found=repr(line[:40]),
                expected="such as: Athens Greece Oslo Norway",
            )
        held.append(words)
    if held:
        yield name, held


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers."""
    if not path.is_file():
        raise TokenizerError("no such file", where=path)
    with open_vectors(path) as stream:
        while line := stream.readline(_MOST_LINE):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                stream.fail("is no UTF-8", line=True)
            if text and not text.startswith("#"):
                yield stream.line_number, text


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
