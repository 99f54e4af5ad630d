"""The texts of a row's columns."""

import re
from typing import Any

from firstlight.errors import CorpusError
from firstlight.files.field_text import field_text
from firstlight.finetuning.columns import read_column

_PRINTED_LIST = re.compile(r"""\[['"0-9].*\]""", re.DOTALL)


class EmptyTextError(CorpusError):
    """A row without text."""


def read_text(record: Any, column: Any, where: str) -> str:
    """Return the text of a column, or of several joined with line breaks.

    Raises:
        EmptyTextError: there is none.
        CorpusError: a column is missing, or holds what is not text.
    """
    names = column if isinstance(column, list) else [column]
    parts = [to_text(read_column(record, name, where), name, where) for name in names]
    text = "\n".join(part for part in parts if part)
    if not text:
        raise EmptyTextError(
            "is empty", where=f"{where}: column {column}", fix='Fill or remove that row, or set data.on_empty = "drop".'
        )
    return text


def to_text(value: Any, column: Any, where: str) -> str:
    """Return the text of a column's value without white space around it; empty where it is missing.

    Raises:
        CorpusError: the value is not text.
    """
    if isinstance(value, str) and value.isascii():
        return value.strip()

    def advise(inner: str) -> str:
        return f'Name the field within it in [columns]: "{column}.{inner}".'

    text = field_text(value, f"{where}: column {column}", advise=advise)
    return "" if text is None else check_unicode(text, f"{where}: column {column}").strip()


def check_unicode(text: str, where: str) -> str:
    r"""Return a text that UTF-8 can encode; JSON can write half a surrogate pair, such as ``\ud83d``.

    Raises:
        CorpusError: it has half a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise CorpusError(
            "has half a surrogate pair, which is not text",
            where=where,
            found=found,
            fix="Fix or remove that row.",
        ) from error
    return text


def split_words(text: str, where: str) -> list[str]:
    """Split words, or their labels, that are separated by white space.

    Raises:
        CorpusError: the text is a list as Python, pandas or NumPy print it, whose brackets and quotes are not words.
    """
    if _PRINTED_LIST.fullmatch(text.strip()):
        raise CorpusError(
            "is a list written as text",
            where=where,
            found=text[:60],
            expected="words separated by spaces",
            fix="Save the table as JSON lines or Parquet, which keep lists.",
        )
    return text.split()
