"""Hugging Face directories: import of weights in ``pytorch_model.bin``, export of a checkpoint without its training."""

import json
import shutil
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.convert.formats import Exporter, Importer
from firstlight.convert.imported_model import ImportedModel
from firstlight.convert.run_card import export_card
from firstlight.convert.torch_file import is_torch_file, load, state_dict_of
from firstlight.convert.unsupported import refuse_known_format
from firstlight.errors import CheckpointError
from firstlight.files import MANIFEST, read_json, read_json_object, write_atomic
from firstlight.files.run_layout import TASKS
from firstlight.lm import (
    CARD,
    LM,
    CardInfo,
    Classifier,
    GenerationConfig,
    model_card,
    portable_tasks,
    read_config,
    read_state_dict,
    read_tokenizer,
)
from firstlight.lm.save import WEIGHTS
from firstlight.model import HEADS_FILE, match_tied_head, to_hf_state_dict

_CONFIG, _BIN = "config.json", "pytorch_model.bin"
_CLASSIFIERS = ("classification", "pair", "regression")  # kinds of tasks
BIN_FILES = (_BIN, f"{_BIN}.index.json", "pytorch_model-*.bin")  # patterns of files to fetch from the hub


def recognizes(path: Path) -> bool:
    """Whether a path is a model directory, or a file of weights in safetensors or by torch.save."""
    is_safetensors = path.suffix == ".safetensors" and path.is_file()
    return (path / _CONFIG).is_file() or is_safetensors or is_torch_file(path)


def read(path: Path) -> ImportedModel:
    """Read a model directory, from safetensors if there are any, else from ``pytorch_model.bin``.

    Args:
        path: the directory, or a file in it.

    Raises:
        CheckpointError: a file is missing or damaged, or contains more than tensors.
        TokenizerError: its tokenizer is damaged.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        refuse_known_format(path)
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(
            "contains weights without a config",
            where=path,
            expected="model_args as in nanoGPT's checkpoints, or a config.json in the same folder",
        )
    metadata = {"imported from": f"Hugging Face {folder.resolve().name}"}
    has_safetensors, has_bin = (
        any((folder / f"{name}{end}").is_file() for end in ("", ".index.json")) for name in (WEIGHTS, _BIN)
    )
    if path.is_file():
        has_safetensors = has_safetensors and not path.match("pytorch_model*.bin")
        _check_name(path, WEIGHTS if has_safetensors else _BIN)
    config, table = read_config(folder)
    if "SequenceClassification" in str(table.get("architectures")) and not (folder / HEADS_FILE).is_file():
        progress.warn(f"{folder}: its classification head is not read, only the language model")
    if has_safetensors:
        lm = LM.load_fp32(folder)
        return ImportedModel(
            "Hugging Face", lm.config, to_hf_state_dict(lm.model), lm.tokenizer, metadata, lm.generation, lm.codec
        )
    if not has_bin:
        refuse_known_format(folder)
    state = read_state_dict(folder, _BIN, lambda file: state_dict_of(load(file), file).items())
    config, weights = match_tied_head(config, state, folder)
    generation = GenerationConfig.read(folder, table, config.vocab_size or 0)
    return ImportedModel("Hugging Face, .bin", config, weights, read_tokenizer(folder), metadata, generation)


def _check_name(path: Path, name: str) -> None:
    """Refuse a file that is not among those that are read for its folder: others would be read in its place."""
    stem, _, suffix = name.partition(".")
    if not (path.match(name) or path.match(f"{stem}-*.{suffix}") or path.match(f"{name}.index.json")):
        raise CheckpointError(
            "is not one of the files of weights that its folder is loaded from",
            where=path,
            expected=f"{name}, or its shards",
            fix="Move it, with config.json and the tokenizer, to a folder of its own under that name.",
        )


def write(lm: LM, folder: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a Hugging Face directory in fp32: a checkpoint without its training state, adapters merged.

    A model with heads is copied file by file, with its tasks, so that ``predict`` reads it as before. No file has a
    path of this machine. The model card has what the files of the run say.
    """
    del dtype
    rows, card = ({}, CardInfo()) if lm.source is None else export_card(lm.source, with_results=_holds_all(lm))
    if not lm.model.heads or lm.source is None:
        lm.save(folder, rows, card)
        return {"model": folder, "card": folder / CARD}
    for file in sorted(lm.source.iterdir()):
        if file.is_file() and file.name not in (MANIFEST, CARD, TASKS):
            shutil.copyfile(file, folder / file.name)
    tasks: list[dict[str, Any]] = []
    if (lm.source / TASKS).is_file():
        tasks = portable_tasks(read_json(lm.source / TASKS, CheckpointError))
        write_atomic(folder / TASKS, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    table = read_json_object(folder / _CONFIG, CheckpointError)
    text = model_card(lm.config, table, lm.vocab, rows, card, classifier=_classifier(lm, table, tasks), has_heads=True)
    write_atomic(folder / CARD, text)
    return {"model": folder, "card": folder / CARD}


def _holds_all(lm: LM) -> bool:
    """Whether a model has the heads of its directory, if that has any."""
    return bool(lm.model.heads) or lm.source is None or not (lm.source / HEADS_FILE).is_file()


def _classifier(lm: LM, table: dict[str, Any], tasks: list[dict[str, Any]]) -> Classifier | None:
    """Return the only head of a directory, if it is a classifier, as the files there describe it."""
    if len(lm.model.heads) != 1:
        return None
    (head,) = lm.model.heads
    task = tasks[0] if tasks else {}
    scale = None if task.get("scale") is None else (task["scale"][0], task["scale"][1])
    is_pair = (task.get("columns") or {}).get("text2") is not None
    if task.get("pool") == "mean" and task.get("kind") in _CLASSIFIERS:
        return Classifier(head, [str(name) for name in task.get("labels") or ()], scale, is_pair, reads_mean=True)
    if "SequenceClassification" not in str(table.get("architectures")):
        return None
    names = table.get("id2label") or {}
    if table.get("problem_type") == "regression":
        return Classifier(head, (), scale, is_pair)
    return Classifier(head, [str(names[key]) for key in sorted(names, key=int)], is_pair=is_pair)


EXPORTER = Exporter(
    title="Hugging Face", write=write, is_folder=True, any_architecture=True, holds_heads=True, holds_codec=True
)
IMPORTER = Importer(title="Hugging Face", recognizes=recognizes, read=read)
