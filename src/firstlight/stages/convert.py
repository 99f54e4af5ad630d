"""``import`` and ``export``: models and prepared data from other programs, and models for them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from firstlight import progress, tokenizer
from firstlight.convert import nanogpt_meta, read, writer
from firstlight.convert.token_files import collect, files_of
from firstlight.errors import ContractError, UsageError
from firstlight.lm import LM
from firstlight.tokenizer import Tokenizer

_VALID_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Imported:
    """A model that came in.

    Attributes:
        form: of what it was.
        run: the Hugging Face directory that was written.
    """

    form: str
    run: Path
    family: str
    parameters: int
    vocab_size: int
    block_size: int
    tokenizer: str


@dataclass(frozen=True, slots=True)
class ImportedData:
    """A token store that was made of another program's data."""

    store: Path
    train_tokens: int
    valid_tokens: int
    documents: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, by what it is."""

    form: str
    files: dict[str, str] = field(default_factory=dict)


def import_(source: str, *, out: str | Path, tokenizer_path: str | Path | None = None) -> Imported | ImportedData:
    """Make a Hugging Face directory of a model from elsewhere, or a token store of prepared data.

    Args:
        source: a file, a folder, or a name on the hub.
        out: the folder to write; new or empty.
        tokenizer_path: the tokenizer, where the source has none or another shall be taken.

    Raises:
        UsageError: nothing is there that is known, or ``out`` holds something.
        CheckpointError, StoreError, TokenizerError: the source is damaged.
        MissingExtra: a library that reads this format is not installed.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("holds something already", where=folder, fix="Choose another folder.")
    words = None if tokenizer_path is None else tokenizer.import_tokenizer(_there(tokenizer_path))
    if _is_data(Path(source)):
        return _import_data(Path(source), folder, words)
    found, path = read(source)
    lm = found.lm(path)
    lm.tokenizer = words or lm.tokenizer
    if lm.tokenizer is None:
        progress.warn(f"{path}: no tokenizer beside it, so the model reads and writes no text; name one by --tokenizer")
    elif lm.tokenizer.vocab_size > (lm.config.vocab_size or 0) + 2:
        raise ContractError(
            "the tokenizer is of another model",
            where=path,
            found=f"{lm.tokenizer.vocab_size:,} tokens",
            expected=f"{lm.config.vocab_size:,}",
            fix="Name the model's own by --tokenizer.",
        )
    lm.save(folder, found.facts)
    kind = "none" if lm.tokenizer is None else f"{lm.tokenizer.kind}, {lm.tokenizer.vocab_size:,} tokens"
    count = sum(p.numel() for p in lm.model.parameters())
    c = lm.config
    return Imported(found.form, folder, c.family, count, c.vocab_size or 0, c.block_size, kind)


def export(model: str | Path, to: str, out: str | Path, *, kind: str | None = None) -> Exported:
    """Write a model in another program's format.

    Args:
        model: a run, a checkpoint or a Hugging Face directory.
        to: the format's name.
        out: the file to write, or a folder where the format is several files.
        kind: the type of its numbers, where the format has several.

    Raises:
        UsageError: the format is unknown, or cannot hold this model; says why.
        MissingExtra: a library that writes this format is not installed.
        StorageError: the disk is full or read-only.
    """
    path = Path(out)
    write: Callable[[LM, Path], dict[str, str]] = writer(to, kind)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("is there already", where=path, fix="Choose another name.")
    return Exported(to, write(LM.load_fp32(model), path))


def _there(path: str | Path) -> Path:
    if not Path(path).exists():
        raise UsageError("no such file or folder", where=path, fix="Check the path.")
    return Path(path)


def _is_data(source: Path) -> bool:
    """Tell whether ids lie there, and no model."""
    if source.is_dir():
        return not (source / "config.json").is_file() and any(source.glob("*train*.bin"))
    with_index = source.with_suffix(".idx").is_file() and source.suffix in (".bin", ".idx", "")
    return with_index or (source.suffix == ".bin" and source.stem in ("train", "val"))


def _import_data(source: Path, folder: Path, words: Tokenizer | None) -> ImportedData:
    files_of(source)
    meta = (source if source.is_dir() else source.parent) / "meta.pkl"
    encoder = words or (nanogpt_meta(meta) if meta.is_file() else None)
    if encoder is None:
        raise UsageError(
            "ids without the tokenizer that made them",
            where=source,
            fix="Name it by --tokenizer: a tokenizer.json, or the files of GPT-2, tiktoken or SentencePiece.",
        )
    store = collect(source, folder, encoder, _VALID_RATIO)
    encoder.save(folder / "tokenizer")
    documents = store.train.n_documents + store.valid.n_documents
    return ImportedData(folder, store.train.n_tokens, store.valid.n_tokens, documents, store.vocab_size)
