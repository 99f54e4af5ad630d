"""Import a Hugging Face directory: what ``firstlight.lm`` loads directly, and weights in ``pytorch_model.bin``."""

import json
from pathlib import Path

from torch import Tensor

from firstlight.convert.errors import wrap_errors
from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32
from firstlight.convert.torch_file import is_torch_file, load, state_dict_of
from firstlight.errors import CheckpointError
from firstlight.lm import LM, read_config, read_tokenizer
from firstlight.model import is_known_buffer, to_hf_state_dict

_CONFIG, _BIN, _INDEX = "config.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
BIN_FILES = (_BIN, _INDEX, "pytorch_model-*.bin")  # patterns of files to fetch from the hub


def recognizes(path: Path) -> bool:
    """Whether a path is a model directory, or a file of weights by torch.save."""
    return (path / _CONFIG).is_file() or is_torch_file(path)


def read(path: Path) -> ImportedModel:
    """Read a model directory, from safetensors if there are any, else from ``pytorch_model.bin``.

    Args:
        path: the directory, or a file in it.

    Raises:
        CheckpointError: a file is missing or damaged, or contains more than tensors.
        TokenizerError: its tokenizer is damaged.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(
            "contains weights without a config",
            where=path,
            expected="model_args as in nanoGPT's checkpoints, or a config.json in the same folder",
        )
    metadata = {"imported from": f"Hugging Face {folder.name}"}
    if any(folder.glob("*.safetensors")):
        lm = LM.load_fp32(folder)
        return ImportedModel("Hugging Face", lm.config, to_hf_state_dict(lm.model), lm.tokenizer, metadata)
    config, _ = read_config(folder)
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        for name, tensor in state_dict_of(load(file), file).items():
            if not tensor.is_floating_point() and not is_known_buffer(name):
                raise CheckpointError(
                    "is not a weight of a supported type", where=f"{file}: {name}", found=str(tensor.dtype)
                )
            if tensor.is_floating_point():
                weights[name] = finite_fp32(f"{file}: {name}", tensor) if tensor.ndim != 0 else tensor
    return ImportedModel("Hugging Face, .bin", config, weights, read_tokenizer(folder), metadata)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _BIN).is_file():
        return [folder / _BIN]
    index = folder / _INDEX
    if not index.is_file():
        raise CheckpointError("contains no weights", where=folder, expected=f"*.safetensors, {_BIN} or {_INDEX}")
    with wrap_errors(index, "index of weights"):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A name with a path in it could read any file of this machine.
        bad = next((name for name in names if Path(name).name != name or not (folder / name).is_file()), None)
    if bad is not None:
        raise CheckpointError("names a file that is not in the same folder", where=index, found=bad)
    return [folder / name for name in names]


IMPORTER = Importer(title="Hugging Face", recognizes=recognizes, read=read)
