"""nanoGPT's checkpoint, ckpt.pt, in and out, and the meta.pkl of its character data sets.

Source: karpathy/nanoGPT, model.py and train.py. It is GPT-2 with the exact GELU and, by ``bias=False``, without biases,
which are zeros here. Weights that GPT-2 keeps as input × output stand as torch's Linear has them.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.imported_model import ImportedModel, finite, guarded, shape
from firstlight.convert.torch_file import load, tensors_of
from firstlight.errors import CheckpointError, UsageError
from firstlight.files import atomic_file, storage_errors
from firstlight.files.safe_pickle import UnsafePickleError, read_pickle
from firstlight.lm import LM
from firstlight.model import ModelConfig, to_hf_state_dict
from firstlight.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer, characters

FILE = "ckpt.pt"
_COMPILED = "_orig_mod."
_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_MOST_META = 16 << 20  # bytes; one character a token, so more is none of its files


def read(path: Path, held: Any = None) -> ImportedModel:
    """Read a ckpt.pt; where a meta.pkl lies beside it, its characters become the tokenizer.

    Args:
        path: the file.
        held: what ``torch_file.load`` found in it, where that was done.

    Raises:
        CheckpointError: it is damaged, or no checkpoint of nanoGPT.
    """
    held = load(path) if held is None else held
    args = held.get("model_args") if isinstance(held, dict) else None
    if not isinstance(args, dict) or not all(isinstance(args.get(key), int) for key in _ARGS):
        raise CheckpointError(
            "is no checkpoint of nanoGPT", where=path, expected=f"model and model_args with {', '.join(_ARGS)}"
        )
    table = {k.removeprefix(_COMPILED): v for k, v in tensors_of(held.get("model"), path).items()}
    config = shape(path, family="gpt2", gelu="erf", tie_embeddings=True, **{key: args[key] for key in _ARGS})
    weights = {
        name: finite(f"{path}: {name}", tensor.t() if name.endswith(_TURNED) and tensor.ndim == 2 else tensor)
        for name, tensor in table.items()
    }
    if not args.get("bias", True):
        weights |= _zeros(weights, path)
    beside = path.with_name("meta.pkl")
    facts = {"imported from": f"nanoGPT {path.name}"}
    for key, what in (("iter_num", "iterations"), ("best_val_loss", "best valid loss")):
        value = held.get(key)
        if isinstance(value, (int, float, Tensor)) and not (isinstance(value, Tensor) and value.numel() != 1):
            facts[what] = f"{float(value):.6g}"
    return ImportedModel("nanoGPT", config, weights, read_meta(beside) if beside.is_file() else None, facts)


def _zeros(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the biases that a model without them lacks; a weight in the middle has as many outputs as its bias."""
    if any(name.endswith(".bias") for name in weights):
        raise CheckpointError("has biases, and says that it has none", where=path)
    made = {}
    for name, tensor in weights.items():
        if name.startswith("transformer.h.") or name == "transformer.ln_f.weight":
            made[name.removesuffix("weight") + "bias"] = torch.zeros(tensor.shape[-1] if tensor.ndim else 0)
    return made


def read_meta(path: Path) -> Tokenizer:
    """Read the characters of a meta.pkl without running what it says.

    Raises:
        CheckpointError: it holds anything else, or is damaged.
    """
    with guarded(path, "meta.pkl", "all"):
        if path.stat().st_size > _MOST_META:
            raise CheckpointError("is too large for a table of characters", where=path)
        try:
            held = read_pickle(path.read_bytes())
        except UnsafePickleError as error:
            raise CheckpointError(str(error), where=path) from error
        itos = held.get("itos") if isinstance(held, dict) else None
        if not isinstance(itos, dict) or sorted(itos) != list(range(len(itos))):
            raise CheckpointError("holds no characters by id", where=path)
        tokens = [itos[i] for i in range(len(itos))]
        named = (END_OF_TEXT, UNKNOWN)
        if not all(isinstance(token, str) and (len(token) == 1 or token in named) for token in tokens):
            raise CheckpointError("holds tokens that are no characters", where=path)
    return characters(tokens, where=path)


def write(lm: LM, path: Path) -> dict[str, str]:
    """Write a ckpt.pt that nanoGPT's sample.py and train.py (``init_from="resume"``) read, and a meta.pkl beside it.

    A path without an ending is the folder that nanoGPT calls out_dir.

    Raises:
        UsageError: another family than gpt2, an untied head, or an MLP of another width than 4 n_embd.
    """
    config = lm.config
    wrong = _lacking(config)
    if wrong is not None:
        raise UsageError(f"nanoGPT has no {wrong}", where=lm.source, fix="Choose another format.")
    if config.gelu == "tanh":
        progress.notice("nanoGPT computes GELU exactly, this model has its tanh form: logits will differ a little")
    weights = {
        name: (tensor.t() if name.endswith(_TURNED) else tensor).detach().float().cpu().contiguous()
        for name, tensor in to_hf_state_dict(lm.model).items()
    }
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    args = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.block_size,
        "vocab_size": config.vocab_size,
        "bias": True,
        "dropout": config.dropout,
    }
    # What train.py asks for to go on; the optimiser's own state begins anew.
    held = {"model": weights, "model_args": args, "iter_num": 0, "best_val_loss": float("inf"), "config": args}
    path = path if path.suffix else path / FILE
    # Torch names what lies in the file after a path that it is given, and knows none for names with a leading dot.
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(held, file)
    return {"checkpoint": str(path)} | _write_meta(lm.tokenizer, path.with_name("meta.pkl"))


def _lacking(config: ModelConfig) -> str | None:
    if config.family != "gpt2":
        return f"family {config.family}, only gpt2"
    if not config.tied:
        return "head apart from its embeddings"
    return None if config.ffn_dim == 4 * config.n_embd else f"MLP of width {config.ffn_dim}, only of 4 n_embd"


def _write_meta(tokenizer: Tokenizer | None, path: Path) -> dict[str, str]:
    """Write the table of characters; nanoGPT itself has GPT-2's tokens for the rest."""
    if tokenizer is None or tokenizer.kind != "char":
        return {}
    itos = dict(enumerate(tokenizer.tokens()))
    held = {"vocab_size": len(itos), "itos": itos, "stoi": {token: i for i, token in itos.items()}}
    with storage_errors(path):
        path.write_bytes(pickle.dumps(held, protocol=4))
    return {"characters": str(path)}
