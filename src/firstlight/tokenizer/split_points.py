"""Find positions where a text can be split so that encoding both parts gives the ids of the whole.

Words are encoded independently, so a split between two words is safe if pre-tokenization finds the same words in both
parts. Four kinds of boundary are safe with every published pattern; which of them hold for a tokenizer is determined by
trying them on probe texts with its own normalizer and pre-tokenizer. Only letters that every version of Unicode has are
considered, since libraries disagree on newer ones.
"""

import re
from itertools import product
from typing import Any

from firstlight.tokenizer.untrusted import library_errors

_LETTER = r"A-Za-zà-öА-я\u3041-\u3096\u4e00-\u9fa5\uac00-\ud7a3"

_ProbePairs = list[tuple[str, str]]


def _pairs(before: str, after: str) -> _ProbePairs:
    """Combine each text of ``before`` with each of ``after``; both are lists separated by bars."""
    return list(product(before.split("|"), after.split("|")))


# The pattern of a boundary, and pairs of texts (before, after) to try there.
_BOUNDARIES: list[tuple[str, _ProbePairs]] = [
    # before a space that starts a run of white space
    (
        r"(?<=[^\s\u180e\u200b\ufeff])(?= )",
        _pairs(
            "ab|1|x!|你|don't|'s|😀|é|12.5|_|x\n.|\n(|e\u0301",
            " cd| | 1| !|  x| \n| \r\n\nx| 你| 's|    y| \t\t| 😀| ABc| \u0301",
        ),
    ),
    # after a single line end
    (
        rf"(?<=\S\n)(?=[{_LETTER}])",
        _pairs("ab\n|。\n|1\n|x !\n|don't\n|x\n\n)\n|😀\n", "cd|你|Ab 1|x\n|é"),
    ),
    # between a letter and punctuation or a line end
    (
        rf"(?<=[{_LETTER}])(?=[，。！？；：、.,;:!?\n\t])",
        _pairs("ab|你好|don't|1st|ABc| é", "，b|。\n|.|.net|! |?!|\n\nx|\tx|:-1|、"),
    ),
    # between a letter and a digit
    (
        r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])",
        _pairs("ab|x'll| AB", "12|1234.5|0x") + _pairs("1234|x 12|12.345", "ab|th |Ex"),
    ),
]


class SplitPointFinder:
    """Finds the last safe split point of a text, for one tokenizer.

    Args:
        inner: the tokenizers library's object.
        added_tokens: its added tokens that match text, as in tokenizer.json.
    """

    def __init__(self, inner: Any, added_tokens: list[dict[str, Any]]) -> None:
        self._inner = inner
        context_dependent = any(t["lstrip"] or t["rstrip"] or t["single_word"] for t in added_tokens)
        safe = [
            boundary
            for boundary, pairs in _BOUNDARIES
            if not context_dependent
            and not any(re.search(boundary, t["content"]) for t in added_tokens)
            and self._is_safe(pairs)
        ]
        self._pattern = re.compile("|".join(safe)) if safe else None

    def __call__(self, text: str) -> int:
        """Find the largest safe split point of ``text``, or 0."""
        if self._pattern is None:
            return 0
        window = 256
        while True:
            start = max(0, len(text) - window)
            positions = [match.start() for match in self._pattern.finditer(text, start)]
            if positions:
                return positions[-1]
            if start == 0:
                return 0
            window *= 16

    def _is_safe(self, pairs: _ProbePairs) -> bool:
        if self._inner.pre_tokenizer is None:
            return False
        return all(self._words(a) + self._words(b) == self._words(a + b) for a, b in pairs)

    def _words(self, text: str) -> list[str]:
        with library_errors("cannot split a text into words"):
            normalized = text if self._inner.normalizer is None else self._inner.normalizer.normalize_str(text)
            return [word for word, _ in self._inner.pre_tokenizer.pre_tokenize_str(normalized)]
