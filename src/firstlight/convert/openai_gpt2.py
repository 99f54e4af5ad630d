"""OpenAI's release of GPT-2: hparams.json, model.ckpt in TensorFlow's layout, encoder.json and vocab.bpe.

Source: openai/gpt-2, src/model.py. Any checkpoint of that code, such as gpt-2-simple writes, reads the same.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.imported_model import ImportedModel, finite, guarded, shape
from firstlight.convert.tf_checkpoint import TFCheckpoint
from firstlight.errors import CheckpointError
from firstlight.tokenizer import import_tokenizer

SHAPE = "hparams.json"
_PARTS = {
    "ln_1": ("ln_1", "g", "b"),
    "attn/c_attn": ("attn.c_attn", "w", "b"),
    "attn/c_proj": ("attn.c_proj", "w", "b"),
    "ln_2": ("ln_2", "g", "b"),
    "mlp/c_fc": ("mlp.c_fc", "w", "b"),
    "mlp/c_proj": ("mlp.c_proj", "w", "b"),
}


def read(folder: Path) -> ImportedModel:
    """Read the release's folder, with its tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor has another shape than hparams.json says.
        TokenizerError: the tokenizer's files are damaged.
    """
    with guarded(folder, "release of GPT-2", "all"):
        sizes = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
        bundle = TFCheckpoint(_prefix(folder))
    config = _config(folder, sizes, len(bundle.names))
    weights: dict[str, Tensor] = {}
    for theirs, ours in _names(config.n_layer).items():
        tensor = torch.from_numpy(bundle.tensor(theirs))
        # A matrix was a convolution of width 1.
        weights[ours] = finite(f"{folder}: {theirs}", tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor)
    has_words = (folder / "encoder.json").is_file() and (folder / "vocab.bpe").is_file()
    return ImportedModel(
        "GPT-2", config, weights, import_tokenizer(folder) if has_words else None, {"imported from": "OpenAI GPT-2"}
    )


def _config(folder: Path, sizes: Any, n_tensors: int) -> Any:
    keys = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    if not isinstance(sizes, dict) or not all(type(sizes.get(key)) is int for key in keys):
        raise CheckpointError("lacks sizes", where=folder / SHAPE, expected=", ".join(keys))
    if sizes["n_layer"] > n_tensors:
        raise CheckpointError(
            "has fewer weights than its layers need", where=folder, found=n_tensors, expected=sizes["n_layer"]
        )
    return shape(
        folder,
        family="gpt2",
        n_layer=sizes["n_layer"],
        n_head=sizes["n_head"],
        n_embd=sizes["n_embd"],
        vocab_size=sizes["n_vocab"],
        block_size=sizes["n_ctx"],
        tie_embeddings=True,
    )


def _prefix(folder: Path) -> Path:
    """Return the checkpoint that the folder's file ``checkpoint`` names, else the only one that lies there."""
    found = sorted(file.with_suffix("") for file in folder.glob("*.index"))
    named = folder / "checkpoint"
    if named.is_file() and len(found) > 1:
        text = named.read_text(encoding="utf-8", errors="replace")
        quoted = text.partition('"')[2].partition('"')[0]
        # Only its name counts: a path may lead anywhere.
        found = [prefix for prefix in found if prefix.name == quoted.rsplit("/", 1)[-1]]
    if len(found) != 1:
        raise CheckpointError(
            "holds no checkpoint, or several",
            where=folder,
            found=", ".join(p.name for p in found) or None,
            expected="one model.ckpt.index, or a file checkpoint that names it",
        )
    return found[0]


def _names(n_layer: int) -> dict[str, str]:
    """Return transformers' names by TensorFlow's."""
    table = {
        "model/wte": "transformer.wte.weight",
        "model/wpe": "transformer.wpe.weight",
        "model/ln_f/g": "transformer.ln_f.weight",
        "model/ln_f/b": "transformer.ln_f.bias",
    }
    for i in range(n_layer):
        for theirs, (ours, weight, bias) in _PARTS.items():
            table[f"model/h{i}/{theirs}/{weight}"] = f"transformer.h.{i}.{ours}.weight"
            table[f"model/h{i}/{theirs}/{bias}"] = f"transformer.h.{i}.{ours}.bias"
    return table
