"""A record's text, and the error for a field that is not there."""

import re
from collections.abc import Sequence
from typing import Any

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, nearest

_NAMED = 12
_LONG = 40
_HALF = re.compile("[\ud800-\udfff]")


def text_of(record: Any, settings: CorpusSettings, tally: Tally, where: str) -> str | None:
    """Return a record's text as valid text with the line ends asked for; a bare string is its own.

    None stands for a field that is null: the record is counted as dropped.

    Raises:
        CorpusError: the field is missing or holds no string, or half a surrogate pair and ``on_bad_bytes`` is "error".
    """
    value = record if isinstance(record, str) else _value(record, settings.text_field, where)
    if value is None:
        tally.seen += 1
        tally.drop("null")
        return None
    if not isinstance(value, str):
        raise CorpusError(
            f"field {settings.text_field!r} is no text", where=where, found=type(value).__name__, expected="a string"
        )
    if settings.newlines == "lf" and "\r" in value:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    return value if value.isascii() else _valid(value, settings, tally, where)


def missing_field(kind: str, name: str, known: Sequence[str], where: object) -> CorpusError:
    """Return the error for a field (or column) that is not among the known ones, with the nearest that is."""
    near = nearest(name, known) or next(iter(known), "NAME")
    shown = [k if len(k) <= _LONG else f"{k[:_LONG]}…" for k in known[:_NAMED]] + ["…"] * (len(known) > _NAMED)
    return CorpusError(
        f"has no {kind} {name!r}",
        where=where,
        found=f"{kind}s {', '.join(shown)}" if known else "no fields",
        fix=f"Name the {kind}: --text-field {near}",
    )


def _value(record: Any, field: str, where: str) -> Any:
    if isinstance(record, dict) and field in record:
        return record[field]
    value = record
    for part in field.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise CorpusError(f"has no field {field!r}", where=where, found=type(value).__name__, expected="a record")
        if part not in value:
            raise missing_field("field", part, list(value), where)
        value = value[part]
    return value


def _valid(text: str, settings: CorpusSettings, tally: Tally, where: str) -> str:
    """JSON can write half a surrogate pair, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if settings.on_bad_bytes == "error":
            raise CorpusError(
                "holds half a surrogate pair, which is no text",
                where=where,
                found=f"\\u{ord(text[error.start]):04x}",
                fix="Mend the record, or go on with --on-bad-bytes replace (or skip).",
            ) from error
        text, halves = _HALF.subn("\ufffd" if settings.on_bad_bytes == "replace" else "", text)
        tally.n_bad += halves
        tally.bad(where)
    return text
