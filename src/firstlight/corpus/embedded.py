"""The corpora that every Python has: its standard library's sources, and its reference text."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.readers import read_text
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.types import Document

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "turtledemo"}


def code_files() -> list[Path]:
    """Return the standard library's sources, sorted, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [
        p for p in sorted(root.rglob("*.py"))
        if not _LEFT_OUT & set(p.relative_to(root).parts[:-1]) and not p.name.startswith("test_")
    ]  # fmt: skip


def python_code(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a source file; the few that are no UTF-8 are dropped."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in code_files():
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            tally.seen += 1
            tally.drop("not UTF-8")
            continue
        for document in read_text(path, settings, tally):
            yield Document(document.content, f"python-code/{path.relative_to(root).as_posix()}", document.meta, document.continues)


def topics() -> dict[str, str]:
    """Return the reference text of ``pydoc``, by topic."""
    try:
        from pydoc_data import topics as module
    except ImportError as error:
        raise CorpusError("this Python has no pydoc_data", where="python-docs", fix="Take the corpus python-code.") from error
    return dict(sorted(module.topics.items()))


def python_docs(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a topic."""
    del settings, tally
    for name, text in topics().items():
        yield Document(text, f"python-docs/{name}")
