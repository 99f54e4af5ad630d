"""A model as a graph of torch's own: ``torch.export`` writes it, ``torch.export.load`` reads it without our code.

Inputs and outputs are those of the ONNX model. The file holds the config.json and the tokenizer as its extra files.
"""

from pathlib import Path

import torch

from firstlight.convert.beside import texts
from firstlight.convert.export_graph import exported, quiet
from firstlight.errors import UsageError
from firstlight.files import atomic_file
from firstlight.lm import LM


def write(lm: LM, path: Path) -> dict[str, str]:
    """Write a .pt2 file.

    Args:
        lm: the model; heads of tasks are left out.
        path: the file.

    Raises:
        UsageError: the matrices are in int8, or the file's name has another ending.
        StorageError: the disk is full or read-only.
    """
    if path.suffix != ".pt2":
        raise UsageError("has an ending that torch does not expect", where=path, expected=".pt2")
    program = exported(lm)
    with atomic_file(path) as temporary, temporary.open("wb") as file, quiet():
        torch.export.save(program, file, extra_files=texts(lm))
    return {"model": str(path)}
