"""Train a tokenizer on a corpus, and reuse one that was trained before on the same corpus with the same settings."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from firstlight import progress, tokenizer, vectors
from firstlight.corpus import Corpus
from firstlight.files import storage_errors, write_atomic
from firstlight.tokenizer import Tokenizer, TokenizerSettings

CACHE_KEY = "origin.json"


def cache_key(settings: TokenizerSettings, corpus: Corpus) -> dict[str, Any]:
    """Build the table that identifies a trained tokenizer: equal tables give equal tokenizers."""
    fingerprints = [source.fingerprint() for source in corpus.sources]
    table: dict[str, Any] = {"settings": settings.model_dump(mode="json"), "corpus": fingerprints}
    if settings.vocab_source != "corpus" and Path(settings.vocab_source).is_file():
        stat = Path(settings.vocab_source).stat()
        table["vocab_source"] = [stat.st_size, stat.st_mtime_ns]
    return table


def load_cached(folder: Path, key: Mapping[str, Any]) -> Tokenizer | None:
    """Load the tokenizer in ``folder`` if it was trained with this key; None otherwise."""
    if read_json(folder / CACHE_KEY) != key or not (folder / "tokenizer.json").is_file():
        return None
    progress.notice(f"reusing the tokenizer in {folder}: trained on the same corpus with the same settings")
    return tokenizer.load(folder)


def train_on_corpus(
    corpus: Corpus, settings: TokenizerSettings, on_bad_bytes: vectors.OnBadBytes = "error"
) -> Tokenizer:
    """Train a tokenizer on a corpus, or on a sample of ``settings.sample_bytes`` taken from all of its files.

    Args:
        corpus: the text.
        settings: of the tokenizer.
        on_bad_bytes: what is done about words of ``settings.vocab_source`` that are not UTF-8.
    """
    select_words = partial(vectors.select_words, on_bad_bytes=on_bad_bytes)
    total = sum(source.n_bytes for source in corpus.sources)
    if total <= settings.sample_bytes:
        return tokenizer.train(corpus, settings, n_bytes=total, select_words=select_words)
    # Otherwise the first sources, or files, would use up the sample. One of unknown size counts as the mean of others.
    mean = total / len(corpus.sources)
    sizes = [source.n_bytes or mean for source in corpus.sources]
    limits = [int(settings.sample_bytes * size / sum(sizes)) + 1 for size in sizes]
    sample = Corpus([head for source, n in zip(corpus.sources, limits, strict=True) for head in source.heads(n)])
    return tokenizer.train(sample, settings, n_bytes=total, select_words=select_words)


def save_cached(folder: Path, trained: Tokenizer, key: Mapping[str, Any] | None) -> None:
    """Save a tokenizer with its cache key; without a key (it was not trained here) it is never reused.

    The key is removed first and written last, so that an interrupted save does not look like a finished one.
    """
    path = folder / CACHE_KEY
    with storage_errors(path):
        if path.is_file():
            path.unlink()
    trained.save(folder)
    if key is not None:
        write_atomic(path, json.dumps(key, indent=1))


def read_json(path: Path) -> Any:
    """Read a JSON file; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
