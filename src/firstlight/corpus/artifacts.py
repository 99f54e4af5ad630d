"""What is named as a corpus and is none: runs, models, tokenizers, token stores, files of weights.

Each holds files that a reader of text would open (``config.json``, ``tokenizer.json``), so the error of that reader
would be about fields.
"""

import codecs
from pathlib import Path

from firstlight.errors import UsageError
from firstlight.files import MANIFEST, run_layout
from firstlight.files.run_names import is_run_directory, list_checkpoints, parse_run_path
from firstlight.shell import command_line, quote_argument, unused_path

_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".h5", ".keras", ".pt", ".pth", ".ckpt", ".pt2")
_IMPORTED = (".gguf", ".h5", ".keras", ".pt", ".pth", ".ckpt")
_TOKENIZER = frozenset({"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"})
_WITH_TOKENIZER = _TOKENIZER | {
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("origin.json", "chat_template.jinja", "generation_config.json", "README.md"),
}


def check_not_artifact(path: Path) -> None:
    """Check that a file or folder named as a corpus is not one of the things that are made from one.

    Raises:
        UsageError: it is; says what it is, and what was probably wanted.
    """
    what, fix = _of_folder(path) if path.is_dir() else _of_file(path)
    if what:
        raise UsageError(f"is {what}, not a corpus", where=path, expected="text, ids or images", fix=fix)


def _of_folder(folder: Path) -> tuple[str, str]:
    if _is_run(folder):
        return "a run directory", f"Name a text; pretrain starts from its model with --from {quote_argument(folder)}."
    names = {path.name for path in folder.iterdir()}
    if "train.idx" in names or (MANIFEST in names and "train.bin" in names):
        return _store(folder)
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
        run = parse_run_path(folder).run
        what = "a model directory" if run is None else f"a checkpoint of the run {run}"
        return what, f"To train it further, name a corpus, and the model with --from {quote_argument(folder)}."
    if names & _TOKENIZER and not {name for name in names if not name.startswith(".")} - _WITH_TOKENIZER:
        return "a tokenizer", _tokenizer_advice(folder)
    return "", ""


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run; one of text may have a folder named ``checkpoints``, too."""
    return is_run_directory(folder) and ((folder / run_layout.SETTINGS).is_file() or bool(list_checkpoints(folder)))


def _is_binary(path: Path) -> bool:
    """Whether a file is no text: Portuguese text may end in ``.pt``."""
    with path.open("rb") as file:
        start = file.read(64)
    is_wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return not is_wide and (b"\0" in start or start.startswith((b"PK", b"\x80", b"GGUF", b"\x89HDF")))


def _store(folder: Path) -> tuple[str, str]:
    """Return what a token store is; that of a run has its tokenizer beside it."""
    run = folder.parent
    if _is_run(run):
        settings = run / run_layout.SETTINGS
        command = command_line("pretrain", settings, "--out", unused_path(run))
        return f"the token store of the run {run}", f"For a new run on the same data: {command}"
    return "a token store", f"It is trained on alone: {command_line('pretrain', folder)}"


def _of_file(path: Path) -> tuple[str, str]:
    suffix = path.suffix.lower()
    if path.name in _TOKENIZER:
        return "a tokenizer", _tokenizer_advice(path)
    if suffix in _WEIGHTS and _is_binary(path):
        how = command_line("import", path, unused_path(Path(path.stem)))
        advice = f"To train it further: {how}, then a corpus with --from." if suffix in _IMPORTED else "Name a corpus."
        return "a file of weights", advice
    return "", ""


def _tokenizer_advice(path: Path) -> str:
    return f"Name a corpus, and the tokenizer as tokenizer.path={quote_argument(path)}."
