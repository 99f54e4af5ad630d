"""Map word vectors to a tokenizer's vocabulary, report their coverage of it, and select words that have vectors."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import special_ids
from firstlight.vectors.readers import read_vectors
from firstlight.vectors.token_text import iter_merges, token_texts
from firstlight.vectors.word2vec_format import OnBadBytes
from firstlight.vectors.word_vectors import spellings

# How a token got its vector; PIECES: the mean of its subwords; PART: a part of a character, which has none.
MATCH_KINDS = ("exact", "lower", "pieces", "none", "special", "part")
EXACT, LOWER, PIECES, NONE, SPECIAL, PART = range(len(MATCH_KINDS))
_HAN = ("\u3400", "\u9fff")
_MAX_LISTED = 50
_MAX_NAMED = 8


@dataclass(frozen=True)
class MappedVectors:
    """A vector for each token that has one.

    Attributes:
        matrix: (V, D) float32; zeros for tokens without a vector.
        match_kinds: (V,) how each token got its vector, an index into ``MATCH_KINDS``.
        source: the file of the vectors.
    """

    matrix: np.ndarray
    match_kinds: np.ndarray
    source: Path

    @property
    def has_vector(self) -> np.ndarray:
        """Mask (V,) of the tokens that have a vector."""
        return self.match_kinds <= PIECES


def map_to_vocab(tokenizer: Tokenizer, path: Path, on_bad_bytes: OnBadBytes = "error") -> MappedVectors:
    """Read the vectors that a vocabulary needs, and assign one to each token.

    A token's text, without its word-boundary marker (leading space, ``</w>``, ``▁``), is looked up as it is and then in
    lower case. A token that is not found gets the mean of the two tokens that were merged to make it, weighted by their
    lengths, and recursively of their parts. Where a merge cuts a character into bytes, which is frequent in Chinese, it
    gets the mean of its characters. Single letters and digits are not used in means: their vectors are those of
    one-letter words.

    Args:
        tokenizer: whose vocabulary to map to.
        path: the vectors.
        on_bad_bytes: as of ``read_vectors``.

    Raises:
        TokenizerError: the file cannot be read.
    """
    texts = token_texts(tokenizer)
    spelled = _cut_characters(tokenizer, texts)
    sought = {text for text in texts if text}.union(*spelled.values())
    needed = frozenset(word for text in sought for word in spellings(text))
    vectors = read_vectors(path, needed, on_bad_bytes=on_bad_bytes)
    V = len(texts)
    matrix = np.zeros((V, vectors.width), dtype=np.float32)
    match_kinds = np.full(V, NONE, dtype=np.uint8)
    special = special_ids(tokenizer.definition)
    for i, text in enumerate(texts):
        match = vectors.find(text) if text else None
        if text is None:
            match_kinds[i] = SPECIAL if i in special else PART
        elif match is not None:
            row, is_exact = match
            matrix[i], match_kinds[i] = vectors.matrix[row], EXACT if is_exact else LOWER
    characters = {i: [vectors.matrix[m[0]] for c in text if (m := vectors.find(c))] for i, text in spelled.items()}
    _average_pieces(tokenizer, texts, matrix, match_kinds, characters)
    return MappedVectors(matrix, match_kinds, path)


def _cut_characters(tokenizer: Tokenizer, texts: list[str | None]) -> dict[int, str]:
    """Find the tokens that were merged from a part of a character: their characters that may be used in means."""
    spelled: dict[int, str] = {}
    for i, parts in iter_merges(tokenizer):
        text = texts[i]
        if text and len(text) > 1 and any(texts[part] is None for part in parts):
            spelled[i] = "".join(c for c in text if not _is_letter_or_digit(c))
    return spelled


def _average_pieces(
    tokenizer: Tokenizer,
    texts: list[str | None],
    matrix: np.ndarray,
    match_kinds: np.ndarray,
    characters: Mapping[int, list[np.ndarray]],
) -> None:
    """Fill in the means of merged tokens, in the order of the merges, so that parts come before wholes."""
    sums: dict[int, np.ndarray] = {}  # vectors of a token's pieces, each times its length
    lengths: dict[int, int] = {}
    for i, text in enumerate(texts):
        if match_kinds[i] in (EXACT, LOWER) and text and not (len(text) == 1 and _is_letter_or_digit(text)):
            sums[i], lengths[i] = matrix[i] * len(text), len(text)
    for i, parts in iter_merges(tokenizer):
        if i in sums or match_kinds[i] != NONE:
            continue
        if i in characters:
            found = [(vector, 1) for vector in characters[i]]
        else:
            found = [(sums[part], lengths[part]) for part in parts if part in sums]
        if not found:
            continue
        sums[i] = sum((vector for vector, _ in found), np.zeros(matrix.shape[1]))
        lengths[i] = sum(length for _, length in found)
        matrix[i], match_kinds[i] = sums[i] / lengths[i], PIECES


def _is_letter_or_digit(character: str) -> bool:
    """Whether a character is alphanumeric but not Han, whose characters have a meaning of their own."""
    return character.isalnum() and not _HAN[0] <= character <= _HAN[1]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a vocabulary (types) and of a text (tokens) has a vector.

    Attributes:
        source: the file of the vectors.
        width: of the vectors.
        types: number of vocabulary entries by match kind: exact, lower, pieces, none; part where there are any.
        tokens: number of tokens of the training text by match kind.
        missing: the most frequent tokens without a vector, with their counts.
        pieced: the most frequent tokens with the mean of their pieces.
    """

    source: str
    width: int
    types: dict[str, int]
    tokens: dict[str, int]
    missing: list[tuple[str, int]]
    pieced: list[tuple[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        return asdict(self)

    def summary(self) -> str:
        """Format as one line, with the most frequent missing tokens."""
        missing = ", ".join(repr(token) for token, _ in self.missing[:_MAX_NAMED])
        return (
            f"of {sum(self.types.values()):,} tokens in the vocabulary, {_format_ratios(self.types)}; "
            f"of the training text, {_format_ratios(self.tokens)}"
            + (f"; without a vector: {missing}" if missing else "")
        )


def compute_coverage(mapped: MappedVectors, tokens: Sequence[str], counts: np.ndarray, unk_id: int | None) -> Coverage:
    """Count the types and tokens that have a vector.

    Args:
        mapped: the vectors.
        tokens: each token's text.
        counts: how often each token occurs in the training text (V,).
        unk_id: the token for words outside the vocabulary; it counts as missing.
    """
    match_kinds = mapped.match_kinds.copy()
    if unk_id is not None:
        match_kinds[unk_id] = NONE
    kinds = [
        kind for kind in range(len(MATCH_KINDS)) if kind < SPECIAL or (kind == PART and (match_kinds == PART).any())
    ]
    return Coverage(
        source=str(mapped.source),
        width=int(mapped.matrix.shape[1]),
        types={MATCH_KINDS[kind]: int((match_kinds == kind).sum()) for kind in kinds},
        tokens={MATCH_KINDS[kind]: int(counts[match_kinds == kind].sum()) for kind in kinds},
        missing=_most_frequent(match_kinds == NONE, tokens, counts),
        pieced=_most_frequent(match_kinds == PIECES, tokens, counts),
    )


def _most_frequent(mask: np.ndarray, tokens: Sequence[str], counts: np.ndarray) -> list[tuple[str, int]]:
    ids = np.flatnonzero(mask & (counts > 0))
    order = ids[np.argsort(-counts[ids], kind="stable")][:_MAX_LISTED]
    return [(tokens[i], int(counts[i])) for i in order]


def _format_ratios(counts: dict[str, int]) -> str:
    total = max(1, sum(counts.values()))
    labels = {
        "exact": "have a vector",
        "lower": "have that of their lower case",
        "pieces": "have the mean of their pieces",
        "none": "have none",
        "part": "are parts of a character, which have none",
    }
    return ", ".join(
        f"{100 * counts[kind] / total:.1f} % {label}"
        for kind, label in labels.items()
        if counts.get(kind) or kind == "none"
    )


def select_words(
    words: Sequence[str],
    counts: Counter[str],
    path: Path,
    *,
    n_words: int,
    is_word: Callable[[str], bool],
    on_bad_bytes: OnBadBytes = "error",
) -> list[str]:
    """Select the words of a corpus that have a vector, as they are or in lower case.

    Args:
        words: of the corpus, the most frequent first.
        counts: of all words of the corpus.
        path: the vectors.
        n_words: number of words wanted; if the corpus has fewer, the first words of the vectors' own are appended.
        is_word: whether the tokenizer keeps a word in one piece.
        on_bad_bytes: as of ``read_vectors``.
    """
    vectors = read_vectors(path, on_bad_bytes=on_bad_bytes)
    selected = [word for word in words if vectors.find(word) is not None]
    in_selected = frozenset(selected)
    missing = [word for word in words if word not in in_selected]
    n_missing, total = sum(counts[word] for word in missing), max(1, counts.total())
    examples = f": {', '.join(map(repr, missing[:_MAX_NAMED]))}" if missing else ""
    progress.notice(
        f"{path} has {len(selected):,} of the corpus's {len(words):,} words; "
        f"{100 * n_missing / total:.1f} % of the text is words without a vector{examples}"
    )
    if len(selected) < n_words:
        more = (word for word in vectors.words if word not in in_selected and is_word(word))
        selected += [word for word, _ in zip(more, range(n_words - len(selected)), strict=False)]
    return selected
