"""Read a model of another program, with the importer that recognises it."""

from pathlib import Path

from firstlight.convert.errors import wrap_errors
from firstlight.convert.formats import IMPORTERS, Importer, get_importer
from firstlight.convert.huggingface import BIN_FILES
from firstlight.convert.imported_model import ImportedModel
from firstlight.convert.unsupported import refuse_known_format
from firstlight.errors import UsageError
from firstlight.lm import download_from_hub, locate


def read_model(source: str, format: str | None = None) -> tuple[ImportedModel, Path]:
    """Read a model of another program.

    Args:
        source: a file, a folder, or a name on the Hugging Face hub.
        format: name of its importer, or ``package.module:NAME``; by default the first that recognises it.

    Returns:
        The model, and the path that it was read from.

    Raises:
        UsageError: the source does not exist, or its format is not recognised.
        CheckpointError: it is damaged.
        TokenizerError: its tokenizer is damaged.
        MissingExtra: a library that reads this format is not installed.
    """
    importer = None if format is None else get_importer(format)
    path = Path(source)
    if not path.exists():
        path = _fetch(source)
    if importer is None:
        importer = recognize(path)
    if importer is None:
        refuse_known_format(path)
    if importer is None and path.is_dir():  # a run, which has its models in a folder of checkpoints
        path = locate(path)
        importer = recognize(path)
    if importer is None:
        raise UsageError(
            "unrecognised model format",
            where=path,
            found=f"a file that starts with {_first_bytes(path)!r}" if path.is_file() else None,
            expected=", ".join(get_importer(name).title for name in IMPORTERS),
        )
    return importer.load(path), path


def recognize(path: Path) -> Importer | None:
    """Return the first importer that recognises a file or folder, if any.

    Raises:
        CheckpointError: the file is damaged.
    """
    with wrap_errors(path, "model file"):
        return next((importer for importer in map(get_importer, IMPORTERS) if importer.recognizes(path)), None)


def _fetch(name: str) -> Path:
    folder = locate(name)
    return folder if any(folder.glob("*.safetensors")) else download_from_hub(name, BIN_FILES)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
