"""The reader of CoNLL files: a line per word with its fields, and a blank line after each sentence.

Fields are separated by tabs where a line has one, else by spaces; other white space is part of a word. Left out are
lines that are no words: document marks (``-DOCSTART-``, ``#begin document``, ``#end document``) and, in a ``.conllu``,
comments, words that are split into several (``3-4``) and words that are not written (``3.1``).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from firstlight.errors import CorpusError
from firstlight.files.compression import inner_suffix

DOCUMENT_START = "-DOCSTART-"

_DOCUMENT = re.compile(r"#\s*(?:begin|end) document\b")
_NO_WORD = re.compile(r"#|\d+[-.]\d+\t")  # of CoNLL-U


def iter_sentences(lines: Iterable[str], path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each sentence with its location: a list per column, of the fields of its words.

    Raises:
        CorpusError: a line has more or fewer fields than the first one.
    """
    is_conllu = inner_suffix(path) == ".conllu"
    words: list[list[str]] = []
    where, width = "", 0
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip():
            if words:
                yield where, _columns(words)
            words = []
            continue
        fields = text.split("\t") if "\t" in text else [field for field in text.split(" ") if field]
        if fields[0] == DOCUMENT_START or _DOCUMENT.match(text) or (is_conllu and _NO_WORD.match(text)):
            continue
        width = width or len(fields)
        if len(fields) != width:
            raise CorpusError(
                "does not have the fields of the first word",
                where=f"{path}:{number}",
                found=len(fields),
                expected=width,
                fix="Fix that line, or leave it out.",
            )
        where = where if words else f"{path}:{number}"
        words.append(fields)
    if words:
        yield where, _columns(words)


def _columns(words: list[list[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*words, strict=True)]
