"""Recognise the encoding of a text: by its byte order mark, its NUL bytes, or the letters that most texts have.

A guess is advice for a person, never what a file is decoded as.
"""

import codecs
import re
import unicodedata
from typing import NamedTuple

BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMES = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16 (little endian)",
    "utf-16-be": "UTF-16 (big endian)",
    "utf-32-le": "UTF-32 (little endian)",
    "utf-32-be": "UTF-32 (big endian)",
}
_ICONV = {"utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE", "utf-32-le": "UTF-32LE", "utf-32-be": "UTF-32BE"}
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MAX_SAMPLE = 1 << 15
# A letter of another script, or a mark, next to a Latin letter: scripts do not mix within a word.
_OTHER = "[^\\x00-\\xbf\u2000-\u206f]"
_MIXED = re.compile(f"[A-Za-z]{_OTHER}|{_OTHER}[A-Za-z]")
_MIN_LETTERS = 3
_MIN_DOUBTED = 8  # bytes that are not ASCII
_SHIFT_JIS = re.compile(r"cp932|shift.jis.*|ms.kanji", re.IGNORECASE)
_NOT_ASCII = bytes(range(0x80, 0x100))
_MAX_MIXED = 0.1  # of the letters that are not ASCII
_MAX_PRIVATE = 0.01  # of the letters that are not ASCII, in text of a double-byte encoding
_SHOWN = 24  # characters of a guess
_MIN_NULS = 0.2  # of the bytes of UTF-16 text, unless it is not UTF-8 either
_MIN_TEXT = 0.98  # of its characters are letters, marks, numbers, punctuation or white space


class Guess(NamedTuple):
    """An encoding in which bytes read as text.

    Attributes:
        codec: Python's name, for a setting.
        name: for messages.
        iconv: its name for iconv.
        text: how the first letters that are not ASCII read, with their surroundings.
    """

    codec: str
    name: str
    iconv: str
    text: str


class _Candidate(NamedTuple):
    codec: str
    iconv: str
    script: str  # "wide", "han" (or kana, hangul), "letters" (words without ASCII letters), "latin"
    min_share: float  # of the letters that are not ASCII, those in ``common``
    common: frozenset[str]


_HAN_MARKS = "，。、：；？！“”‘’（）《》「」『』…—　"
_SIMPLIFIED = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
_TRADITIONAL = "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡"
_KOREAN = "이다는의을가에하고를은지도로사기어한리나자있대시라서인해아일"
_KANA = "".join(map(chr, (*range(0x3041, 0x3094), *range(0x30A1, 0x30F7), 0x30FC))) + "、。「」"
_CYRILLIC = "оеаинтсрвлкмдпуяыьгзбч"
_LATIN = "éèàçêîôûëïüöäßñáíóúâãõåøæœÉÀÖÄÜ’‘“”–—…«»°£€§·¿¡ºª "
_CENTRAL = "ąęłńśźżóćčšžřýůěáéíőűúňťďäöüßŁŚŻŽŠČ„”–"


def _candidates() -> list[_Candidate]:
    han, letters, latin = "han", "letters", "latin"
    rows = [
        ("utf_16_le", "UTF-16LE", "wide", 0.06, _SIMPLIFIED + _TRADITIONAL + _HAN_MARKS + _KANA + _KOREAN),
        ("utf_16_be", "UTF-16BE", "wide", 0.06, _SIMPLIFIED + _TRADITIONAL + _HAN_MARKS + _KANA + _KOREAN),
        ("gb18030", "GB18030", han, 0.06, _SIMPLIFIED + _HAN_MARKS),
        ("big5", "BIG5", han, 0.06, _TRADITIONAL + _HAN_MARKS),
        ("cp950", "CP950", han, 0.06, _TRADITIONAL + _HAN_MARKS),
        ("cp932", "CP932", han, 0.2, _KANA),
        ("euc_jp", "EUC-JP", han, 0.2, _KANA),
        ("cp949", "CP949", han, 0.2, _KOREAN),
        ("cp1251", "CP1251", letters, 0.5, _CYRILLIC),
        ("koi8_r", "KOI8-R", letters, 0.5, _CYRILLIC),
        ("cp866", "CP866", letters, 0.5, _CYRILLIC),
        ("cp1253", "CP1253", letters, 0.5, "αοιετνσηρκπυμλάίόέήώς"),
        ("cp1255", "CP1255", letters, 0.5, "יוהלאתרמבשנעפדחםן"),
        ("cp1256", "CP1256", letters, 0.5, "اليمونترعبدسفهحكقجة"),
        ("cp874", "CP874", letters, 0.5, "านรอกเงมยลวดทสตะปบคหแิี่้ั"),
        ("cp1252", "CP1252", latin, 0.7, _LATIN),
        ("cp1250", "CP1250", latin, 0.7, _CENTRAL),
        ("cp1254", "CP1254", latin, 0.7, "ışğçöüİŞĞÇÖÜâî’“”"),
        ("cp850", "CP850", latin, 0.7, _LATIN),
        ("mac_roman", "MACINTOSH", latin, 0.7, _LATIN),
    ]
    return [_Candidate(codec, iconv, script, share, frozenset(common)) for codec, iconv, script, share, common in rows]


_HZ = next(candidate for candidate in _candidates() if candidate.codec == "gb18030")
_JAPANESE = re.compile(rb"\x1b(?:\$(?:[@AB]|\([CDOP])|\(I)")
# What starts letters of several bytes, the encoding, and its name for iconv, which does not always have HZ.
_ESCAPED: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (_JAPANESE, "iso2022_jp", "ISO-2022-JP"),
    (_JAPANESE, "iso2022_jp_2", "ISO-2022-JP-2"),
    (_JAPANESE, "iso2022_jp_ext", "ISO-2022-JP-3"),
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr", "ISO-2022-KR"),
    (re.compile(rb"~\{(?=(?:[!-w][!-~])+~\})"), "hz", ""),
)


def find_bom(head: bytes) -> tuple[str, int] | None:
    """Return the encoding that a byte order mark names, and the length of the mark; None where there is none."""
    return next(((codec, len(mark)) for mark, codec in BOMS if head.startswith(mark)), None)


def check_encoding(name: str) -> str:
    """Return the name of an encoding, if Python has it.

    Raises:
        ValueError: it does not.
    """
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError("unknown text encoding; expected such as utf-8, cp1252 or gb18030") from error
    return name


def display_name(codec: str) -> str:
    """Return the name of an encoding in messages."""
    return _NAMES.get(codec.replace("_", "-"), codec.upper().replace("_", "-"))


def guess_wide(head: bytes) -> Guess | None:
    """Return the encoding of UTF-16 or UTF-32 text without a byte order mark, by its NUL bytes; None if it is other.

    Args:
        head: the first bytes of a file, which hold at least one letter of Latin-1, such as a space or a line break.
    """
    n_nuls = head.count(0)
    if not n_nuls or (n_nuls < _MIN_NULS * len(head) and _is_utf8_prefix(head)):
        return None
    found: list[tuple[int, str, str]] = []
    for codec in _WIDE:
        try:
            text = codecs.getincrementaldecoder(codec)().decode(head)
        except UnicodeDecodeError:
            continue
        if text and sum(map(_is_text, text)) >= _MIN_TEXT * len(text):
            found.append((sum(c.isascii() for c in text), codec, text))
    if not found:
        return None
    # The other byte order makes rare letters of ASCII ones.
    n_ascii, codec, text = max(found, key=lambda row: row[0])
    return Guess(codec, display_name(codec), _ICONV[codec], _show(text, 0)) if n_ascii else None


def guess_encoding(data: bytes, bad: int = 0) -> Guess | None:
    """Guess the encoding of bytes that are not UTF-8, by the most frequent letters of some languages.

    Args:
        data: whole lines where possible, since a line break ends a letter in all encodings but UTF-16.
        bad: offset of the first byte that is not UTF-8.

    Returns:
        The encoding in which most letters are frequent ones; None if they are in none.
    """
    start = data.rfind(b"\n", 0, bad) + 1
    start = start if bad - start < _MAX_SAMPLE else bad
    wide = guess_wide(data[:_MAX_SAMPLE])
    if wide is not None:
        return wide
    best, found = 0.0, None
    for candidate in _candidates():
        first = 0 if candidate.script == "wide" else start
        try:
            text = codecs.getincrementaldecoder(candidate.codec)().decode(data[first : first + _MAX_SAMPLE])
        except UnicodeDecodeError:
            continue
        score = _score(text, candidate)
        if score >= 1 and score > best:
            best = score
            found = Guess(candidate.codec, display_name(candidate.iconv), candidate.iconv, _show(text, _first(text)))
    return found


def doubt_encoding(data: bytes, codec: str) -> Guess | None:
    """Return another encoding in which bytes read as text, where they do not in the one that is set.

    Most bytes are letters in every encoding of one byte, and in some of two: text in another one is decoded as letters
    that no language has in this order.

    Args:
        data: the first bytes of a file, without those of UTF-8.
        codec: the encoding that is set.
    """
    n_letters = len(data) - len(data.translate(None, _NOT_ASCII))
    first = next((i for i, byte in enumerate(data) if byte >= 0x80), 0)
    guess = guess_encoding(data, first) if n_letters >= _MIN_DOUBTED else None
    if guess is None:
        return None
    start = data.rfind(b"\n", 0, first) + 1
    sample = data[start if first - start < _MAX_SAMPLE else first :][:_MAX_SAMPLE]
    try:
        text, other = (codecs.getincrementaldecoder(name)().decode(sample) for name in (codec, guess.codec))
    except UnicodeDecodeError:
        return None
    found = next(candidate for candidate in _candidates() if candidate.codec == guess.codec)
    # Few bytes of another encoding are letters of two bytes by chance, but for those of Shift JIS.
    is_pairs = len("\u4e00".encode(codec, "ignore")) == 2 and not _SHIFT_JIS.fullmatch(codec)
    if text == other or (is_pairs and found.script != "han"):
        return None
    # Most letters of a text in Latin script are ASCII ones, and a text in Han has more than marks of its own.
    letters = [c for c in text if c.isalpha() and not c.isascii()]
    is_latin = 2 * len(letters) < sum(map(str.isalpha, text))
    is_han = any(c >= "\u2e80" for c in letters)
    scripts = {"letters", *(["latin"] if is_latin else []), *(["han", "wide"] if is_han else [])}
    plausible = [candidate for candidate in _candidates() if candidate.script in scripts]
    if max(_score(text, candidate) for candidate in plausible) >= 1:
        return None
    # The frequent letters are small ones: what is written in capitals is compared.
    in_capitals = max(_score(text.lower(), candidate) for candidate in plausible)
    return None if in_capitals >= max(1.0, _score(other, found)) else guess


def guess_escaped(data: bytes) -> Guess | None:
    """Return the encoding of text whose letters are ASCII characters between escape sequences: ISO-2022 or HZ.

    Its bytes are all ASCII, and so valid in most encodings. None if there is no such sequence, or what follows it is
    not text.

    Args:
        data: the first bytes of a file, or more of it.
    """
    for start, codec, iconv in _ESCAPED:
        first = start.search(data)
        if first is None:
            continue
        line = data.rfind(b"\n", 0, first.start()) + 1
        end = data.find(b"\n", first.end())
        end = end if end >= 0 and codec != "iso2022_kr" else len(data)
        try:
            text = codecs.getincrementaldecoder(codec)().decode(data[line : min(end, line + _MAX_SAMPLE)])
        except UnicodeDecodeError:
            continue
        # A tilde and a brace are in programs, too.
        if not text.isascii() and (codec != "hz" or _score(text, _HZ) >= 1):
            return Guess(codec, display_name(codec.replace("iso", "iso_")), iconv, _show(text, _first(text)))
    return None


def _score(text: str, candidate: _Candidate) -> float:
    """Return how frequent the letters of a text are, in relation to what its language has at least."""
    letters = [c for c in text if not c.isascii()]
    # U+0080 to U+009F are controls. Private letters are in no text but some of double-byte encodings: spaces of web
    # pages (U+E5E5), pictures of telephones.
    n_private = sum(unicodedata.category(c) == "Co" for c in letters)
    max_private = _MAX_PRIVATE * len(letters) if candidate.script == "han" else 0
    if not letters or n_private > max_private or any("\x80" <= c < "\xa0" for c in letters):
        return 0.0
    # One or two different letters are no evidence for a rare alphabet.
    if candidate.script in ("letters", "latin") and candidate.codec != "cp1252" and len(set(letters)) < _MIN_LETTERS:
        return 0.0
    if candidate.script == "letters" and len(_MIXED.findall(text)) > _MAX_MIXED * len(letters):
        return 0.0
    return sum(c in candidate.common for c in letters) / len(letters) / candidate.min_share


def is_utf8_text(data: bytes, *, final: bool, multibyte: bool) -> bool:
    """Whether bytes that are not ASCII are UTF-8 beyond doubt, although another encoding was named.

    Args:
        data: at least one byte is not ASCII.
        final: no bytes follow; otherwise the last letter may be incomplete.
        multibyte: the other encoding has letters of several bytes, a few of which may be UTF-8 by chance.
    """
    try:
        text, _ = codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError:
        return False
    letters = [c for c in text if not c.isascii() and c != "\ufeff"]
    return any(c >= "\u0800" for c in letters) or len(letters) >= (4 if multibyte else 1)


def _is_text(character: str) -> bool:
    return character in "\t\n\r\f" or unicodedata.category(character) not in ("Cc", "Cn", "Co", "Cs")


def _is_utf8_prefix(data: bytes) -> bool:
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def _first(text: str) -> int:
    return next((i for i, c in enumerate(text) if not c.isascii()), 0)


def _show(text: str, first: int) -> str:
    return " ".join(text[max(0, first - 8) : first + _SHOWN].split())
