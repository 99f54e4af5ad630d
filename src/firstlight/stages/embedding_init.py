"""Initialise a run's embeddings from word vectors: map them onto its vocabulary once, and keep them in the run."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from firstlight import progress
from firstlight.errors import StoreError, TokenizerError, UsageError
from firstlight.evaluation import count_ids
from firstlight.files import write_atomic
from firstlight.model import GPT
from firstlight.model.factorized_embedding import factorize_embedding, init_from_vectors
from firstlight.runs import RunDirectory, read_json
from firstlight.stages.settings import PretrainSettings
from firstlight.store import TokenStore
from firstlight.tokenizer import Tokenizer
from firstlight.vectors import Coverage, OnBadBytes, compute_coverage, map_to_vocab
from firstlight.vectors.mapping import PIECES
from firstlight.vectors.token_text import token_texts

_ARRAYS, _COVERAGE = "start.safetensors", "coverage.json"


@dataclass(frozen=True, slots=True)
class EmbeddingVectors:
    """Vectors for the tokens of a vocabulary.

    Attributes:
        name: name of the file that they come from.
        values: (V, D) float32.
        known: (V,) whether a token has a vector.
        digest: SHA-256 of both.
    """

    name: str
    values: Tensor
    known: Tensor
    digest: str

    def factorize(self, model: GPT) -> None:
        """Give the model embeddings that can hold the vectors: factorized, if their width differs."""
        factorize_embedding(model, int(self.values.shape[1]))

    def initialize(self, model: GPT, length: float, seed: int) -> None:
        """Initialise the embeddings of a model with random weights."""
        init_from_vectors(model, self.values, self.known, length, torch.Generator().manual_seed(seed))


def resolve_vocab_source(settings: PretrainSettings) -> PretrainSettings:
    """Resolve ``tokenizer.vocab_source=vectors`` to the file of the embeddings.

    Raises:
        UsageError: there is no such file, or a model to start from, which has embeddings of its own.
    """
    if settings.model.embeddings == "random" and settings.tokenizer.vocab_source != "vectors":
        return settings
    source, words = settings.model.embeddings, settings.tokenizer.vocab_source
    if source == "random":
        raise UsageError(
            "there are no word vectors to take the vocabulary from",
            where="tokenizer.vocab_source",
            found=words,
            fix="Set model.embeddings to their file, or tokenizer.vocab_source to a path.",
        )
    if settings.run.init_from is not None:
        raise UsageError(
            "a run that starts from a model uses that model's embeddings",
            where="model.embeddings",
            found=source,
            fix="Leave it out, or leave out --from.",
        )
    tokenizer = settings.tokenizer
    if words == "vectors":
        tokenizer = tokenizer.model_copy(update={"vocab_source": source})
    return settings.model_copy(update={"tokenizer": tokenizer})


def prepare_vectors(
    run: RunDirectory,
    source: str,
    tokenizer: Tokenizer,
    store: TokenStore,
    *,
    prepared: bool,
    on_bad_bytes: OnBadBytes = "error",
) -> EmbeddingVectors:
    """Map the vectors of a file onto a vocabulary, report the coverage, and keep both in the run.

    Args:
        run: the run directory.
        source: the file.
        tokenizer: of the vocabulary.
        store: the training text, in which tokens are counted.
        prepared: use what the run directory holds, without looking at the file, which may be gone.
        on_bad_bytes: what is done about words that are not UTF-8.

    Raises:
        TokenizerError: the file cannot be read, or has a vector for none of the tokens.
        StoreError: the files in the run directory are damaged.
    """
    folder = run.embeddings
    if not (prepared and (folder / _COVERAGE).is_file()):
        mapped = map_to_vocab(tokenizer, Path(source), on_bad_bytes)
        if not mapped.has_vector.any():
            raise TokenizerError("has a vector for no token of the vocabulary", where=source)
        named = [text or token for text, token in zip(token_texts(tokenizer), tokenizer.tokens(), strict=True)]
        counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        seen = count_ids(store.train.tokens)
        counts[: len(seen)] = seen
        covered = compute_coverage(mapped, named, counts, tokenizer.unk_id)
        progress.notice(f"{source}: {covered.summary()}")
        data = save({"vectors": mapped.matrix, "ways": mapped.match_kinds})
        table = {"sha256": hashlib.sha256(data).hexdigest(), **covered.to_json()}
        write_atomic(folder / _ARRAYS, data)
        write_atomic(folder / _COVERAGE, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    return _read_vectors(folder)


def _read_vectors(folder: Path) -> EmbeddingVectors:
    try:
        table = dict(read_json(folder / _COVERAGE))
        digest = table.pop("sha256")
        data = (folder / _ARRAYS).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("its checksum differs")
        arrays, covered = load(data), Coverage(**table)
        values, known = torch.from_numpy(arrays["vectors"]), torch.from_numpy(arrays["ways"] <= PIECES)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"cannot be used: {error}", where=folder / _ARRAYS, fix="Start a new run in another directory."
        ) from error
    return EmbeddingVectors(Path(covered.source).name, values, known, digest)
