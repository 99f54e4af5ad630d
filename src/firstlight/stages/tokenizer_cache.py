"""Tokenizers that remember what they were made from, so that the same ones are not made again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight import progress, tokenizer, vectors
from firstlight.corpus import Corpus
from firstlight.files import write_atomic
from firstlight.tokenizer import Tokenizer, TokenizerSettings

ORIGIN = "origin.json"


def origin_of(settings: TokenizerSettings, corpus: Corpus) -> dict[str, Any]:
    """Return what a tokenizer is made from; equal tables make equal tokenizers."""
    prints = [source.fingerprint() for source in corpus.sources]
    table: dict[str, Any] = {"settings": settings.model_dump(mode="json"), "corpus": prints}
    if settings.words != "corpus" and Path(settings.words).is_file():
        facts = Path(settings.words).stat()
        table["words"] = [facts.st_size, facts.st_mtime_ns]
    return table


def made_before(folder: Path, origin: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer in ``folder`` if it was made from ``origin``."""
    if read_json(folder / ORIGIN) != origin or not (folder / "tokenizer.json").is_file():
        return None
    progress.notice(f"the tokenizer in {folder} was made from the same corpus and settings: used again")
    return tokenizer.load(folder)


def train_on(corpus: Corpus, settings: TokenizerSettings) -> Tokenizer:
    """Train a tokenizer on a whole corpus."""
    total = sum(source.n_bytes for source in corpus.sources)
    if total <= settings.sample_bytes or len(corpus.sources) == 1:
        return tokenizer.train(corpus, settings, n_bytes=total, select_words=vectors.known)
    # Else the first sources would use the sample up. One of unknown size counts as the others' mean.
    mean = total / len(corpus.sources)
    sizes = [source.n_bytes or mean for source in corpus.sources]
    most = [int(settings.sample_bytes * size / sum(sizes)) + 1 for size in sizes]
    sample = Corpus([source.beginning(n) for source, n in zip(corpus.sources, most, strict=True)])
    return tokenizer.train(sample, settings, n_bytes=total, select_words=vectors.known)


def keep(folder: Path, made: Tokenizer, origin: Mapping[str, Any]) -> None:
    """Save a tokenizer, and what it was made from last, so that a half-written one is made again."""
    made.save(folder)
    write_atomic(folder / ORIGIN, json.dumps(origin, indent=1))


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
