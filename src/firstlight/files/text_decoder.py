"""Decode the bytes of a text file piece by piece; what is not text, or in another encoding, is never decoded by chance.

A byte order mark says what a file is, whatever was set. Files of other types, UTF-16 without a mark, and bytes that the
encoding does not have are refused with what they look like and what to do. Where a few bytes are bad, they may be
replaced or skipped; where more than one in a hundred is, the encoding is the wrong one.
"""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firstlight.errors import CorpusError, Failure
from firstlight.files.compression import COMPRESSED
from firstlight.files.encodings import (
    Guess,
    display_name,
    doubt_encoding,
    find_bom,
    guess_encoding,
    guess_escaped,
    guess_wide,
    is_utf8_text,
)
from firstlight.files.file_types import HEAD_BYTES, identify_binary
from firstlight.shell import quote_argument, unused_path

CHUNK_BYTES = 1 << 20
MAX_BAD = 0.01  # of the bytes of a file may be replaced or skipped
_FEW_BAD = 8  # bytes may be bad in any file, however short
_SOME = 16  # bytes beyond one per letter: text in UTF-8 precedes, not a few letters of another encoding by chance
# The role of each byte in UTF-8: 1 continues a letter, 2 and 3 start one of two and three bytes.
_ROLES = bytes(1 if 0x80 <= b < 0xC0 else 2 if 0xC2 <= b < 0xE0 else 3 if 0xE1 <= b < 0xF0 else 0 for b in range(256))
_UTF8_WORDS = (b"\2\1" * 6, b"\3\1\1" * 4)
# Encodings without frequent letters from 0x80 to 0xBF, so that none of their words is one of those.
_HIGH_LETTERS = re.compile(r"cp125\d|iso8859-(?!11)\d+|koi8-\w")
_SURROGATES = re.compile("[\udc80-\udcff]+")
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_ESCAPED = ("iso2022", "hz")  # their letters are ASCII characters after an escape sequence
_ASCII = bytes(range(128))


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode a text, and what messages advise.

    Attributes:
        encoding: any of Python's.
        setting: where it is set, as ``{}`` will be in a message: "corpus.encoding={}"; "" if it cannot be set.
        on_bad: bytes that the encoding does not have: "error", "replace" or "skip".
        on_bad_setting: the setting to replace or skip them; "" if there is none.
        by_line: name the line in messages, otherwise the byte.
        error: class of the errors.
        note: called with a clause about how a file was read where that is not as the settings say.
        count_bad: called with a number of bad bytes, and where they start.
    """

    encoding: str = "utf-8"
    setting: str = ""
    on_bad: str = "error"
    on_bad_setting: str = ""
    by_line: bool = False
    error: type[Failure] = CorpusError
    note: Callable[[str], object] = _ignore
    count_bad: Callable[[int, str], object] = _ignore


class TextDecoder:
    """Decodes one file incrementally.

    Args:
        name: of the file, for messages.
        how: the encoding, and what to do with bad bytes.
        head_bytes: that are looked at before the first is decoded.
    """

    def __init__(self, name: str, how: Decoding, *, head_bytes: int = HEAD_BYTES) -> None:
        self._name, self._how, self._head_bytes = name, how, max(4, head_bytes)
        self._encoding = codecs.lookup(how.encoding).name.removesuffix("-sig")
        self._started = False
        self._undecided = False  # whether text in another encoding may turn out to be UTF-8
        self._pending = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._offset = 0  # of the first byte that is pending, or comes next
        self._n_lines = self._n_bad = 0
        self._bad_end = -1
        self._guess: Guess | None = None
        self._n_utf8 = 0  # bytes of UTF-8 letters so far, but for the first of each
        self._noted_utf8 = False

    def decode(self, data: bytes) -> str:
        """Decode ``data``; empty ``data`` is the end.

        Raises:
            Failure: of the class ``how.error``: it is not text, or not in the encoding.
        """
        final = not data
        buffer, self._pending = self._pending + data, b""
        if not self._started:
            if len(buffer) < self._head_bytes and not final:
                self._pending = buffer
                return ""
            buffer = self._start(buffer, final)
        else:
            self._check_escapes(buffer)
        if self._undecided and not buffer.isascii():
            self._choose(buffer, final)
        text = self._decode_utf8(buffer, final) if self._encoding == "utf-8" else self._decode_other(buffer, final)
        self._n_lines += text.count("\n")
        if final:
            self._check_bad()
        return text

    def _start(self, buffer: bytes, final: bool) -> bytes:
        """Look at the first bytes; return them without a byte order mark of UTF-16 or UTF-32."""
        self._started = True
        head = buffer[: max(self._head_bytes, HEAD_BYTES)]
        if (bom := find_bom(head)) is not None:
            codec, length = bom
            if codec != self._encoding:
                self._note_bom(codec)
            self._encoding = codec
            if codec == "utf-8":
                return buffer  # the mark is text where everything is kept
            self._offset += length
            return buffer[length:]
        wide = guess_wide(head) if self._encoding in ("utf-8", "utf-16", "utf-32") or self._is_ascii_based() else None
        if self._encoding in ("utf-16", "utf-32"):
            self._encoding = self._resolve_order(wide)
        elif wide is not None:
            raise self._error(f"looks like {wide.name} without a byte order mark", None, None, wide)
        self._check_escapes(buffer)
        found = (
            None
            if self._encoding in _WIDE or self._encoding.startswith(_ESCAPED)
            else identify_binary(head, self._name)
        )
        if found is not None:
            is_file = Path(self._name).is_file()
            raise self._how.error(f"is {found.name}, not text", where=self._name, fix=found.fix if is_file else None)
        if self._encoding in _WIDE and len(head) >= 8 and 0 not in head and _is_utf8(head, final):
            self._note_utf8()
        self._undecided = self._encoding != "utf-8" and self._is_ascii_based()
        return buffer

    def _check_escapes(self, buffer: bytes) -> None:
        """Refuse an encoding that writes all letters as ASCII characters, so that no byte of it is bad."""
        is_expected = self._encoding == "ascii" or self._encoding.startswith(_ESCAPED)
        if (b"\x1b" in buffer or b"~{" in buffer) and not is_expected and self._is_ascii_based():
            escaped = guess_escaped(buffer)
            if escaped is not None:
                raise self._error(f"looks like {escaped.name}", None, None, escaped)

    def _note_bom(self, codec: str) -> None:
        name = display_name(codec)
        set_to = "" if self._encoding in ("utf-8", codec[:6]) else f", although the encoding is set to {self._encoding}"
        self._how.note(f"read as {name}, as its byte order mark says{set_to}")

    def _note_utf8(self) -> None:
        self._how.note(f"read as UTF-8, which it is, although the encoding is set to {self._encoding}")
        self._encoding = "utf-8"

    def _is_ascii_based(self) -> bool:
        try:
            return self._encoding not in _WIDE and _ASCII.decode(self._encoding) == _ASCII.decode()
        except UnicodeError:
            return False

    def _resolve_order(self, wide: Guess | None) -> str:
        if wide is None or not wide.codec.startswith(self._encoding):
            problem = f"has no byte order mark, so that {self._encoding} does not say the order of its bytes"
            advice = self._how.setting.format(f"{self._encoding}-le")
            raise self._how.error(problem, where=self._name, fix=f"Set {advice} (or -be)." if advice else None)
        return wide.codec

    def _choose(self, buffer: bytes, final: bool) -> None:
        """Decide by the first bytes that are not ASCII whether a file is UTF-8, although another encoding is set."""
        self._undecided = False
        is_multibyte = len("\u4e00".encode(self._encoding, "ignore")) > 1
        if is_utf8_text(buffer, final=final, multibyte=is_multibyte):
            self._note_utf8()
            return
        other = doubt_encoding(buffer, self._encoding)
        if other is not None:
            setting = self._how.setting.format(other.codec)
            self._how.note(
                f"read as {display_name(self._encoding)}, as it is set, but its letters are those of {other.name}: "
                f"{other.text}" + (f"; if that is its text, set {setting}" if setting else "")
            )

    def _decode_utf8(self, buffer: bytes, final: bool) -> str:
        try:
            text, used = codecs.utf_8_decode(buffer, "strict", final)
        except UnicodeDecodeError as error:
            self._look_at_bad(error)
            # Bad bytes become lone surrogates, in C; catching them one by one costs a copy of the buffer each.
            escaped, used = codecs.utf_8_decode(buffer, "surrogateescape", final)
            text = self._replace_surrogates(escaped)
        self._n_utf8 += max(0, used - len(text))
        self._pending = buffer[used:]
        self._offset += used
        return text

    def _replace_surrogates(self, escaped: str) -> str:
        out, pos, offset = [], 0, self._offset
        for run in _SURROGATES.finditer(escaped):
            good, bad = escaped[pos : run.start()], run.group().encode("utf-8", "surrogateescape")
            offset += len(good.encode("utf-8"))
            self._count_bad(len(bad), f"byte {offset}" if offset != self._bad_end else "")
            offset = self._bad_end = offset + len(bad)
            pos = run.end()
            out += [good, bad.decode("utf-8", "replace" if self._how.on_bad == "replace" else "ignore")]
        return "".join([*out, escaped[pos:]])

    def _decode_other(self, buffer: bytes, final: bool) -> str:
        decoder = self._decoder = self._decoder or codecs.getincrementaldecoder(self._encoding)()
        held = decoder.getstate()
        self._note_utf8_part(buffer)
        try:
            text = decoder.decode(buffer, final)
        except UnicodeDecodeError as error:
            self._look_at_bad(error)
            decoder.setstate(held)
            decoder.errors = "replace"
            text = decoder.decode(buffer, final)
            decoder.errors = "strict"
            # Their number is that of places, since the library does not say how many bytes each has.
            self._count_bad(text.count("\ufffd"), f"byte {self._offset + error.start}")
            text = text if self._how.on_bad == "replace" else text.replace("\ufffd", "")
        self._offset += len(buffer)
        return text

    def _note_utf8_part(self, buffer: bytes) -> None:
        """Name a part that is UTF-8, since every byte is a letter in some encodings."""
        if self._noted_utf8 or buffer.isascii() or not _HIGH_LETTERS.fullmatch(self._encoding):
            return
        roles = buffer.translate(_ROLES)
        places = [place for word in _UTF8_WORDS if (place := roles.find(word)) >= 0]
        if places:
            self._noted_utf8 = True
            start, encoding = min(places), display_name(self._encoding)
            shown = " ".join(buffer[start : start + 32].decode("utf-8", "ignore").split())
            self._how.note(
                f"byte {self._offset + start}: read as {encoding}, as it is set, but this part is UTF-8: {shown}; "
                "separate the parts, and convert one"
            )

    def _count_bad(self, n: int, place: str) -> None:
        self._n_bad += n
        self._how.count_bad(n, f"{self._name}: {place}" if place else "")

    def _look_at_bad(self, error: UnicodeDecodeError) -> None:
        """Guess the encoding of the first bad bytes; raise, unless they are to be replaced or skipped."""
        if self._guess is None:
            self._guess = guess_encoding(error.object, error.start)
        before = error.object[: error.start]
        is_part = (
            self._encoding == "utf-8" and self._n_utf8 + len(before) - len(before.decode("utf-8", "replace")) >= _SOME
        )
        if self._how.on_bad != "error":
            return
        few = _n_bad(error.object, self._encoding) <= max(_FEW_BAD, MAX_BAD * len(error.object))
        line = self._n_lines + error.object[: error.start].decode(self._encoding, "ignore").count("\n") + 1
        place = f"{self._name}:{line}" if self._how.by_line else f"{self._name}: byte {self._offset + error.start}"
        found = error.object[error.start : min(error.end, error.start + 4)].hex(" ")
        if is_part and self._guess is not None and not few:
            raise self._how.error(
                "is not UTF-8, as the text before it is",
                where=place,
                found=f"{found}; reads as {self._guess.name}: {self._guess.text}",
                expected="one encoding per file",
                fix="Separate the parts, and convert one of them; no setting reads both.",
            ) from error
        raise self._error(f"is not {display_name(self._encoding)}", place, found, self._guess, few=few) from error

    def _check_bad(self) -> None:
        if self._n_bad > max(_FEW_BAD, MAX_BAD * self._offset):
            action = "replaced" if self._how.on_bad == "replace" else "skipped"
            raise self._error(
                f"is not {display_name(self._encoding)}: too many bytes are bad to be {action}",
                None,
                f"{self._n_bad:,} of {self._offset:,}",
                self._guess,
            )

    def _error(
        self, problem: str, where: str | None, found: str | None, guess: Guess | None, *, few: bool = False
    ) -> Failure:
        reads = f"reads as {guess.name}: {guess.text}" if guess is not None else None
        advice = []
        if few and self._how.on_bad_setting:
            advice.append(f"continue with {self._how.on_bad_setting}")
        if self._how.setting and (guess is not None or not advice):
            setting = self._how.setting.format(guess.codec if guess else "ENCODING")
            advice.append(f"set {setting}" if guess else f"find out its encoding and set {setting}")
        if guess is not None and guess.iconv and Path(self._name).is_file():
            advice.append(f"convert it: {iconv_command(self._name, guess.iconv)}")
        fix = ", or ".join(advice)
        return self._how.error(
            problem,
            where=where or self._name,
            found="; ".join(filter(None, (found, reads))) or None,
            fix=f"{fix[:1].upper()}{fix[1:]}" or None,
        )


def iconv_command(name: str, encoding: str) -> str:
    """Return a shell command that converts a file, compressed or not, to UTF-8 under another name."""
    path = Path(name)
    is_packed = path.suffix.lower() in COMPRESSED
    plain = path.with_suffix("") if is_packed else path
    out = quote_argument(unused_path(plain.with_name(f"{plain.stem}.utf8{plain.suffix or '.txt'}")))
    if is_packed:
        return f"{COMPRESSED[path.suffix.lower()]} -dc {quote_argument(path)} | iconv -f {encoding} -t UTF-8 > {out}"
    return f"iconv -f {encoding} -t UTF-8 {quote_argument(path)} > {out}"


def _is_utf8(data: bytes, final: bool) -> bool:
    try:
        codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError:
        return False
    return True


def _n_bad(data: bytes, encoding: str) -> int:
    """Return the number of bytes that an encoding does not have; of places, where it is not UTF-8."""
    if encoding == "utf-8":
        return len(data) - len(codecs.utf_8_decode(data, "ignore", False)[0].encode("utf-8"))
    return data.decode(encoding, "replace").count("\ufffd")
