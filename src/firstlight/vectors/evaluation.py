"""Evaluate word vectors on word similarity (Spearman correlation with human scores) and on analogies (accuracy)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.statistics import METRICS
from firstlight.vectors.readers import open_vectors
from firstlight.vectors.word_vectors import WordVectors

_MAX_LINE_BYTES = 1 << 16
_MAX_SCORES = 1 << 25  # size of the (questions, words) matrix computed at once


@dataclass(frozen=True, slots=True)
class WordPairsResult:
    """Agreement of cosine similarities with human similarity scores.

    Attributes:
        spearman: rank correlation over the evaluated pairs; None with fewer than three.
        evaluated: number of pairs whose words both have a vector.
        skipped: number of other pairs.
    """

    file: str
    spearman: float | None
    evaluated: int
    skipped: int


@dataclass(frozen=True, slots=True)
class AnalogySection:
    """Results on one section of analogy questions; questions with a word that has no vector are skipped."""

    name: str
    correct: int
    evaluated: int
    skipped: int

    @property
    def accuracy(self) -> float | None:
        """Ratio of correct answers; None if all questions were skipped."""
        return self.correct / self.evaluated if self.evaluated else None


def evaluate_word_pairs(vectors: WordVectors, path: Path) -> WordPairsResult:
    """Correlate the cosine similarities of word pairs with human scores, read from lines of two words and a score.

    Raises:
        TokenizerError: a malformed line.
    """
    rows, scores, skipped = [], [], 0
    for first, second, score in _read_pairs(path):
        first_match, second_match = vectors.find(first), vectors.find(second)
        if first_match is None or second_match is None:
            skipped += 1
            continue
        rows.append((first_match[0], second_match[0]))
        scores.append(score)
    if len(rows) < 3:
        return WordPairsResult(path.name, None, len(rows), skipped)
    normalized = _normalize(vectors.matrix)
    pairs = np.array(rows)
    cosines = (normalized[pairs[:, 0]] * normalized[pairs[:, 1]]).sum(1)
    return WordPairsResult(path.name, METRICS["spearman"](cosines, np.array(scores)), len(rows), skipped)


def evaluate_word_analogies(vectors: WordVectors, path: Path, *, restrict_vocab: int) -> list[AnalogySection]:
    """Answer "a is to b as c is to ?" with the word nearest to b - a + c, other than a, b and c (3CosAdd).

    Args:
        vectors: the vectors.
        path: questions, four words per line, in sections whose title lines start with a colon.
        restrict_vocab: use only this many of the first words, as word2vec's evaluation does.

    Returns:
        The sections; then ``semantic`` and ``syntactic`` totals if there are both; then ``total``.

    Raises:
        TokenizerError: a malformed line.
    """
    restricted = WordVectors(vectors.words[:restrict_vocab], vectors.matrix[:restrict_vocab], vectors.source)
    normalized = _normalize(restricted.matrix)
    sections = []
    for name, questions in _read_questions(path):
        matches = [[restricted.find(word) for word in question] for question in questions]
        rows = np.array([[match[0] for match in found if match] for found in matches if all(found)], dtype=np.int64)
        correct = _count_correct(normalized, rows.reshape(-1, 4))
        sections.append(AnalogySection(name, correct, len(rows), len(questions) - len(rows)))
    syntactic = [s for s in sections if s.name.startswith("gram")]
    semantic = [s for s in sections if not s.name.startswith("gram")]
    if syntactic and semantic:
        sections += [_add_up("semantic", semantic), _add_up("syntactic", syntactic)]
        return [*sections, _add_up("total", semantic + syntactic)]
    return [*sections, _add_up("total", sections)]


def _count_correct(normalized: np.ndarray, questions: np.ndarray) -> int:
    """Count the questions (N, 4) whose fourth word is the nearest one."""
    count, chunk = 0, max(1, _MAX_SCORES // len(normalized))
    for start in range(0, len(questions), chunk):
        rows = questions[start : start + chunk]
        a, b, c, d = rows.T
        scores = (normalized[b] - normalized[a] + normalized[c]) @ normalized.T  # (n, V)
        np.put_along_axis(scores, rows[:, :3], -np.inf, 1)
        count += int((scores.argmax(1) == d).sum())
    return count


def _add_up(name: str, sections: list[AnalogySection]) -> AnalogySection:
    return AnalogySection(
        name,
        correct=sum(s.correct for s in sections),
        evaluated=sum(s.evaluated for s in sections),
        skipped=sum(s.skipped for s in sections),
    )


def _normalize(matrix: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(norms, np.finfo(np.float32).tiny))


def _read_pairs(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield two words and a score; in SimLex-999's file, whose header line names the column of the score."""
    column, is_first = 2, True
    for number, line in _read_lines(path):
        parts = re.split(r"[\t,;]", line) if re.search(r"[\t,;]", line) else line.split()
        if is_first:
            is_first = False
            names = [part.strip().lower() for part in parts]
            if len(parts) > 2 and not _is_number(parts[2]):
                column = names.index("simlex999") if "simlex999" in names else 2
                continue
        if len(parts) <= column or not _is_number(parts[column]):
            raise TokenizerError(
                "is not a word pair with a score",
                where=f"{path}:{number}",
                found=repr(line[:40]),
                expected="word, word, number",
            )
        yield parts[0].strip(), parts[1].strip(), float(parts[column])


def _read_questions(path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each section's name and questions."""
    name, questions = path.stem, list[list[str]]()
    for number, line in _read_lines(path):
        if line.startswith((":", "：")):
            if questions:
                yield name, questions
            name, questions = line[1:].strip(), []
            continue
        words = line.split()
        if len(words) != 4:
            raise TokenizerError(
                "is not an analogy question of four words",
                where=f"{path}:{number}",
                found=repr(line[:40]),
                expected="for example: Athens Greece Oslo Norway",
            )
        questions.append(words)
    if questions:
        yield name, questions


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are neither blank nor comments, with their numbers."""
    if not path.is_file():
        raise TokenizerError("no such file", where=path)
    with open_vectors(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                file.fail("is not UTF-8", line=True)
            if text and not text.startswith("#"):
                yield file.line_number, text


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
