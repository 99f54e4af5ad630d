"""Find the language of a text, for the metadata of a model: English, Chinese, Japanese, Korean, or none."""

import re
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+")
# The commonest words of English, of which few are words of another language.
_ENGLISH = frozenset(["the", "of", "and", "to", "that", "is", "was", "it", "for", "with", "his", "you", "not", "this"])
_MIN_ENGLISH = 0.12  # of the words of a text; ordinary text has 0.2 to 0.3
_MIN_SHARE = 0.2  # of the letters, for a script to count
_MIN_LETTERS = 200


def detect_languages(text: str) -> list[str]:
    """Return the ISO 639 codes of the languages that a text is certainly in: none where it is short or in another.

    Args:
        text: some thousand characters.
    """
    scripts = Counter(_script(c) for c in text if c.isalpha())
    total = scripts.total()
    if total < _MIN_LETTERS:
        return []
    share = {name: n / total for name, n in scripts.items()}
    found = []
    if share.get("kana", 0) >= 0.5 * share.get("han", 0) and share.get("kana", 0) > _MIN_SHARE / 2:
        found.append("ja")
    elif share.get("han", 0) >= _MIN_SHARE:
        found.append("zh")
    if share.get("hangul", 0) >= _MIN_SHARE:
        found.append("ko")
    words = [word for word in _WORD.findall(text.lower()) if word.isascii()]
    english = sum(word in _ENGLISH for word in words)
    if share.get("latin", 0) >= _MIN_SHARE and english >= _MIN_ENGLISH * len(words):
        found.append("en")
    return sorted(found)


def _script(c: str) -> str:
    if c.isascii():
        return "latin"
    if "\u3040" <= c <= "\u30ff":
        return "kana"
    if "\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" or "\U00020000" <= c <= "\U0003ffff":
        return "han"
    return "hangul" if "\uac00" <= c <= "\ud7a3" else "other"
