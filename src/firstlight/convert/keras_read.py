"""A model out of Keras: a .keras file of ours, or KerasHub's GPT-2 as a preset's folder, weights or a .keras file.

Nothing in the files is run, and Keras is not needed: JSON says the shape, HDF5 holds the weights.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from firstlight.convert.imported_model import ImportedModel, guarded, shape
from firstlight.convert.keras_archive import unpacked
from firstlight.convert.keras_names import FOLDER, HUB_LAYERS, WEIGHTS, from_keras, to_keras
from firstlight.errors import CheckpointError, TokenizerError
from firstlight.lm.load import read_tokenizer
from firstlight.model import GPT, ModelConfig, from_hf_config, tensors_to_hf
from firstlight.tokenizer import END_OF_TEXT, PATTERNS, Table, Tokenizer, byte_level

if TYPE_CHECKING:
    from firstlight.convert.hdf5_file import HDF5

_CONFIG = "config.json"
_OUR_WORDS = ("tokenizer.json", "tokenizer_config.json")
_HUB_WORDS = ("vocabulary.json", "merges.txt")
_HUB_FOLDERS = ("assets/tokenizer", "assets/preprocessor/tokenizer")  # in a preset, in a .keras file
_MEMBERS = [
    _CONFIG,
    WEIGHTS,
    *(f"{FOLDER}/{name}" for name in (_CONFIG, *_OUR_WORDS)),
    *(f"{_HUB_FOLDERS[1]}/{name}" for name in _HUB_WORDS),
]


def read(path: Path) -> ImportedModel:
    """Read a model.

    Args:
        path: a .keras file; the folder of a preset; or weights in HDF5, with config.json beside them.

    Raises:
        CheckpointError: it is damaged, or of a kind that is not read.
        TokenizerError: its vocabulary contradicts itself.
        MissingExtra: the package for HDF5 is not installed.
    """
    with guarded(path, "Keras model", "keras"):
        if path.is_dir():
            weights = next(iter(sorted(path.glob("*.weights.h5"))), path / WEIGHTS)
            return _hub(weights, path, path)
        if not zipfile.is_zipfile(path):
            return _hub(path, path.parent, path)
        with unpacked(path, _MEMBERS) as folder:
            if (folder / FOLDER / _CONFIG).is_file():
                return _ours(folder / WEIGHTS, folder / FOLDER, path)
            if _backbone(_json(folder / _CONFIG, path)) is not None:
                return _hub(folder / WEIGHTS, folder, path)
            if not (path.parent / _CONFIG).is_file():
                raise CheckpointError(
                    "is not of Firstlight, or Keras has saved it again, and says no more what model it is",
                    where=path,
                    fix="Put the config.json and tokenizer.json of the exported model beside it.",
                )
            return _ours(folder / WEIGHTS, path.parent, path)


def _ours(weights: Path, beside: Path, where: Path) -> ImportedModel:
    """Read weights of ours, with the config.json and the tokenizer that lie in a folder as transformers has them."""
    given = from_hf_config(_json(beside / _CONFIG, where), where=f"{where}: {_CONFIG}")
    config = shape(where, **given.model_dump())
    try:
        tokenizer = read_tokenizer(beside)
    except TokenizerError as error:
        raise TokenizerError(error.problem, where=where, found=error.found, expected=error.expected) from error

    def places(file: "HDF5") -> Callable[[str], str]:
        groups = {file.text(f"layers/{key}/vars", "name"): f"layers/{key}/vars" for key in file.members("layers")}
        return lambda layer: groups.get(layer, layer)

    return ImportedModel("Keras", config, _weights(weights, where, config, places), tokenizer)


def _hub(weights: Path, beside: Path, where: Path) -> ImportedModel:
    """Read KerasHub's GPT-2, with the config.json and the assets that lie in a folder."""
    sizes = _backbone(_json(beside / _CONFIG, where))
    if sizes is None:
        raise CheckpointError("holds a model of another kind", where=f"{where}: {_CONFIG}", expected="KerasHub's GPT2")
    config = shape(
        where,
        family="gpt2",
        n_layer=sizes["num_layers"],
        n_head=sizes["num_heads"],
        n_embd=sizes["hidden_dim"],
        d_ff=sizes["intermediate_dim"],
        vocab_size=sizes["vocabulary_size"],
        block_size=sizes["max_sequence_length"],
        dropout=sizes.get("dropout", 0.0),
        norm_eps=1e-5,
    )

    def places(file: "HDF5") -> Callable[[str], str]:
        outer = "layers/gpt2_backbone/layers" if "layers/gpt2_backbone" in file else "layers"
        return lambda layer: _hub_place(outer, layer)

    folder = next((beside / name for name in _HUB_FOLDERS if (beside / name / _HUB_WORDS[0]).is_file()), None)
    tokenizer = None if folder is None else _hub_words(folder, where)
    return ImportedModel("KerasHub", config, _weights(weights, where, config, places), tokenizer)


def _hub_place(outer: str, layer: str) -> str:
    """Return where the arrays of a layer lie."""
    if not layer.startswith("blocks_"):
        return f"{outer}/{HUB_LAYERS[layer]}/vars"
    _, number, part = layer.split("_", 2)
    block = "transformer_decoder" if number == "0" else f"transformer_decoder_{number}"
    return f"{outer}/{block}/{HUB_LAYERS[part]}/vars"


def _weights(
    weights: Path, where: Path, config: ModelConfig, places: Callable[["HDF5"], Callable[[str], str]]
) -> Mapping[str, Tensor]:
    """Return weights in transformers' names, whole, so that the file may be gone afterwards."""
    from firstlight.convert.hdf5_file import HDF5

    config = config.complete(config.vocab_size or 0)
    with closing(HDF5(weights, where)) as file:
        place, layers = places(file), {}
        _check_sizes(file, place, config, where)
        with torch.device("meta"):
            expected = to_keras(config, GPT(config).state_dict())
        for layer, arrays in expected.items():
            group = place(layer)
            layers[layer] = [file.array(f"{group}/{i}", array.shape) for i, array in enumerate(arrays)]
    return tensors_to_hf(config, from_keras(config, layers))


def _check_sizes(file: "HDF5", place: Callable[[str], str], config: ModelConfig, where: Path) -> None:
    """Refuse a model that the file cannot hold before it is built: layers take memory, and so do angles."""
    missing = next((i for i in range(config.n_layer) if f"{place(f'blocks_{i}_norm1')}/0" not in file), None)
    if missing is not None:
        raise CheckpointError("has fewer layers than it says", where=where, found=missing, expected=config.n_layer)
    wanted = (config.block_size, config.head_dim)
    if config.rotary and (found := file.shape(f"{place('rotary_cos')}/0")) != wanted:
        raise CheckpointError("has another table of angles than the model", where=where, found=found, expected=wanted)


def _backbone(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the sizes in KerasHub's config.json of a GPT-2, or None where it is of something else."""
    config = table.get("config")
    if table.get("class_name") == "GPT2CausalLM" and isinstance(config, dict):
        return _backbone(config["backbone"])
    return config if table.get("class_name") == "GPT2Backbone" and isinstance(config, dict) else None


def _hub_words(folder: Path, where: Path) -> Tokenizer:
    ids = _json(folder / _HUB_WORDS[0], where)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))) or END_OF_TEXT not in ids:
        raise TokenizerError(
            "has no id for each token from 0 on, or no token that ends a text",
            where=f"{where}: {_HUB_WORDS[0]}",
            expected=END_OF_TEXT,
        )
    # Other characters than LF end a line for splitlines, and may stand in a merge.
    lines = (folder / _HUB_WORDS[1]).read_text("utf-8").replace("\r\n", "\n").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise TokenizerError("has a merge that is no pair", where=f"{where}: {_HUB_WORDS[1]}")
    eot = ids[END_OF_TEXT]
    table = Table(tokens, eot, special=frozenset({eot}), where=where)
    return byte_level(table, [(first, second) for first, second in pairs], (PATTERNS["gpt2"],))


def _json(path: Path, where: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"lacks {path.name}", where=where)
    table = json.loads(path.read_text("utf-8"))
    if not isinstance(table, dict):
        raise CheckpointError("holds no table", where=f"{where}: {path.name}")
    return table
