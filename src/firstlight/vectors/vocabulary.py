"""The words of a corpus that word vectors have, for a tokenizer whose every token has a vector."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from firstlight import progress
from firstlight.vectors.formats import read

_NAMED = 8


def known(
    words: Sequence[str], counts: Counter[str], path: Path, *, fill: int, is_word: Callable[[str], bool]
) -> list[str]:
    """Return those of a corpus's words that the vectors have, as they are written or in lower case.

    Args:
        words: of the corpus, the commonest first.
        counts: of all words of the corpus.
        path: the vectors.
        fill: how many words are wanted; where the corpus has fewer, the vectors' own first ones follow.
        is_word: tells what the tokenizer would not cut.
    """
    vectors = read(path)
    found = [word for word in words if vectors.find(word) is not None]
    taken = frozenset(found)
    lacking = [word for word in words if word not in taken]
    lost, total = sum(counts[word] for word in lacking), max(1, counts.total())
    named = f": {', '.join(map(repr, lacking[:_NAMED]))}" if lacking else ""
    progress.notice(
        f"{path} has {len(found):,} of the corpus's {len(words):,} words; {100 * lost / total:.1f} % of the text is "
        f"words that it lacks{named}"
    )
    if len(found) < fill:
        more = (word for word in vectors.words if word not in taken and is_word(word))
        found += [word for word, _ in zip(more, range(fill - len(found)), strict=False)]
    return found
