"""A model directory as transformers has it: found by name, read, written."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from firstlight.errors import CheckpointError, MissingExtra, UsageError, nearest
from firstlight.files import MANIFEST, storage_errors, verify_manifest, write_atomic
from firstlight.model import ModelConfig, from_transformers, import_state, n_parameters, to_transformers
from firstlight.tokenizer import Tokenizer

CARD = "README.md"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def locate(name: str | Path) -> Path:
    """Return the model directory that ``name`` means.

    A run means its best checkpoint, else its latest; a checkpoint or Hugging Face directory means itself;
    ``owner/name`` that is no folder is fetched from the hub.

    Raises:
        UsageError: it means none of these.
        CheckpointError: a run without a whole checkpoint.
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    if (path / "checkpoints").is_dir() or (path / "run.toml").is_file():
        return _checkpoint_of(path)
    if path.exists():
        raise UsageError(
            "is no model", where=path, expected="a run, a checkpoint, or a folder with config.json and model.safetensors"
        )
    if _HUB_NAME.fullmatch(str(name)) and not path.parent.is_dir():
        return _from_hub(str(name))
    beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(str(path), beside)
    raise UsageError(
        "no such run or model", where=name,
        fix=f"Did you mean {near}?" if near else "Train one: firstlight pretrain CORPUS --out RUN",
    )  # fmt: skip


def _checkpoint_of(run: Path) -> Path:
    folder = run / "checkpoints"
    for pointer in ("best", "latest"):
        file = run / pointer
        named = folder / file.read_text(encoding="utf-8").strip() if file.is_file() else None
        if named is not None and (named / MANIFEST).is_file():
            return named
    whole = sorted(p for p in folder.glob("step-*") if (p / MANIFEST).is_file())
    if not whole:
        raise CheckpointError(
            "has no checkpoint yet", where=run, fix=f"Go on with it: firstlight pretrain {run} --resume"
        )
    return whole[-1]


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtra(f"the model {name} of the hub", "hub") from error
    wanted = ["config.json", "*.safetensors", _INDEX, "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot be fetched from the hub: {error}", where=name, fix="Check the name and the connection."
        ) from error


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the model's shape, and config.json as it stands.

    Raises:
        CheckpointError: missing, unreadable, or of a family that is not supported.
    """
    path = folder / "config.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError("missing", where=path) from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"is unreadable: {error}", where=path) from error
    if not isinstance(table, dict):
        raise CheckpointError("holds no table", where=path)
    return from_transformers(table, where=path), table


def read_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights in our names, in fp32.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not fit ``config``.
    """
    if (folder / MANIFEST).is_file():
        problems = verify_manifest(folder, contents=False)
        if problems:
            raise CheckpointError(problems[0], fix="Take another checkpoint of the run, or train it again.")
    state = {name: tensor.float() for file in _weight_files(folder) for name, tensor in _tensors(file)}
    return import_state(config, state)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / _INDEX
    if not index.is_file():
        raise CheckpointError("holds no weights", where=folder, expected=f"{_WEIGHTS} or {_INDEX}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError("is no index of weights", where=index) from error
    for name in names:
        # A name with a path in it could read any file of this machine.
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError("names a file that is not beside it", where=index, found=name)
    return [folder / name for name in names]


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - a safetensors file is no dict
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=file) from error


def write(
    folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer | None, facts: Mapping[str, Any]
) -> None:
    """Write a directory that transformers loads without conversion.

    Args:
        folder: made where it is missing.
        config: complete.
        weights: in transformers' names.
        tokenizer: written beside, or None for sequences that are no text.
        facts: what the model card says, by name.
    """
    eot_id = None if tokenizer is None else tokenizer.eot_id
    table = to_transformers(config, eot_id=eot_id)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
        save_file(held, folder / _WEIGHTS, metadata={"format": "pt"})
    write_atomic(folder / "config.json", json.dumps(table, indent=1) + "\n")
    generation = {"bos_token_id": eot_id, "eos_token_id": eot_id, "max_length": config.block_size}
    write_atomic(folder / "generation_config.json", json.dumps(generation, indent=1) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder, model_max_length=config.block_size)
    write_atomic(folder / CARD, _card(config, table, tokenizer, facts))


def _card(config: ModelConfig, table: Mapping[str, Any], tokenizer: Tokenizer | None, facts: Mapping[str, Any]) -> str:
    count = n_parameters(config)
    rows = {
        "family": f"{config.family} ({table['architectures'][0]})",
        "parameters": f"{count.total:,} ({count.embedding:,} of them embeddings and head)",
        "shape": f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, block size {config.block_size}",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        **{str(name): str(value) for name, value in facts.items()},
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [firstlight]
---
# A GPT trained with Firstlight

| what | value |
|---|---|
{lines}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```

It writes what is likely after what it was trained on, which may be wrong, biased, or copied from that text.
"""


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Put parameters into ``dtype``; buffers, such as the angles of positions, stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
