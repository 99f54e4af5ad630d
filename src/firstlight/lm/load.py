"""A model directory as transformers has it: found by name, read, built."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight import progress
from firstlight import tokenizer as tokenizers
from firstlight.errors import CheckpointError, MissingExtra, TokenizerError, UsageError, nearest
from firstlight.files import MANIFEST, sha256, verify_manifest
from firstlight.lm.save import CONFIG, GENERATION, WEIGHTS
from firstlight.model import GPT, HEADS_FILE, ModelConfig, from_hf_state_dict, skip_init
from firstlight.tokenizer import CODECS, Tokenizer

if TYPE_CHECKING:
    from firstlight.tokenizer import Codec

_INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = [
    CONFIG,
    GENERATION,
    "*.safetensors",
    _INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    *CODECS,
]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def locate(name: str | Path) -> Path:
    """Return the model directory that ``name`` means.

    A run means its best checkpoint, else its latest, else its newest whole one; a checkpoint or Hugging Face
    directory means itself; ``owner/name`` that is no folder is fetched from the hub.

    Raises:
        UsageError: it means none of these.
        CheckpointError: a run without a whole checkpoint, or the hub gives nothing.
        MissingExtra: it may be a hub name, and the library for that is not installed.
    """
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # a user that is not there
        path = path.expanduser()
    if (path / CONFIG).is_file():
        return path
    if (path / "checkpoints").is_dir() or (path / "run.toml").is_file():
        return _checkpoint_of(path)
    if path.exists():
        raise UsageError(
            "is no model",
            where=path,
            expected="a run, a checkpoint, or a folder with config.json and model.safetensors",
        )
    if _HUB_NAME.fullmatch(str(name)) and not path.parent.is_dir():
        return download_from_hub(str(name))
    near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
    raise UsageError(
        "no such run or model",
        where=name,
        fix=f"Did you mean {path.parent / near}?" if near else "Train one: firstlight pretrain CORPUS --out RUN",
    )


def _checkpoint_of(run: Path) -> Path:
    folder = run / "checkpoints"
    pointers = [file for name in ("best", "latest") if (file := run / name).is_file()]
    named = [folder / name for file in pointers if (name := file.read_text("utf-8", "replace").strip())]
    steps = [p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    newest = sorted(steps, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)
    for checkpoint in dict.fromkeys([*named, *newest]):
        problems = _problems(checkpoint)
        if not problems:
            return checkpoint
        progress.warn(f"{problems[0]}: another checkpoint of the run is taken")
    raise CheckpointError(
        "has no whole checkpoint", where=run, fix=f"Go on with it: firstlight pretrain {run / 'run.toml'} --resume"
    )


def _problems(folder: Path) -> list[str]:
    """Return what is wrong with a checkpoint by names and sizes; its training state may have been taken away."""
    trainer = str(folder / "trainer")
    return [problem for problem in verify_manifest(folder, contents=False) if not problem.startswith(trainer)]


def download_from_hub(name: str, also: Sequence[str] = ()) -> Path:
    """Fetch a model from the hub, as far as it is not here already.

    Args:
        name: ``owner/name``.
        also: patterns of further files.

    Raises:
        CheckpointError: the hub gives nothing.
        MissingExtra: the library for that is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra(f"{name} is no folder here, and a model of that name on the hub", "hub") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, *also]))
    except (OSError, ValueError) as error:  # the library's own errors are of these kinds
        raise CheckpointError(
            f"is no folder here, and cannot be fetched from the hub: {error}",
            where=name,
            fix="Check the name and the connection.",
        ) from error


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the model's shape, and config.json as it stands.

    Raises:
        CheckpointError: missing, unreadable, or of a family that is not supported.
    """
    path = folder / CONFIG
    table = _read_json(path)
    if table is None:
        raise CheckpointError("missing", where=path)
    if table.get("quantization_config") is not None:
        raise CheckpointError(
            "is of a quantised model, which is not read", where=path, fix="Take the unquantised model."
        )
    from firstlight.model import from_hf_config  # a run that begins anew reads no model

    try:
        return from_hf_config(table, where=path), table
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"describes no model: {key + ': ' if key else ''}{reason}", where=path) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"describes no model: {error}", where=path) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the table in a file, or None where there is none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"is unreadable: {error}", where=path) from error
    if not isinstance(table, dict):
        raise CheckpointError("holds no table", where=path)
    return table


def read_eos_ids(folder: Path, config: Mapping[str, Any]) -> set[int]:
    """Return the tokens at which transformers ends a text of this model."""
    value = (_read_json(folder / GENERATION) or {}).get("eos_token_id")
    value = config.get("eos_token_id") if value is None else value
    return {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer beside a model, or None where there is none.

    Raises:
        TokenizerError: it is damaged.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "merges.txt", "tokenizer.model")):
        return None
    try:
        return tokenizers.load(folder)
    except TokenizerError:
        # One without an end-of-text token is given one; another problem is raised again.
        return tokenizers.import_tokenizer(folder)


def read_codec(folder: Path, config: ModelConfig) -> "Codec | None":
    """Return what the ids mean of a model of sequences that are no text, or None where no file says it.

    Raises:
        TokenizerError: the file is damaged.
        CheckpointError: the model is another one's.
    """
    codec = tokenizers.read_codec(folder) if any((folder / name).is_file() for name in CODECS) else None
    if codec is not None and (
        codec.vocab_size != config.vocab_size or config.block_size < (codec.sequence_length or 1) - 1
    ):
        raise CheckpointError(
            "does not fit the model beside it",
            where=folder / codec.FILE,
            found=f"{codec.vocab_size} ids, the model {config.vocab_size}",
        )
    return codec


def read_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights in our names, in fp32; a checkpoint of a run is compared with its manifest, byte for byte.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not fit ``config``.
    """
    files = _weight_files(folder)
    if (folder / MANIFEST).is_file():
        problems = _problems(folder) or _differing([folder / CONFIG, *files])
        if problems:
            raise CheckpointError(problems[0], fix="Take another checkpoint of the run, or train it again.")
    state = {name: tensor for file in files for name, tensor in _tensors(file)}
    try:
        return from_hf_state_dict(config, state)
    except CheckpointError as error:
        raise CheckpointError(
            error.problem, where=f"{folder}: {error.where}", found=error.found, expected=error.expected
        ) from error


def build_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Build a model around weights, which it takes as they are, without a copy."""
    with skip_init():
        model = GPT(config)
        for name, tensor in weights.items():
            if name.startswith("heads."):
                model.add_head(name.removeprefix("heads.").removesuffix(".weight"), len(tensor))
    model.load_state_dict(weights, assign=True)
    return model


def _differing(files: list[Path]) -> list[str]:
    listed = json.loads((files[0].parent / MANIFEST).read_text(encoding="utf-8"))["files"]
    return [
        f"{file}: bytes differ from the manifest's SHA-256"
        for file in files
        if file.name in listed and listed[file.name]["sha256"] != sha256(file)
    ]


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS, *([folder / HEADS_FILE] if (folder / HEADS_FILE).is_file() else [])]
    index = folder / _INDEX
    table = _read_json(index)
    if table is None:
        raise CheckpointError("holds no weights", where=folder, expected=f"{WEIGHTS} or {_INDEX}")
    try:
        names = sorted(set(table["weight_map"].values()))
        # A name with a path in it could read any file of this machine.
        bad = next((n for n in names if Path(n).name != n or not (folder / n).is_file()), None)
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError("is no index of weights", where=index) from error
    if bad is not None:
        raise CheckpointError("names a file that is not beside it", where=index, found=bad)
    return [folder / name for name in names]


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - a safetensors file is no dict
                tensor = opened.get_tensor(name)
                # Masks that old checkpoints carry along are no weights.
                if tensor.dtype in _FLOATS:
                    yield name, tensor.float()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=file) from error


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Put parameters into ``dtype``; buffers, such as the angles of positions, stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
