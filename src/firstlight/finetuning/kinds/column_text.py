"""The texts of a row's columns."""

from typing import Any

from firstlight.errors import CorpusError
from firstlight.files.field_text import field_text
from firstlight.finetuning.columns import read_column


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

    def advise(inner: str) -> str:
        return f'Name the field within it in [columns]: "{column}.{inner}".'

    text = field_text(value, f"{where}: column {column}", advise=advise)
    return "" if text is None else text.strip()
