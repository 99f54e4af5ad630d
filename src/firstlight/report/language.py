"""The language of a text, as far as its script tells: browsers choose Chinese, Japanese and Korean glyphs by it."""

import re

from markupsafe import Markup

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_KANA = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_MAX_CHARACTERS = 5000
_MIN_FRACTION = 0.1  # of the letters; one character of these scripts is about a word
_MIN_KANA = 0.1  # of Han and kana together; Chinese text may quote a few


def language(text: str) -> str | None:
    """Return zh, ja or ko; an empty string for other letters than Latin ones; None for Latin ones or none."""
    text = text[:_MAX_CHARACTERS]
    if text.isascii():
        return None
    letters, han, kana, hangul = (len(script.findall(text)) for script in (_LETTER, _HAN, _KANA, _HANGUL))
    if hangul > han + kana and hangul >= _MIN_FRACTION * letters:
        return "ko"
    if han + kana and han + kana >= _MIN_FRACTION * letters:
        return "ja" if kana > _MIN_KANA * (han + kana) else "zh"
    return "" if letters and len(_LATIN.findall(text)) < letters / 2 else None


def lang_attribute(text: object) -> Markup:
    """Return the ``lang`` attribute of an element with this text, with a space before it; the page is in English."""
    found = language(str(text))
    return Markup("") if found is None else Markup(f' lang="{found}"')  # noqa: S704 - one of four values
