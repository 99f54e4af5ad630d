"""Import a Hugging Face directory: what ``firstlight.lm`` loads directly, and weights in ``pytorch_model.bin``."""

from pathlib import Path

from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel
from firstlight.convert.torch_file import is_torch_file, load, state_dict_of
from firstlight.errors import CheckpointError
from firstlight.lm import LM, read_config, read_state_dict, read_tokenizer
from firstlight.lm.save import WEIGHTS
from firstlight.model import match_tied_head, to_hf_state_dict

_CONFIG, _BIN = "config.json", "pytorch_model.bin"
BIN_FILES = (_BIN, f"{_BIN}.index.json", "pytorch_model-*.bin")  # patterns of files to fetch from the hub


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
    if any((folder / f"{WEIGHTS}{end}").is_file() for end in ("", ".index.json")):
        lm = LM.load_fp32(folder)
        return ImportedModel("Hugging Face", lm.config, to_hf_state_dict(lm.model), lm.tokenizer, metadata)
    config, _ = read_config(folder)
    state = read_state_dict(folder, _BIN, lambda file: state_dict_of(load(file), file).items())
    config, weights = match_tied_head(config, state, folder)
    return ImportedModel("Hugging Face, .bin", config, weights, read_tokenizer(folder), metadata)


IMPORTER = Importer(title="Hugging Face", recognizes=recognizes, read=read)
