"""A model as ONNX with a key-value cache, in the names that Hugging Face's exporter has.

What runs those files runs this one: with ``attention_mask`` rows of different lengths are padded at the left, and
with ``past_key_values`` a new token costs one position. Weights beyond ONNX's two gigabytes lie in a file beside.
"""

from pathlib import Path

import torch

from firstlight.convert.beside import texts
from firstlight.convert.export_graph import axes, example, exported, quiet
from firstlight.errors import MissingExtra
from firstlight.files import atomic_directory, write_atomic
from firstlight.lm import LM

_FILE = "model.onnx"
_OPSET = 18  # the oldest that torch writes


def write(lm: LM, path: Path) -> dict[str, str]:
    """Write a folder with model.onnx, the config.json and the tokenizer.

    Args:
        lm: the model; heads of tasks are left out.
        path: the folder; one that stands there is replaced.

    Raises:
        UsageError: the matrices are in int8.
        MissingExtra: the packages for the format are not installed.
        StorageError: the disk is full or read-only.
    """
    try:
        import onnx  # noqa: F401 - the exporter asks for both, in words of its own
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("writing an ONNX model", "onnx") from error
    kinds = [f"{layer}.{kind}" for layer in range(lm.config.n_layer) for kind in ("key", "value")]
    program = exported(lm)
    with quiet(), torch.no_grad():
        model = torch.onnx.export(
            program,
            (),
            kwargs=example(lm.config),
            dynamic_shapes=axes(lm.config),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{kind}" for kind in kinds)],
            output_names=["logits", *(f"present.{kind}" for kind in kinds)],
        )
    assert model is not None, "torch answers with the model wherever it exports by its dynamo"
    with atomic_directory(path) as folder:
        model.save(folder / _FILE)
        for name, text in texts(lm).items():
            write_atomic(folder / name, text)
        names = sorted(file.name for file in folder.iterdir())
    return {name: str(path / name) for name in names}
