"""Tell the formats of models apart by what lies in the file, and read each; a file's name decides nothing."""

import zipfile
from collections.abc import Callable
from pathlib import Path

from firstlight.convert import gguf_file, hf, llama2c, llmc, megatron, nanogpt, openai_gpt1, openai_gpt2, torch_file
from firstlight.convert.imported_model import ImportedModel, guarded
from firstlight.errors import CheckpointError, UsageError
from firstlight.lm import download_from_hub, locate

KNOWN = (
    "a Hugging Face directory or hub name, OpenAI's GPT-1 or GPT-2 folder, or a file of llama.cpp (GGUF), nanoGPT "
    "(ckpt.pt), llm.c, llama2.c or Keras"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read(source: str) -> tuple[ImportedModel, Path]:
    """Read a model from outside.

    Args:
        source: a file, a folder, or a name on the hub.

    Returns:
        The model, and where it lies.

    Raises:
        UsageError: nothing is there, or nothing that is known.
        CheckpointError: it is damaged.
        TokenizerError: its tokenizer is damaged.
        MissingExtra: a library that reads this format is not installed.
    """
    path = Path(source)
    if path.is_file():
        return _reader(path)(path), path
    if not path.is_dir():
        folder = locate(source)
        if not any(folder.glob("*.safetensors")):
            folder = download_from_hub(source, hf.OLD_FILES)
        return hf.read(folder), folder
    if (path / openai_gpt1.SHAPES).is_file():
        return openai_gpt1.read(path), path
    if (path / openai_gpt2.SHAPE).is_file():
        return openai_gpt2.read(path), path
    if (path / megatron.TRACKER).is_file():
        return megatron.read(path), path
    if (path / nanogpt.FILE).is_file() and not (path / "config.json").is_file():
        return _of_torch(path / nanogpt.FILE), path / nanogpt.FILE
    if any(path.glob("*.weights.h5")):
        return _keras(path), path
    folder = locate(source)
    return hf.read(folder), folder


def _keras(path: Path) -> ImportedModel:
    from firstlight.convert.keras_read import read as read_keras  # with h5py, an extra

    return read_keras(path)


def _reader(path: Path) -> Callable[[Path], ImportedModel]:
    with path.open("rb") as file:
        head = file.read(8)
    number = int.from_bytes(head[:4], "little")
    if head[:4] == gguf_file.MAGIC:
        from firstlight.convert import gguf_read

        return gguf_read.read
    if head == _HDF5:
        return _keras
    if zipfile.is_zipfile(path):
        with guarded(path, "zip archive", "all"), zipfile.ZipFile(path) as archive:
            return _keras if "model.weights.h5" in archive.namelist() else _of_torch
    if number == llmc.MAGIC:
        return llmc.read
    if number == llama2c.MAGIC or llama2c.sizes_of(path) is not None:
        return llama2c.read
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _of_torch
    raise UsageError("is no model that is known", where=path, found=f"a file that begins with {head!r}", expected=KNOWN)


def _of_torch(path: Path) -> ImportedModel:
    """Read what torch.save wrote: nanoGPT's checkpoint; a bare table of weights has its config.json beside it."""
    held = torch_file.load(path)
    if isinstance(held, dict) and "model_args" in held:
        return nanogpt.read(path, held)
    if (path.parent / "config.json").is_file():
        return hf.read(path.parent)
    raise CheckpointError(
        "holds weights without their shape", where=path, expected="nanoGPT's model_args, or a config.json beside it"
    )
