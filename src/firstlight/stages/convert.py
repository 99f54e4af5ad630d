"""``import`` and ``export``: models and token files of other programs, and models for other programs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from firstlight import progress, tokenizer
from firstlight.convert import get_exporter, read_model, token_files
from firstlight.convert.nanogpt import META, read_meta
from firstlight.convert.raw_tokens import check_dtype
from firstlight.errors import CompatibilityError, UsageError
from firstlight.files.run_names import artifact_path, short_name
from firstlight.lm import LM, is_hub_name, read_card_info
from firstlight.shell import command_line, model_argument
from firstlight.tokenizer import Tokenizer

_VALID_RATIO = 0.01
_MIN_SHARE = 0.9  # of a model's ids that its tokenizer has; published models have up to some hundred more


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported model.

    Attributes:
        format: that it was imported from.
        run: the Hugging Face directory that was written.
    """

    format: str
    run: Path
    family: str
    parameters: int
    vocab_size: int
    block_size: int
    tokenizer: str


@dataclass(frozen=True, slots=True)
class ImportedData:
    """A token store of imported token files."""

    store: Path
    train_tokens: int
    valid_tokens: int
    documents: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model: the files that were written, by a short description."""

    format: str
    files: dict[str, str] = field(default_factory=dict)


def import_(
    source: str,
    *,
    out: str | Path,
    tokenizer_path: str | Path | None = None,
    format: str | None = None,
    dtype: str | None = None,
) -> Imported | ImportedData:
    """Import a model as a Hugging Face directory, or token files as a token store.

    Args:
        source: a file, a folder, or a name on the Hugging Face hub.
        out: the folder to write; new or empty.
        tokenizer_path: the tokenizer, if the source has none or to replace its own.
        format: of a model: a name in ``convert.IMPORTERS``, or ``package.module:NAME``; detected by default.
        dtype: type of token ids in files without a header; by default that of the tokenizer's number of ids.

    Raises:
        UsageError: the source does not exist or its format is not recognised, or ``out`` is not empty.
        CheckpointError, StoreError, TokenizerError: the source is damaged.
        MissingExtra: a library that reads this format is not installed.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("already exists and is not empty", where=folder, fix="Choose another folder.")
    chosen_tokenizer = None if tokenizer_path is None else tokenizer.import_tokenizer(_existing(tokenizer_path))
    if format is None and token_files.recognizes(Path(source)):
        return _import_data(Path(source), folder, chosen_tokenizer, dtype)
    if dtype is not None:
        raise UsageError("applies to token files only", where="--dtype", found=dtype)
    imported, path = read_model(source, format)
    lm = imported.to_lm(path)
    if lm.model.heads:
        raise UsageError(
            "is a model that Firstlight has fine-tuned, whose tasks an import would lose",
            where=path,
            fix=f"Use it as it is, or copy it: {command_line('export', model_argument(source), folder, '--to', 'hf')}",
        )
    if chosen_tokenizer is not None and lm.codec is not None:
        raise UsageError(
            f"has no text to encode, since its ids are those of {lm.codec.FILE}",
            where=path,
            fix="Leave out --tokenizer.",
        )
    if chosen_tokenizer is not None:
        lm.generation = lm.generation.with_tokenizer(lm.tokenizer, chosen_tokenizer)
        lm.tokenizer = chosen_tokenizer
    if lm.vocab is None:
        progress.warn(
            f"{path}: no tokenizer found, so the model cannot encode or decode text; specify one with --tokenizer"
        )
    elif lm.vocab.vocab_size > (lm.config.vocab_size or 0) + 2:
        raise CompatibilityError(
            "the tokenizer does not match the model",
            where=path,
            found=f"{lm.vocab.vocab_size:,} tokens",
            expected=f"{lm.config.vocab_size:,}",
            fix="Specify the model's tokenizer with --tokenizer.",
        )
    elif lm.tokenizer is not None and lm.tokenizer.vocab_size < _MIN_SHARE * (lm.config.vocab_size or 0):
        progress.warn(
            f"{path}: the model has {lm.config.vocab_size:,} ids, its tokenizer {lm.tokenizer.vocab_size:,}: "
            "specify another with --tokenizer if it is not this one"
        )
    facts, card = dict(imported.metadata), read_card_info(path if path.is_dir() else path.parent)
    if not Path(source).exists():  # a name on the hub, whose files are in a folder of the cache
        facts["imported from"] = f"{imported.format} {short_name(str(source))}"
        card = replace(card, base_model=str(source) if is_hub_name(source) else card.base_model)
    lm.save(folder, facts, card)
    if lm.tokenizer is not None:
        description = f"{lm.tokenizer.kind}, {lm.tokenizer.vocab_size:,} tokens"
    else:
        description = "none" if lm.codec is None else f"none, but {lm.codec.FILE}"
    n_parameters = sum(p.numel() for p in lm.model.parameters())
    c = lm.config
    return Imported(imported.format, folder, c.family, n_parameters, c.vocab_size or 0, c.block_size, description)


def export(
    model: str | Path,
    to: str,
    out: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    without_head: bool = False,
) -> Exported:
    """Export a model to another program's format.

    Args:
        model: a run, a checkpoint or a Hugging Face directory.
        to: a name in ``convert.EXPORTERS``, or ``package.module:NAME``.
        out: the file to write, or the folder if the format is a folder, which is new or empty.
        dtype: data type of the weights, if the format supports several.
        overwrite: whether existing files are replaced.
        without_head: export only the language model of a model with heads of fine-tuned tasks, which is refused
            otherwise in a format that has no place for them.

    Raises:
        UsageError: the format is unknown, or does not support this model; the message has the reason.
        MissingExtra: a library that writes this format is not installed.
        StorageError: the disk is full or read-only.
    """
    exporter = get_exporter(to)
    exporter.check(Path(out), dtype, overwrite=overwrite)
    lm = LM.load_fp32(model)
    return Exported(to, exporter.export(lm, Path(out), dtype, overwrite=overwrite, without_head=without_head))


def _existing(path: str | Path) -> Path:
    found = artifact_path(path)
    if not found.exists():
        raise UsageError("no such file or folder", where=path, fix="Check the path.")
    return found


def _import_data(source: Path, folder: Path, chosen_tokenizer: Tokenizer | None, dtype: str | None) -> ImportedData:
    check_dtype(dtype)
    token_files.find_files(source)
    meta = (source if source.is_dir() else source.parent) / META
    encoder = chosen_tokenizer or (read_meta(meta) if meta.is_file() else None)
    if chosen_tokenizer is not None and meta.is_file():
        progress.warn(f"{meta}: ignored, since --tokenizer is given: are the ids from that one?")
    if encoder is None:
        raise UsageError(
            "token files without their tokenizer",
            where=source,
            fix="Specify it with --tokenizer: a tokenizer.json, or the files of GPT-2, tiktoken or SentencePiece.",
        )
    store = token_files.import_token_files(source, folder, encoder, _VALID_RATIO, dtype)
    encoder.save(folder / "tokenizer")
    n_documents = store.train.n_documents + store.valid.n_documents
    return ImportedData(folder, store.train.n_tokens, store.valid.n_tokens, n_documents, store.vocab_size)
