"""Import OpenAI's release of GPT-2: hparams.json, a TensorFlow checkpoint, encoder.json and vocab.bpe.

Source: openai/gpt-2, src/model.py. Other checkpoints of that code, such as those of gpt-2-simple, are read too.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.convert.formats import Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config, refuse_surplus
from firstlight.convert.openai.tf_checkpoint import TFCheckpoint
from firstlight.errors import CheckpointError
from firstlight.model import ModelConfig
from firstlight.tokenizer import import_tokenizer

_HPARAMS = "hparams.json"
_PARTS = {
    "ln_1": ("ln_1", "g", "b"),
    "attn/c_attn": ("attn.c_attn", "w", "b"),
    "attn/c_proj": ("attn.c_proj", "w", "b"),
    "ln_2": ("ln_2", "g", "b"),
    "mlp/c_fc": ("mlp.c_fc", "w", "b"),
    "mlp/c_proj": ("mlp.c_proj", "w", "b"),
}


def recognizes(path: Path) -> bool:
    """Whether a folder has the release's hparams.json."""
    return (path / _HPARAMS).is_file()


def read(folder: Path) -> ImportedModel:
    """Read the release's folder, with its tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor does not match hparams.json.
        TokenizerError: the tokenizer's files are damaged.
    """
    hparams = json.loads((folder / _HPARAMS).read_text(encoding="utf-8-sig"))
    checkpoint = TFCheckpoint(_prefix(folder))
    config = _config(folder, hparams, len(checkpoint.names))
    weights: dict[str, Tensor] = {}
    for tf_name, name in _names(config.n_layer).items():
        tensor = torch.from_numpy(checkpoint.tensor(tf_name))
        # Linear layers are convolutions of width 1.
        tensor = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
        weights[name] = finite_fp32(f"{folder}: {tf_name}", tensor)
    others = set(checkpoint.names) - set(_names(config.n_layer))
    refuse_surplus((name for name in others if name.startswith("model/") and "Adam" not in name), folder)
    has_tokenizer = (folder / "encoder.json").is_file() and (folder / "vocab.bpe").is_file()
    tokenizer = import_tokenizer(folder) if has_tokenizer else None
    return ImportedModel("GPT-2", config, weights, tokenizer, {"imported from": "OpenAI GPT-2"})


def _config(folder: Path, hparams: Any, n_tensors: int) -> ModelConfig:
    keys = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    if not isinstance(hparams, dict) or not all(type(hparams.get(key)) is int for key in keys):
        raise CheckpointError("missing or invalid sizes", where=folder / _HPARAMS, expected=", ".join(keys))
    if hparams["n_layer"] > n_tensors:
        raise CheckpointError(
            "fewer weights than its layers need", where=folder, found=n_tensors, expected=hparams["n_layer"]
        )
    return model_config(
        folder,
        family="gpt2",
        n_layer=hparams["n_layer"],
        n_head=hparams["n_head"],
        n_embd=hparams["n_embd"],
        vocab_size=hparams["n_vocab"],
        block_size=hparams["n_ctx"],
        tie_embeddings=True,
    )


def _prefix(folder: Path) -> Path:
    """Return the path prefix of the only checkpoint, or of the one that the file ``checkpoint`` names."""
    prefixes = sorted(file.with_suffix("") for file in folder.glob("*.index"))
    pointer = folder / "checkpoint"
    if pointer.is_file() and len(prefixes) > 1:
        text = pointer.read_text(encoding="utf-8", errors="replace")
        quoted = text.partition('"')[2].partition('"')[0]
        # Only the file name is used: a path could point anywhere.
        prefixes = [prefix for prefix in prefixes if prefix.name == quoted.rsplit("/", 1)[-1]]
    if len(prefixes) != 1:
        raise CheckpointError(
            "no checkpoint, or several",
            where=folder,
            found=", ".join(p.name for p in prefixes) or None,
            expected="one model.ckpt.index, or a file named checkpoint that names one",
        )
    return prefixes[0]


def _names(n_layer: int) -> dict[str, str]:
    """Map TensorFlow's names of the weights to transformers'."""
    table = {
        "model/wte": "transformer.wte.weight",
        "model/wpe": "transformer.wpe.weight",
        "model/ln_f/g": "transformer.ln_f.weight",
        "model/ln_f/b": "transformer.ln_f.bias",
    }
    for i in range(n_layer):
        for tf_part, (part, weight, bias) in _PARTS.items():
            table[f"model/h{i}/{tf_part}/{weight}"] = f"transformer.h.{i}.{part}.weight"
            table[f"model/h{i}/{tf_part}/{bias}"] = f"transformer.h.{i}.{part}.bias"
    return table


IMPORTER = Importer(title="OpenAI GPT-2", recognizes=recognizes, read=read)
