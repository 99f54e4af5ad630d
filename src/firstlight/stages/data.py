"""``data``: prepare a token store, look into it, check it, count it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from firstlight import tokenizer
from firstlight.config import Settings, merge, parse_overrides, resolve
from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings, Tally, kind_of, open_corpus
from firstlight.errors import TokenizerError, UsageError
from firstlight.files import MANIFEST, code_hash, verify_manifest
from firstlight.stages.tokenizer_cache import keep, made_before, origin_of, train_on
from firstlight.store import DataSettings, Split, TokenStore, summary
from firstlight.store import prepare as write_store
from firstlight.store import verify as verify_store
from firstlight.tokenizer import Tokenizer, TokenizerSettings

if TYPE_CHECKING:
    from firstlight.tokenizer import Codec


class PrepareSettings(Settings):
    """Settings of ``data prepare``: the tables of a run that it uses, and its seed."""

    seed: int = Field(1337, ge=0, lt=2**63, description="of the split by document")
    corpus: CorpusSettings = CorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finished store, and what its corpus held.

    Attributes:
        documents: of both splits; one that is cut between them counts in each.
        tally: what reading kept and dropped; zeros where the store was there before.
    """

    store: Path
    train_tokens: int
    valid_tokens: int
    documents: int
    vocab_size: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class Inspected:
    """What lies in a store; ``beginning`` is the text of the first tokens, or the ids where no tokenizer is found."""

    store: Path
    documents: dict[str, int]
    tokens: dict[str, int]
    vocab_size: int
    dtype: str
    tokenizer: str
    fingerprint: str
    sources: list[str]
    first_ids: list[int]
    beginning: str | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, byte for byte, and what is wrong."""

    checked: list[Path]
    problems: list[str]


def prepare(
    corpus: Sequence[str], *, out: str | Path, tokenizer_path: str | Path | None = None, overrides: Sequence[str] = ()
) -> Prepared:
    """Write a corpus as a token store, with its tokenizer, or what its ids mean, in ``tokenizer/`` below it.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the store's folder; new, empty, or the same store.
        tokenizer_path: the tokenizer to use; by default one is trained on the corpus.
        overrides: ``key=value`` words of the tables ``corpus``, ``ids``, ``image``, ``tokenizer`` and ``data``, and
            ``seed``.

    Raises:
        UsageError: ``out`` holds other things.
        ContractError: ``out`` holds a store made from something else.
    """
    folder = Path(out)
    asked: dict[str, Any] = {"tokenizer": {"path": str(tokenizer_path)}} if tokenizer_path is not None else {}
    settings = resolve(PrepareSettings, merge(asked, parse_overrides(overrides)))
    _refuse_foreign(folder)
    kind = kind_of(corpus)
    if kind != "text":
        return _prepare_sequences(kind, list(corpus), folder, settings)
    opened = open_corpus(list(corpus), settings.corpus)
    origin = {} if settings.tokenizer.path else origin_of(settings.tokenizer, opened)
    beside = folder / "tokenizer"
    if settings.tokenizer.path is not None:
        encoder = tokenizer.load(settings.tokenizer.path)
    else:
        encoder = made_before(beside, origin) or train_on(opened, settings.tokenizer)
    facts = {"code": code_hash()}
    store = write_store(folder, opened.sources, encoder, settings.data, seed=settings.seed, extra=facts)
    keep(beside, encoder, origin)
    documents = store.train.n_documents + store.valid.n_documents
    return Prepared(folder, store.train.n_tokens, store.valid.n_tokens, documents, store.vocab_size, opened.tally)


def _prepare_sequences(
    kind: Literal["ids", "images"], names: list[str], folder: Path, settings: PrepareSettings
) -> Prepared:
    """Write a store of what is no text."""
    from firstlight.stages.sequences import open_sequences

    if settings.tokenizer != TokenizerSettings():
        raise UsageError("a tokenizer is for text", where="tokenizer", found=kind, fix="Leave it out.")
    found = open_sequences(kind, names, settings.corpus, settings.ids, settings.image, seed=settings.seed)
    store = write_store(
        folder, found.sources, found.codec, settings.data, seed=settings.seed, extra={"code": code_hash()}
    )
    tokenizer.save_codec(found.codec, folder / "tokenizer")
    documents = store.train.n_documents + store.valid.n_documents
    return Prepared(folder, store.train.n_tokens, store.valid.n_tokens, documents, store.vocab_size, found.corpus.tally)


def inspect(path: str | Path, *, n_tokens: int = 64) -> Inspected:
    """Return what lies in a store or in a run's store."""
    folder = store_of(path)
    store = TokenStore.open(folder)
    ids = [int(i) for i in store.train.tokens[:n_tokens]]
    found = _own_tokenizer(store)
    sides = {"train": store.train, "valid": store.valid}
    return Inspected(
        folder,
        _counts(sides, "n_documents"),
        _counts(sides, "n_tokens"),
        store.vocab_size,
        str(store.train.tokens.dtype),
        store.tokenizer_hash,
        store.fingerprint,
        [str(source["name"]) for source in store.manifest.get("sources", [])],
        ids,
        found.decode(ids) if isinstance(found, Tokenizer) else None,
    )


def stats(path: str | Path, *, top: int = 20) -> dict[str, Any]:
    """Return sizes, lengths of documents and the most frequent tokens of a store, or of a run's."""
    store = TokenStore.open(store_of(path))
    table = summary(store, top)
    found = _own_tokenizer(store)

    def token(i: int) -> str | None:
        if not isinstance(found, Tokenizer):
            return None
        special = {found.eot_id: found.eot, found.unk_id: found.unk}
        return special[i] if i in special else found.decode([i])

    table["top"] = [{"id": i, "token": token(i), "count": n} for i, n in table["top"]]
    return table


def verify(path: str | Path) -> Verified:
    """Read every byte of a store, or of a run's store, tokenizer and checkpoints; return all that is wrong."""
    root = Path(path)
    if not root.is_dir():
        raise UsageError("no such folder", where=root, expected="a token store or a run directory")
    is_run = (root / "run.toml").is_file() or (root / "checkpoints").is_dir()
    folder = root / "data" if is_run and not (root / MANIFEST).is_file() else root
    checked, problems, expected = [], [], None
    try:
        found = tokenizer_of(folder)
        expected = None if found is None else found.hash
    except TokenizerError as error:
        problems.append(str(error))
    if folder.is_dir() or not is_run:
        checked.append(folder)
        problems += verify_store(folder, tokenizer_hash=expected)
    for checkpoint in sorted((root / "checkpoints").glob("step-*")) if is_run else []:
        checked.append(checkpoint)
        problems += verify_manifest(checkpoint)
    return Verified(checked, problems)


def store_of(path: str | Path) -> Path:
    """Return the store that a path means: itself, or the one of a run directory."""
    root = Path(path)
    if not root.is_dir():
        raise UsageError("no such folder", where=root, expected="a token store or a run directory")
    return root / "data" if not (root / MANIFEST).is_file() and (root / "data").is_dir() else root


def tokenizer_of(store: Path) -> "Tokenizer | Codec | None":
    """Return the tokenizer that lies in a store or beside it in a run, or what its ids mean, or None."""
    for folder in (store, store / "tokenizer", store.parent / "tokenizer"):
        if (folder / "tokenizer.json").is_file():
            return tokenizer.load(folder)
        if any((folder / name).is_file() for name in tokenizer.CODECS):
            return tokenizer.read_codec(folder)
    return None


def _own_tokenizer(store: TokenStore) -> "Tokenizer | Codec | None":
    """Return what lies beside a store of these if it is what made it."""
    found = tokenizer_of(store.directory)
    return found if found is not None and found.hash == store.tokenizer_hash else None


def _counts(sides: dict[str, Split], what: str) -> dict[str, int]:
    return {side: int(getattr(split, what)) for side, split in sides.items()}


def _refuse_foreign(folder: Path) -> None:
    """A store replaces its folder whole, so it must be there already, or nothing must."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=folder, expected="a folder", fix="Choose another --out.")
    held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if held and not (folder / MANIFEST).is_file():
        raise UsageError(
            "exists and is not a token store", where=folder, found=", ".join(held[:5]), fix="Choose another --out."
        )
