"""Import from Keras: a .keras file that Firstlight exported, or KerasHub's GPT-2 as a preset, weights or .keras file.

Nothing in the files is run, and Keras is not needed: the model's config is JSON, its weights are HDF5.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel, model_config
from firstlight.convert.keras.names import FOLDER, HUB_LAYERS, WEIGHTS, from_keras, to_keras
from firstlight.errors import CheckpointError, TokenizerError
from firstlight.lm import GENERATION, GenerationConfig, read_tokenizer
from firstlight.model import GPT, ModelConfig, from_hf_config, tensors_to_hf
from firstlight.tokenizer import END_OF_TEXT, PATTERNS, Tokenizer, VocabTable, build_byte_level_bpe

if TYPE_CHECKING:
    from firstlight.convert.keras.hdf5_file import HDF5File

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_CONFIG = "config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_HUB_TOKENIZER_FILES = ("vocabulary.json", "merges.txt")
_HUB_FOLDERS = ("assets/tokenizer", "assets/preprocessor/tokenizer")  # in a preset, in a .keras file
_MEMBERS = [
    _CONFIG,
    WEIGHTS,
    *(f"{FOLDER}/{name}" for name in (_CONFIG, GENERATION, *_TOKENIZER_FILES)),
    *(f"{_HUB_FOLDERS[1]}/{name}" for name in _HUB_TOKENIZER_FILES),
]
_MAX_EXPANSION = 8  # of all members together; trained weights hardly compress
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def recognizes(path: Path) -> bool:
    """Whether a path is an HDF5 file, a .keras archive, or a folder with weights of Keras."""
    if path.is_dir():
        return any(path.glob("*.weights.h5"))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC:
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return WEIGHTS in archive.namelist()


def read(path: Path) -> ImportedModel:
    """Read a model.

    Args:
        path: a .keras file; the folder of a preset; or weights in HDF5, with a config.json in the same folder.

    Raises:
        CheckpointError: it is damaged, or of a kind that is not supported.
        TokenizerError: its vocabulary is inconsistent.
    """
    if path.is_dir():
        weights = next(iter(sorted(path.glob("*.weights.h5"))), path / WEIGHTS)
        return _read_hub(weights, path, path)
    if not zipfile.is_zipfile(path):
        return _read_hub(path, path.parent, path)
    with _unpacked(path, _MEMBERS) as folder:
        if (folder / FOLDER / _CONFIG).is_file():
            return _read_exported(folder / WEIGHTS, folder / FOLDER, path)
        if _backbone_config(_read_json(folder / _CONFIG, path)) is not None:
            return _read_hub(folder / WEIGHTS, folder, path)
        if not (path.parent / _CONFIG).is_file():
            raise CheckpointError(
                "has no config of Firstlight: it was not exported by it, or Keras has saved it again",
                where=path,
                fix="Copy the config.json and tokenizer.json of the exported model to its folder.",
            )
        return _read_exported(folder / WEIGHTS, path.parent, path)


@contextmanager
def _unpacked(path: Path, names: list[str]) -> Iterator[Path]:
    """Unpack the members of these names to a temporary folder; those that the archive lacks are skipped.

    Raises:
        CheckpointError: a member has a compression that Keras does not use, or is too large for the archive.
    """
    size = path.stat().st_size
    bytes_left = _MAX_EXPANSION * size
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        for name in sorted(set(names) & set(archive.namelist())):
            member = archive.getinfo(name)
            bytes_left -= member.file_size
            is_stored = member.compress_type == zipfile.ZIP_STORED
            if bytes_left < 0 or member.compress_size > size or is_stored and member.file_size > size:
                raise CheckpointError(
                    "truncated or damaged: a member is too large for the file",
                    where=f"{path}: {name}",
                    found=f"{member.file_size:,} bytes in {size:,}",
                )
            if member.compress_type not in _COMPRESSIONS:
                raise CheckpointError("unsupported compression", where=f"{path}: {name}")
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        yield Path(folder)


def _read_exported(weights: Path, folder: Path, where: Path) -> ImportedModel:
    """Read weights that Firstlight exported, with the config and the tokenizer of a folder as transformers has them."""
    table = _read_json(folder / _CONFIG, where)
    fields = from_hf_config(table, where=f"{where}: {_CONFIG}").model_dump()
    config = model_config(where, **fields)
    try:
        tokenizer = read_tokenizer(folder)
    except TokenizerError as error:
        raise TokenizerError(error.problem, where=where, found=error.found, expected=error.expected) from error

    def groups(file: "HDF5File") -> Callable[[str], str]:
        layers = [f"layers/{key}/vars" for key in file.members("layers")]
        group_of = {file.string_attribute(group, "name"): group for group in layers}
        return lambda layer: group_of.get(layer, layer)

    generation = GenerationConfig.read(folder, table, config.vocab_size or 0)
    return ImportedModel(
        "Keras", config, _read_weights(weights, where, config, groups), tokenizer, generation=generation
    )


def _read_hub(weights: Path, folder: Path, where: Path) -> ImportedModel:
    """Read KerasHub's GPT-2, with the config.json and the assets of a folder."""
    sizes = _backbone_config(_read_json(folder / _CONFIG, where))
    if sizes is None:
        raise CheckpointError("unsupported model", where=f"{where}: {_CONFIG}", expected="KerasHub's GPT2")
    config = model_config(
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

    def groups(file: "HDF5File") -> Callable[[str], str]:
        parent = "layers/gpt2_backbone/layers" if "layers/gpt2_backbone" in file else "layers"
        return lambda layer: _hub_group(parent, layer)

    assets = next((folder / name for name in _HUB_FOLDERS if (folder / name / _HUB_TOKENIZER_FILES[0]).is_file()), None)
    tokenizer = None if assets is None else _read_hub_tokenizer(assets, where)
    return ImportedModel("KerasHub", config, _read_weights(weights, where, config, groups), tokenizer)


def _hub_group(parent: str, layer: str) -> str:
    """Return the HDF5 group with the arrays of a layer."""
    if not layer.startswith("blocks_"):
        return f"{parent}/{HUB_LAYERS[layer]}/vars"
    _, number, part = layer.split("_", 2)
    block = "transformer_decoder" if number == "0" else f"transformer_decoder_{number}"
    return f"{parent}/{block}/{HUB_LAYERS[part]}/vars"


def _read_weights(
    weights: Path, where: Path, config: ModelConfig, groups: Callable[["HDF5File"], Callable[[str], str]]
) -> Mapping[str, Tensor]:
    """Read all weights, by transformers' names."""
    from firstlight.convert.keras.hdf5_file import HDF5File  # imports h5py, an extra

    config = config.complete(config.vocab_size or 0)
    with closing(HDF5File(weights, where)) as file:
        group_of, layers = groups(file), {}
        _check_sizes(file, group_of, config, where)
        with torch.device("meta"):
            expected = to_keras(config, GPT(config).state_dict())
        for layer, arrays in expected.items():
            group = group_of(layer)
            layers[layer] = [file.array(f"{group}/{i}", array.shape) for i, array in enumerate(arrays)]
    return tensors_to_hf(config, from_keras(config, layers))


def _check_sizes(file: "HDF5File", group_of: Callable[[str], str], config: ModelConfig, where: Path) -> None:
    """Check the sizes that determine memory, layers and rotary tables, before the model is built."""
    n_layer = next((i for i in range(config.n_layer) if f"{group_of(f'blocks_{i}_norm1')}/0" not in file), None)
    if n_layer is not None:
        raise CheckpointError("fewer layers than in its config", where=where, found=n_layer, expected=config.n_layer)
    if f"{group_of(f'blocks_{config.n_layer}_norm1')}/0" in file:
        raise CheckpointError("has more layers than its config", where=where, expected=config.n_layer)
    shape = (config.block_size, config.head_dim)
    if config.rotary and (found := file.shape(f"{group_of('rotary_cos')}/0")) != shape:
        raise CheckpointError("wrong shape of the rotary tables", where=where, found=found, expected=shape)


def _backbone_config(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the sizes in KerasHub's config.json of a GPT-2, or None for another class."""
    config = table.get("config")
    if table.get("class_name") == "GPT2CausalLM" and isinstance(config, dict):
        return _backbone_config(config["backbone"])
    return config if table.get("class_name") == "GPT2Backbone" and isinstance(config, dict) else None


def _read_hub_tokenizer(folder: Path, where: Path) -> Tokenizer:
    vocabulary, merges = _HUB_TOKENIZER_FILES
    ids = _read_json(folder / vocabulary, where)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))) or END_OF_TEXT not in ids:
        raise TokenizerError(
            "ids are not 0 to n - 1, or there is no end-of-text token",
            where=f"{where}: {vocabulary}",
            expected=END_OF_TEXT,
        )
    # Not splitlines: a merge may contain other line separators than LF.
    lines = (folder / merges).read_text("utf-8-sig").replace("\r\n", "\n").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise TokenizerError("a merge is not a pair of tokens", where=f"{where}: {merges}")
    eot_id = ids[END_OF_TEXT]
    table = VocabTable(tokens, eot_id, special_ids=frozenset({eot_id}), source=where)
    return build_byte_level_bpe(table, [(first, second) for first, second in pairs], (PATTERNS["gpt2"],))


def _read_json(path: Path, where: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"missing {path.name}", where=where)
    table = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(table, dict):
        raise CheckpointError("not a JSON object", where=f"{where}: {path.name}")
    return table


IMPORTER = Importer(title="Keras", recognizes=recognizes, read=read, extra="keras")
