"""Export to ONNX with a key-value cache, under the names that Hugging Face's exporter uses.

So the runtimes for its files run this one: with ``attention_mask``, rows of different lengths are left-padded, and
with ``past_key_values`` a new token costs one position. ``torch.onnx`` moves weights beyond the 2 GB that a protobuf
may have to a file of their own.
"""

from pathlib import Path

import torch

from firstlight.convert.export_graph import dynamic_axes, example_inputs, export_program, suppress_warnings
from firstlight.convert.formats import Exporter
from firstlight.files import write_atomic
from firstlight.lm import LM, text_files

_MODEL = "model.onnx"
_OPSET = 18  # the lowest that torch.onnx writes


def write(lm: LM, folder: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write model.onnx, the config and the tokenizer.

    Raises:
        UsageError: the weights are in int8.
    """
    # torch.onnx would import these later, with a less clear error message where they are missing.
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401

    del dtype
    entries = [f"{layer}.{kind}" for layer in range(lm.config.n_layer) for kind in ("key", "value")]
    program = export_program(lm)
    with suppress_warnings(), torch.no_grad():
        model = torch.onnx.export(
            program,
            (),
            kwargs=example_inputs(lm.config),
            dynamic_shapes=dynamic_axes(lm.config),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{e}" for e in entries)],
            output_names=["logits", *(f"present.{e}" for e in entries)],
        )
    assert model is not None, "with dynamo=True torch.onnx.export returns the model"
    model.save(folder / _MODEL)
    for name, text in text_files(lm.config, lm.tokenizer, lm.generation).items():
        write_atomic(folder / name, text)
    return {file.name: file for file in sorted(folder.iterdir())}


EXPORTER = Exporter(title="ONNX", write=write, extra="onnx", modules=("onnx", "onnxscript"), is_folder=True)
