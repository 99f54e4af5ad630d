"""Export a graph by ``torch.export``, which ``torch.export.load`` reads without Firstlight.

Inputs and outputs are those of the ONNX model. The file contains the config and the tokenizer as its extra files.
"""

from pathlib import Path

import torch

from firstlight.convert.export_graph import export_program, suppress_warnings
from firstlight.convert.formats import Exporter
from firstlight.lm import LM, text_files


def write(lm: LM, path: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a .pt2 file.

    Raises:
        UsageError: the weights are in int8.
    """
    del dtype
    program = export_program(lm)
    with path.open("wb") as file, suppress_warnings():
        torch.export.save(program, file, extra_files=text_files(lm.config, lm.tokenizer, lm.generation))
    return {"model": path}


EXPORTER = Exporter(title="torch.export", write=write, suffix=".pt2")
