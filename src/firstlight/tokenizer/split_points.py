"""Where a text can be cut so that the ids of its two parts are those of the whole.

Words are encoded by themselves, so a cut between two words changes nothing, if the words are also found
the same way in both parts. Four kinds of place are safe with every published pattern; which of them a
tokenizer allows is asked of its own normalizer and pre-tokenizer, by trying them on probes. Only letters
that every version of Unicode knows are looked at, since libraries disagree on new ones.
"""

import re
from itertools import product
from typing import Any

_LETTER = r"A-Za-zà-öА-я\u3041-\u3096\u4e00-\u9fa5\uac00-\ud7a3"

_Pairs = list[tuple[str, str]]


def _pairs(before: str, after: str) -> _Pairs:
    """Return each text of ``before`` with each of ``after``, which are separated by bars."""
    return list(product(before.split("|"), after.split("|")))


# A place, and pairs of texts (before, after) that are tried there.
_PLACES: list[tuple[str, _Pairs]] = [
    # before a space that begins white space
    (
        r"(?<=[^\s\u180e\u200b\ufeff])(?= )",
        _pairs(
            "ab|1|x!|你|don't|'s|😀|é|12.5|_|x\n.|\n(|e\u0301",
            " cd| | 1| !|  x| \n| \r\n\nx| 你| 's|    y| \t\t| 😀| ABc| \u0301",
        ),
    ),
    # after a lone line end
    (
        rf"(?<=\S\n)(?=[{_LETTER}])",
        _pairs("ab\n|。\n|1\n|x !\n|don't\n|x\n\n)\n|😀\n", "cd|你|Ab 1|x\n|é"),
    ),
    # between a letter and a sign or line end
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


class Cutter:
    """Finds the last safe place of a text, for one tokenizer.

    Args:
        inner: the tokenizers library's object.
        added: its added tokens that stand for text, as in tokenizer.json.
    """

    def __init__(self, inner: Any, added: list[dict[str, Any]]) -> None:
        self._inner = inner
        loose = any(t["lstrip"] or t["rstrip"] or t["single_word"] for t in added)
        allowed = [
            place
            for place, pairs in _PLACES
            if not loose and not any(re.search(place, t["content"]) for t in added) and self._holds(pairs)
        ]
        self._place = re.compile("|".join(allowed)) if allowed else None

    def __call__(self, text: str) -> int:
        """Return the largest safe place of ``text``, or 0."""
        if self._place is None:
            return 0
        size = 256
        while True:
            first = max(0, len(text) - size)
            found = [match.start() for match in self._place.finditer(text, first)]
            if found:
                return found[-1]
            if first == 0:
                return 0
            size *= 16

    def _holds(self, pairs: _Pairs) -> bool:
        if self._inner.pre_tokenizer is None:
            return False
        return all(self._words(a) + self._words(b) == self._words(a + b) for a, b in pairs)

    def _words(self, text: str) -> list[str]:
        normal = text if self._inner.normalizer is None else self._inner.normalizer.normalize_str(text)
        return [word for word, _ in self._inner.pre_tokenizer.pre_tokenize_str(normal)]
