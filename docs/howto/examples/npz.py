"""Models as one NumPy file: an exporter and an importer of the same format.

The weights have the names and the orientation that they have in transformers. The config is stored as JSON text.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from firstlight.convert import Exporter, ImportedModel, Importer, finite_fp32, model_config
from firstlight.errors import CheckpointError
from firstlight.lm import LM
from firstlight.model import to_hf_state_dict

CONFIG = "config"


def write(lm: LM, path: Path, dtype: str | None) -> dict[str, Path]:
    """Write a model; the files that are returned are named in the command's output."""
    weights = {name: w.float().numpy().astype(dtype) for name, w in to_hf_state_dict(lm.model).items()}
    with path.open("wb") as file:
        np.savez(file, **weights, **{CONFIG: lm.config.model_dump_json()})
    return {"model": path}


def recognizes(path: Path) -> bool:
    """Return whether a file is an .npz file with a config, whatever its name is."""
    return zipfile.is_zipfile(path) and f"{CONFIG}.npy" in zipfile.ZipFile(path).namelist()


def read(path: Path) -> ImportedModel:
    """Read a model, without a tokenizer. The file is untrusted: no pickles, and the weights must be finite."""
    with np.load(path, allow_pickle=False) as arrays:
        config = json.loads(str(arrays[CONFIG]))
        weights = {name: finite_fp32(name, torch.from_numpy(arrays[name])) for name in arrays.files if name != CONFIG}
    if not isinstance(config, dict):
        raise CheckpointError("the config is not an object", where=path, found=type(config).__name__)
    return ImportedModel("npz", model_config(path, **config), weights)


EXPORTER = Exporter(title="NumPy", write=write, dtypes=("float32", "float16"), suffix=".npz")
IMPORTER = Importer(title="NumPy", recognizes=recognizes, read=read)
