"""Extract the text of a record, and report fields that are missing."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, Failure
from firstlight.files.compression import COMPRESSED
from firstlight.files.field_names import (
    ROWS_FIX,
    has_like_entries,
    is_keyed_by_row,
    longest_list,
    nearest_field,
    nested_texts,
    suggest_field,
)
from firstlight.files.field_text import field_text
from firstlight.files.table_dialect import looks_like_data, other_delimiter
from firstlight.shell import quote_argument
from firstlight.types import Document

_MAX_SHOWN = 12
_MAX_NAME = 40
_PLAIN_NAME = re.compile(r"[^\W\d][\w.]*")  # needs no quotes as the value of a setting
_LITERALS = ("true", "false", "inf", "nan")
_SURROGATES = re.compile("[\ud800-\udfff]")


def record_documents(records: Iterable[tuple[str, Any]], settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the documents of records, given with their locations; a bad one is skipped if the settings say so.

    Raises:
        CorpusError: as ``extract_text``, if ``on_bad_document`` is "error".
    """
    for where, record in records:
        try:
            text = extract_text(record, settings, tally, where)
        except CorpusError as error:
            skip_or_raise(error, settings, tally)
            continue
        if text is not None:
            yield Document(text, where)


def skip_or_raise(error: Failure, settings: CorpusSettings, tally: Tally) -> None:
    """Count a document that cannot be read, or raise its error, as ``on_bad_document`` says."""
    if settings.on_bad_document == "error":
        if error.fix is None:
            skip = "Fix it, or leave out such documents: corpus.on_bad_document=skip"
            where, found, expected = error.where, error.found, error.expected
            raise type(error)(error.problem, where=where, found=found, expected=expected, fix=skip) from error
        raise error
    tally.skip(error)


def extract_text(record: Any, settings: CorpusSettings, tally: Tally, where: str) -> str | None:
    """Return the text of a record, valid and with normalised line ends; a record may also be the text itself.

    None means that the field is null or NaN; the record is then counted as dropped.

    Raises:
        CorpusError: the field is missing or not text (see ``files.field_text``), or has half a surrogate pair and
            ``on_bad_bytes`` is "error".
    """
    if isinstance(record, str):
        value: str | None = record
    else:
        found = [_field_text(record, name, where) for name in settings.text_fields]
        texts = [text for text in found if text is not None]
        value = join_texts(texts) if texts else None
    if value is None:
        tally.seen += 1
        tally.drop("null")
        return None
    if settings.newlines == "lf" and "\r" in value:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    return value if value.isascii() else _replace_surrogates(value, settings, tally, where)


def join_texts(texts: Sequence[str]) -> str:
    """Join the texts of several fields with line breaks, without those that are empty."""
    return texts[0] if len(texts) == 1 else "\n".join(filter(None, texts))


def _field_text(record: Any, name: str, where: str) -> str | None:
    return field_text(
        field_value(record, name, where),
        where,
        only_text=True,
        problem=f"field {name!r} is not text",
        advise=lambda inner: name_field("field", f"{name}.{inner}"),
    )


def missing_field_error(
    kind: str,
    name: str,
    texts: Mapping[str, str | None],
    where: object,
    *,
    known: Sequence[str] | None = None,
    delimiter: str | None = None,
    record: Mapping[Any, Any] | None = None,
) -> CorpusError:
    """Return the error for an unknown field (or column), suggesting the nearest one, else that with the longest text.

    Args:
        kind: field or column.
        name: the field that is missing.
        texts: the fields that there are, nested ones as ``a.b``, with their text in one record; None if it is not text.
        where: file and line.
        known: the names to show, by default all.
        delimiter: of a table, the delimiter that it was read with.
        record: that has the fields, if it may have lists.
    """
    known = list(texts) if known is None else known
    shown = [k if len(k) <= _MAX_NAME else f"{k[:_MAX_NAME]}…" for k in known[:_MAX_SHOWN]] + ["…"] * (
        len(known) > _MAX_SHOWN
    )
    suggested = suggest_field(name, texts)
    fix = name_field(kind, suggested or "NAME")
    if record is not None:
        listed, size = longest_list(record)
        if is_keyed_by_row(record):
            fix = ROWS_FIX
        elif has_like_entries(record):
            fix = f"{fix}, or where each of them is a record: {ROWS_FIX[:1].lower()}{ROWS_FIX[1:]}"
        elif size > len(texts.get(suggested or "") or "") and texts.get(nearest_field(name, texts) or "") is None:
            fix = (
                f"Write the items of the list {listed!r} as records with a text, or name another {kind} that has text."
            )
    if delimiter is not None and (other := other_delimiter(known, delimiter)) is not None:
        fix = f"Name the delimiter: {shlex.quote(f'corpus.delimiter={json.dumps(other, ensure_ascii=False)}')}"
    elif delimiter is not None and looks_like_data(known) and nearest_field(name, known) is None:
        fix = f"If its first row is data, write a row of names above it{_header_command(name, known, delimiter, where)}"
    return CorpusError(
        f"has no {kind} {name!r}", where=where, found=f"{kind}s {', '.join(shown)}" if known else "no fields", fix=fix
    )


def _header_command(name: str, row: Sequence[str], delimiter: str, where: object) -> str:
    """Return a shell command that copies a table with a row of names, the longest field being the text."""
    path = Path(str(where))
    if path.suffix.lower() in COMPRESSED or not _PLAIN_NAME.fullmatch(name):
        return "."
    text = max(range(len(row)), key=lambda i: len(row[i]))
    names = delimiter.join(name if i == text else f"column{i}" for i in range(len(row)))
    header, out = names.replace("\t", "\\t"), path.with_name(f"{path.stem}.named{path.suffix}")
    return f": {{ printf '{header}\\n'; cat {quote_argument(path)}; }} > {quote_argument(out)}"


def name_field(kind: str, name: str) -> str:
    """Return the advice to read another field (or column), as it can be pasted into any command that reads a corpus."""
    is_plain = _PLAIN_NAME.fullmatch(name) is not None and name not in _LITERALS
    value = name if is_plain else json.dumps(name, ensure_ascii=False)
    return f"Name the {kind}: {shlex.quote(f'corpus.text_field={value}')}"


def field_value(record: Any, field: str, where: str) -> Any:
    """Return the value of a field; of ``a.b``, where there is no field of that name, that of b within a.

    Raises:
        CorpusError: there is no such field.
    """
    if isinstance(record, dict) and field in record:
        return record[field]
    value = record
    for part in field.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise CorpusError(f"has no field {field!r}", where=where, found=type(value).__name__, expected="a record")
        if part not in value:
            texts = nested_texts(record)
            raise missing_field_error("field", part, texts, where, known=list(value), record=record)
        value = value[part]
    return value


def _replace_surrogates(text: str, settings: CorpusSettings, tally: Tally, where: str) -> str:
    """Handle half surrogate pairs, which JSON can write but UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if settings.on_bad_bytes == "error":
            raise CorpusError(
                "has half a surrogate pair, which is not valid text",
                where=where,
                found=f"\\u{ord(text[error.start]):04x}",
                fix="Fix the record, or continue with corpus.on_bad_bytes=replace (or skip).",
            ) from error
        text, n_replaced = _SURROGATES.subn("\ufffd" if settings.on_bad_bytes == "replace" else "", text)
        tally.n_bad += n_replaced
        tally.add_bad_bytes(where)
    return text
