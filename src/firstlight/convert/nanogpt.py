"""nanoGPT's checkpoint, ckpt.pt: import and export, with the meta.pkl of its character-level data sets.

Source: karpathy/nanoGPT, model.py and train.py. The model is GPT-2 with the exact GELU and, with ``bias=False``,
without biases, which are imported as zeros. Its linear layers store weights as (output, input), GPT-2's Conv1D as
(input, output).
"""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from firstlight import progress
from firstlight.convert.errors import wrap_errors
from firstlight.convert.formats import Exporter, Importer
from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config
from firstlight.convert.torch_file import has_string, is_torch_file, load, state_dict_of
from firstlight.errors import CheckpointError, UsageError
from firstlight.files.safe_pickle import UnsafePickleError, read_pickle
from firstlight.lm import LM
from firstlight.model import ModelConfig, is_known_buffer, to_hf_state_dict
from firstlight.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer, build_char_level, byte_token

META = "meta.pkl"
_CHECKPOINT = "ckpt.pt"
_NORM_EPS = 1e-5
_WRAPPER_PREFIXES = re.compile(r"^((_orig_mod|module)\.)+")  # of torch.compile and DistributedDataParallel
_MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_MAX_META_BYTES = 16 << 20  # far more than a table of characters needs


def recognizes(path: Path) -> bool:
    """Whether a path is nanoGPT's checkpoint, or an output directory with one."""
    if path.is_dir():
        return (path / _CHECKPOINT).is_file() and not (path / "config.json").is_file()
    return is_torch_file(path) and has_string(path, "model_args")


def read(path: Path) -> ImportedModel:
    """Read a checkpoint; if a meta.pkl is in the same folder, its characters become the tokenizer.

    Args:
        path: the file, or the output directory.

    Raises:
        CheckpointError: it is damaged, or not a checkpoint of nanoGPT.
    """
    path = path / _CHECKPOINT if path.is_dir() else path
    checkpoint = load(path)
    args = checkpoint.get("model_args") if isinstance(checkpoint, dict) else None
    if not isinstance(args, dict) or not all(isinstance(args.get(key), int) for key in _MODEL_ARGS):
        raise CheckpointError(
            "not a checkpoint of nanoGPT", where=path, expected=f"model and model_args with {', '.join(_MODEL_ARGS)}"
        )
    others = [key for key, value in args.items() if key not in (*_MODEL_ARGS, "bias", "dropout") and value]
    if others:
        progress.warn(f"{path}: model_args {', '.join(map(str, others))}: ignored, as nanoGPT's GPT does not have them")
    state = {
        _WRAPPER_PREFIXES.sub("", name): tensor for name, tensor in state_dict_of(checkpoint.get("model"), path).items()
    }
    config = model_config(
        path,
        family="gpt2",
        mlp="gelu",
        tie_embeddings=True,
        norm_eps=_NORM_EPS,
        **{key: args[key] for key in _MODEL_ARGS},
    )
    weights = {
        name: finite_fp32(f"{path}: {name}", tensor.t() if name.endswith(_CONV1D) and tensor.ndim == 2 else tensor)
        for name, tensor in state.items()
        if not is_known_buffer(name, tensor)  # attn.bias is a mask
    }
    if not args.get("bias", True):
        weights |= _zero_biases(weights, path)
    metadata = {"imported from": f"nanoGPT {path.name}"}
    for key, description in (("iter_num", "iterations"), ("best_val_loss", "best validation loss")):
        value = checkpoint.get(key)
        if isinstance(value, (int, float, Tensor)) and not (isinstance(value, Tensor) and value.numel() != 1):
            metadata[description] = f"{float(value):.6g}"
    meta = path.with_name(META)
    tokenizer = read_meta(meta) if meta.is_file() else None
    return ImportedModel("nanoGPT", config, weights, tokenizer, metadata)


def _zero_biases(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return zeros for the biases of a model without them; weights are (input, output) here."""
    biased = next((name for name in weights if name.endswith(".bias")), None)
    if biased is not None:
        raise CheckpointError("has biases although its model_args have bias=False", where=path, found=biased)
    biases = {}
    for name, tensor in weights.items():
        is_layer = name.startswith("transformer.h.") and name.endswith(".weight")
        if is_layer or name == "transformer.ln_f.weight":
            biases[name.removesuffix("weight") + "bias"] = torch.zeros(tensor.shape[-1] if tensor.ndim else 0)
    return biases


def read_meta(path: Path) -> Tokenizer:
    """Read the character-level tokenizer of a meta.pkl, without running code in it.

    Raises:
        CheckpointError: it contains anything else, or is damaged.
    """
    with wrap_errors(path, META):
        if path.stat().st_size > _MAX_META_BYTES:
            raise CheckpointError("too large for a table of characters", where=path)
        try:
            meta = read_pickle(path.read_bytes())
        except UnsafePickleError as error:
            raise CheckpointError(str(error), where=path) from error
        itos = meta.get("itos") if isinstance(meta, dict) else None
        if not isinstance(itos, dict) or sorted(itos) != list(range(len(itos))):
            raise CheckpointError("does not contain itos, a table of characters by id", where=path)
        tokens = [itos[i] for i in range(len(itos))]
        byte_tokens = [byte_token(b) for b in range(256)]  # of a character-level tokenizer of ours
        special = {END_OF_TEXT, UNKNOWN, *byte_tokens}
        if not all(isinstance(token, str) and (len(token) == 1 or token in special) for token in tokens):
            raise CheckpointError("contains tokens that are not single characters", where=path)
        stoi = meta.get("stoi")
        wrong = next((i for i in itos if isinstance(stoi, dict) and stoi and stoi.get(itos[i]) != i), None)
        if wrong is not None:
            raise CheckpointError(
                "its tables stoi and itos differ",
                where=path,
                found=f"{str(itos[wrong])[:20]!r}, ids {stoi.get(itos[wrong])} and {wrong}",
            )
    return build_char_level(tokens, byte_fallback=set(byte_tokens) <= set(tokens), source=path)


def write(lm: LM, path: Path, dtype: str | None = None) -> dict[str, Path]:
    """Write a checkpoint for nanoGPT's sample.py and train.py (``init_from="resume"``).

    A character-level tokenizer is written to a meta.pkl in the same folder; other models use nanoGPT's GPT-2 tokens.

    Raises:
        UsageError: the family is not gpt2, the head is not tied, or the width of the MLP is not 4 n_embd.
    """
    del dtype
    config = lm.config
    unsupported = _unsupported(config)
    if unsupported is not None:
        raise UsageError(f"nanoGPT does not support {unsupported}", where=lm.source, fix="Choose another format.")
    if config.choice("mlp") == "gelu_tanh":
        progress.notice("nanoGPT uses the exact GELU, this model the tanh approximation: logits will differ slightly")
    weights = {
        name: (tensor.t() if name.endswith(_CONV1D) else tensor).detach().float().cpu().contiguous()
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
    # The keys that train.py reads to resume; it starts with a new optimizer state.
    checkpoint = {"model": weights, "model_args": args, "iter_num": 0, "best_val_loss": float("inf"), "config": args}
    with path.open("wb") as file:
        torch.save(checkpoint, file)
    return {"checkpoint": path} | _write_meta(lm.tokenizer, path.with_name(META))


def _unsupported(config: ModelConfig) -> str | None:
    if config.family != "gpt2":
        return f"the family {config.family}, only gpt2"
    if not config.tied:
        return "a head that is not tied to the embeddings"
    if config.eps != _NORM_EPS:
        return f"layer norms with an epsilon of {config.eps:g}, only {_NORM_EPS:g}"
    return None if config.ffn_dim == 4 * config.n_embd else f"an MLP of width {config.ffn_dim}, only 4 n_embd"


def _write_meta(tokenizer: Tokenizer | None, path: Path) -> dict[str, Path]:
    if tokenizer is None:
        return {}
    if tokenizer.chat_template is not None:
        progress.notice("nanoGPT has no place for a chat template: keep the model's tokenizer_config.json")
    if tokenizer.kind != "char":
        progress.notice(
            f"nanoGPT has no file for a tokenizer of {tokenizer.vocab_size:,} tokens: keep its tokenizer.json"
        )
        return {}
    if not tokenizer.has_unknown:
        progress.notice(
            "nanoGPT does not spell characters in bytes: it fails on those that have no token, and shows byte tokens "
            "as <0xE4>"
        )
    itos = dict(enumerate(tokenizer.tokens()))
    meta = {"vocab_size": len(itos), "itos": itos, "stoi": {token: i for i, token in itos.items()}}
    path.write_bytes(pickle.dumps(meta, protocol=4))
    return {"characters": path}


EXPORTER = Exporter(title="nanoGPT", write=write, name_in_folder=_CHECKPOINT)
IMPORTER = Importer(title="nanoGPT", recognizes=recognizes, read=read)
