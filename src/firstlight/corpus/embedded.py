"""The corpora that every Python has: its standard library's sources, and its reference text."""

import io
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.raw_source import RawSource, hash_files, hash_text
from firstlight.corpus.readers import text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.types import Document

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "turtledemo"}


def python_code() -> RawSource:
    """Return the standard library's sources without its tests: one document per file, or as ``text_split`` says."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        p
        for p in sorted(root.rglob("*.py"))
        if not _LEFT_OUT & set(p.relative_to(root).parts[:-1]) and not p.name.startswith("test_")
    ]

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for path in files:
            try:
                data = path.read_bytes()
                data.decode("utf-8")
            except OSError as error:
                raise CorpusError(f"cannot be read: {error.strerror}", where=path) from error
            except UnicodeDecodeError:
                # A few sources name another encoding in their first line.
                tally.seen += 1
                tally.drop("not UTF-8")
                continue
            yield from text_documents(
                io.BytesIO(data), f"python-code/{path.relative_to(root).as_posix()}", settings, tally
            )

    return RawSource("python-code", read, sum(p.stat().st_size for p in files), lambda: hash_files(files))


def python_docs() -> RawSource:
    """Return the reference text of ``pydoc``: one document per topic, or as ``text_split`` says.

    Raises:
        CorpusError: this Python comes without it.
    """
    try:
        from pydoc_data import topics as module
    except ImportError as error:
        raise CorpusError(
            "this Python has no pydoc_data", where="python-docs", fix="Use the corpus python-code."
        ) from error
    topics = dict(sorted(module.topics.items()))

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for name, text in topics.items():
            yield from text_documents(io.BytesIO(text.encode("utf-8")), f"python-docs/{name}", settings, tally)

    n_bytes = sum(len(text.encode("utf-8")) for text in topics.values())
    return RawSource("python-docs", read, n_bytes, lambda: hash_text(json.dumps(topics)))
