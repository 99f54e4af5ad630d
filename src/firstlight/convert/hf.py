"""A Hugging Face directory or hub name: what ``lm`` reads as it is, and weights that lie in ``pytorch_model.bin``."""

import json
from pathlib import Path

from torch import Tensor

from firstlight.convert.imported_model import ImportedModel, finite, guarded
from firstlight.convert.torch_file import load, tensors_of
from firstlight.errors import CheckpointError
from firstlight.lm import LM, read_config, read_tokenizer
from firstlight.model import to_hf_state_dict

_BIN, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
OLD_FILES = (_BIN, _INDEX, "pytorch_model-*.bin")  # of a hub's repository


def read(folder: Path) -> ImportedModel:
    """Read a directory; weights in safetensors are taken where there are any, else ``pytorch_model.bin``.

    Raises:
        CheckpointError: a file is missing or damaged, or holds more than tensors.
        TokenizerError: its tokenizer is damaged.
    """
    facts = {"imported from": f"Hugging Face {folder.name}"}
    if any(folder.glob("*.safetensors")):
        lm = LM.load_fp32(folder)
        return ImportedModel("Hugging Face", lm.config, to_hf_state_dict(lm.model), lm.tokenizer, facts)
    config, _ = read_config(folder)
    weights: dict[str, Tensor] = {}
    for file in _files(folder):
        for name, tensor in tensors_of(load(file), file).items():
            if tensor.is_floating_point():
                weights[name] = finite(f"{file}: {name}", tensor) if tensor.ndim != 0 else tensor
    return ImportedModel("Hugging Face, .bin", config, weights, read_tokenizer(folder), facts)


def _files(folder: Path) -> list[Path]:
    if (folder / _BIN).is_file():
        return [folder / _BIN]
    index = folder / _INDEX
    with guarded(index, "index of weights", "all"):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A name with a path in it could read any file of this machine.
        bad = next((name for name in names if Path(name).name != name or not (folder / name).is_file()), None)
    if bad is not None:
        raise CheckpointError("names a file that is not beside it", where=index, found=bad)
    return [folder / name for name in names]
