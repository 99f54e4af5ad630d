"""``data``: prepare, inspect, verify and summarize token stores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.config import Settings, merge, parse_overrides, resolve
from firstlight.corpus import IdSettings, ImageSettings, Tally, TrainingCorpusSettings
from firstlight.errors import TokenizerError, UsageError
from firstlight.files import MANIFEST, verify_manifest
from firstlight.files.run_names import artifact_path
from firstlight.stages.prepare_corpus import prepare_store
from firstlight.stages.unknown_text import report_store, split_unknown, unknown_counts
from firstlight.stages.validation_text import unused_with_valid, valid_layer
from firstlight.stages.vocab_settings import unused_for_corpus
from firstlight.store import DataSettings, TokenStore, open_store, store_stats, verify_store
from firstlight.tokenizer import CODECS, Codec, Tokenizer, TokenizerSettings, load_vocab
from firstlight.types import Paths, as_list


class PrepareSettings(Settings):
    """Settings of ``data prepare``: the tables of a run that it uses."""

    corpus: TrainingCorpusSettings = TrainingCorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of training on a store, and those of a split that validation text of its own makes."""
        keys = ("image.class_dropout", "data.document_masking")
        why = "applies to training on the store, in pretrain"
        return {**unused_with_valid(self), **dict.fromkeys(keys, why)}


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """A finished store, and counts of its corpus.

    Attributes:
        documents: in both splits; a document that is cut between them counts in each.
        tally: documents read and dropped; zeros where an existing store was reused.
        train_unk_tokens, train_unk_fraction, valid_unk_tokens, valid_unk_fraction: unknown tokens of the splits.
    """

    store: Path
    train_tokens: int
    valid_tokens: int
    documents: int
    vocab_size: int
    tally: Tally
    train_unk_tokens: int = 0
    train_unk_fraction: float = 0.0
    valid_unk_tokens: int = 0
    valid_unk_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class InspectResult:
    """The contents of a store.

    Attributes:
        documents: by split.
        tokens: by split.
        sources: names of the corpus.
        valid_sources: names of the validation text; empty where it is a part of the corpus.
        unk_tokens: unknown tokens by split; None where the store does not say.
        unk_fraction: of the tokens by split.
        first_ids: of the training split.
        first_text: those ids as text; None where the store's tokenizer is not found.
    """

    store: Path
    documents: dict[str, int]
    tokens: dict[str, int]
    vocab_size: int
    dtype: str
    tokenizer: str
    fingerprint: str
    sources: list[str]
    valid_sources: list[str]
    unk_tokens: dict[str, int | None]
    unk_fraction: dict[str, float | None]
    first_ids: list[int]
    first_text: str | None


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The folders whose bytes were checked, and the problems found."""

    checked: list[Path]
    problems: list[str]


def prepare(
    corpus: Paths,
    *,
    out: str | Path,
    valid: Paths = (),
    tokenizer_path: str | Path | None = None,
    overrides: str | Sequence[str] = (),
) -> PrepareResult:
    """Write a corpus as a token store, with its tokenizer or codec in the store's ``tokenizer/`` folder.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the store's folder; new, empty, or the same store.
        valid: files of validation text; by default a part of the corpus.
        tokenizer_path: the tokenizer to use; by default one is trained on the corpus.
        overrides: ``key=value`` arguments of the tables ``corpus``, ``ids``, ``image``, ``tokenizer`` and ``data``.

    Raises:
        UsageError: ``out`` holds files other than a token store.
        CompatibilityError: ``out`` holds a store made from other inputs.
    """
    folder = Path(out)
    given: dict[str, Any] = {"tokenizer": {"path": str(tokenizer_path)}} if tokenizer_path is not None else {}
    names = as_list(corpus)
    settings = resolve(
        PrepareSettings,
        merge(given, valid_layer(valid, parse_overrides(overrides))),
        unused=lambda settings: unused_for_corpus(names, settings.corpus, settings.ids),
    )
    _check_out(folder)
    prepared = prepare_store(names, settings, out=folder, tokenizer_dir=folder / "tokenizer")
    store = prepared.store
    report_store(store, prepared.vocab)
    documents = store.train.n_documents + store.valid.n_documents
    return PrepareResult(
        folder,
        store.train.n_tokens,
        store.valid.n_tokens,
        documents,
        store.vocab_size,
        prepared.tally,
        **unknown_counts(store, prepared.vocab),
    )


def inspect(path: str | Path, *, n_tokens: int = 64) -> InspectResult:
    """Describe a token store, or a run's store, with its first ``n_tokens`` tokens."""
    folder = store_of(path)
    store = TokenStore.open(folder)
    ids = [int(i) for i in store.train.tokens[:n_tokens]]
    vocab = _matching_vocab(store)
    splits = {"train": store.train, "valid": store.valid}
    unknown = {name: split.unknown if vocab is None else split_unknown(split, vocab) for name, split in splits.items()}
    return InspectResult(
        store=folder,
        documents={name: split.n_documents for name, split in splits.items()},
        tokens={name: split.n_tokens for name, split in splits.items()},
        vocab_size=store.vocab_size,
        dtype=str(store.train.tokens.dtype),
        tokenizer=store.tokenizer_hash,
        fingerprint=store.fingerprint,
        sources=store.source_names("sources"),
        valid_sources=store.source_names("valid_sources"),
        unk_tokens={name: None if found is None else found.tokens for name, found in unknown.items()},
        unk_fraction={
            name: None if found is None else found.fraction(splits[name].n_tokens) for name, found in unknown.items()
        },
        first_ids=ids,
        first_text=vocab.decode(ids) if isinstance(vocab, Tokenizer) else None,
    )


def stats(path: str | Path, *, top: int = 20) -> dict[str, Any]:
    """Compute sizes, document lengths and the most frequent tokens of a store, or of a run's store."""
    store = open_store(store_of(path))
    table = store_stats(store, top)
    vocab = _matching_vocab(store)
    for name, split in (("train", store.train), ("valid", store.valid)):
        if vocab is not None:
            table[name] |= split_unknown(split, vocab).to_json(split.n_tokens)

    def token_text(i: int) -> str | None:
        if not isinstance(vocab, Tokenizer):
            return None
        special = {vocab.unk_id: vocab.unk, vocab.eot_id: vocab.eot}
        return special[i] if i in special else vocab.decode([i])

    table["top"] = [{"id": i, "token": token_text(i), "count": n} for i, n in table["top"]]
    return table


def verify(path: str | Path) -> VerifyResult:
    """Read every byte of a store, or of a run's store, tokenizer and checkpoints, and list all problems."""
    root = _existing_folder(path)
    is_run = (root / "run.toml").is_file() or (root / "checkpoints").is_dir()
    folder = root / "data" if is_run and not (root / MANIFEST).is_file() else root
    checked, problems, expected = [], [], None
    try:
        vocab = find_vocab(folder)
        expected = None if vocab is None else vocab.hash
    except TokenizerError as error:
        problems.append(str(error))
    if folder.is_dir() or not is_run:
        checked.append(folder)
        problems += verify_store(folder, tokenizer_hash=expected)
    for checkpoint in sorted((root / "checkpoints").glob("step-*")) if is_run else []:
        checked.append(checkpoint)
        problems += verify_manifest(checkpoint)
    return VerifyResult(checked, problems)


def store_of(path: str | Path) -> Path:
    """Return the store at a path: the path itself, or the store of a run directory."""
    root = _existing_folder(path)
    return root / "data" if not (root / MANIFEST).is_file() and (root / "data").is_dir() else root


def find_vocab(store: Path) -> Tokenizer | Codec | None:
    """Load the tokenizer or codec of a store, from inside it or from the run that it belongs to; None where neither."""
    for folder in (store, store / "tokenizer", store.parent / "tokenizer"):
        if any((folder / name).is_file() for name in ("tokenizer.json", *CODECS)):
            return load_vocab(folder)
    return None


def _matching_vocab(store: TokenStore) -> Tokenizer | Codec | None:
    """Load the tokenizer or codec found with a store if it is the one that the store was made with."""
    vocab = find_vocab(store.directory)
    return vocab if vocab is not None and vocab.hash == store.tokenizer_hash else None


def _existing_folder(path: str | Path) -> Path:
    folder = artifact_path(path)
    if not folder.is_dir():
        raise UsageError("no such folder", where=path, expected="a token store or a run directory")
    return folder


def _check_out(folder: Path) -> None:
    """Refuse a folder with other files in it: writing a store replaces the whole folder."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=folder, expected="a folder", fix="Choose another --out.")
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if names and not (folder / MANIFEST).is_file():
        raise UsageError(
            "exists and is not a token store", where=folder, found=", ".join(names[:5]), fix="Choose another --out."
        )
