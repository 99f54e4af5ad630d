"""Data sets of the Hugging Face hub, or of a local folder, through ``datasets``.

They are streamed, once for each reading, so that a data set larger than the disk can be used (see ``max_bytes``).
What identifies one is its name: a change at its home is not noticed, only one in a local folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.fields import extract_text
from firstlight.corpus.raw_source import RawSource, hash_files, hash_text
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, MissingExtra, UsageError
from firstlight.files.folders import list_folder
from firstlight.types import Document

PREFIX = "hf:"


def hub_source(name: str) -> RawSource:
    """Return the source ``hf:NAME[:CONFIG][@SPLIT]``; without a split, ``train``. A stream knows no slices of one.

    Raises:
        UsageError: there is no NAME.
        MissingExtra: datasets is not installed.
    """
    body, _, split = name.removeprefix(PREFIX).partition("@")
    dataset, _, config = body.partition(":")
    if not dataset:
        raise UsageError("names no data set", where=name, expected="hf:NAME[:CONFIG][@SPLIT]")
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("a data set of the hub", "hub") from error

    def rows() -> Iterator[Any]:
        try:
            yield from datasets.load_dataset(dataset, config or None, split=split or "train", streaming=True)
        except Exception as error:  # noqa: BLE001 - the library and its loaders raise errors of many kinds
            raise CorpusError(
                f"cannot be read: {error}", where=name, fix="Check the name, its config and split, and the connection."
            ) from error

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for number, record in enumerate(rows(), start=1):
            where = f"{name}: row {number}"
            text = extract_text(record, settings, tally, where)
            if text is not None:
                yield Document(text, where)

    folder = Path(dataset)
    files = list_folder(folder, skip=False).files if folder.is_dir() else []
    identity = (lambda: hash_text(f"{name} {hash_files(files)}")) if files else (lambda: hash_text(name))
    return RawSource(name, read, sum(p.stat().st_size for p in files), identity)
