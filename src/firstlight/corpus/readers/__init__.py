"""Readers: a path to Documents, one file a format; the table says which suffix goes where."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

from firstlight.corpus.readers.text import read_text, text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.types import Document

Reader = Callable[[Path, CorpusSettings, Tally], Iterator[Document]]

_CODE = (
    ".py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .ts .jsx .tsx .rb .php .pl .lua .r .jl .sh .sql"
    " .swift .hs .ml .tex .toml .yaml .yml .css"
)


def _later(file: str, name: str) -> Reader:
    """Return a reader whose file, and what it needs, is loaded when it first reads."""

    def read(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        yield from getattr(importlib.import_module(f"{__name__}.{file}"), name)(path, settings, tally)

    return read


read_html = _later("markup", "read_html")
read_json, read_jsonl, read_parquet = (_later("records", f"read_{kind}") for kind in ("json", "jsonl", "parquet"))
read_csv, read_tsv = (_later("tables", f"read_{kind}") for kind in ("csv", "tsv"))

READERS: dict[str, Reader] = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst", ".tokens", *_CODE.split()), read_text),
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".html": read_html,
    ".htm": read_html,
}

__all__ = [
    "READERS",
    "Reader",
    "read_csv",
    "read_html",
    "read_json",
    "read_jsonl",
    "read_parquet",
    "read_text",
    "read_tsv",
    "text_documents",
]
