"""Finding and reading model directories: runs, checkpoints, Hugging Face directories and hub names."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic
import torch
from torch import Tensor

from firstlight import progress
from firstlight import tokenizer as tokenizers
from firstlight.errors import CheckpointError, MissingExtra, TokenizerError, UsageError, nearest
from firstlight.files import MANIFEST, changed_files, read_json_object, run_layout, verify_manifest
from firstlight.files.run_names import SEARCH, SEEDS, list_checkpoints, parse_run_path
from firstlight.lm.card import CARD, without_card
from firstlight.lm.generation_config import GENERATION
from firstlight.lm.save import CONFIG, WEIGHTS
from firstlight.model import (
    GPT,
    ModelConfig,
    Part,
    from_hf_config,
    skip_init,
)
from firstlight.shell import command_line, unused_path
from firstlight.tokenizer import CODECS, TOKENIZER_FILES, Codec, Tokenizer

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Models that once had no owner on the hub, and are called by their old names.
_HUB_NAMES = {
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "openai-gpt")},
    "distilgpt2": "distilbert/distilgpt2",
}
_IMPORTED = (".gguf", ".h5", ".keras", ".pt", ".pth", ".ckpt")
_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".xz", ".bz2", ".zst", ".7z", ".rar")
_FILES = (*_IMPORTED, ".bin", ".safetensors", ".toml", ".json", ".onnx", ".txt", ".index")
_TRAIN_ADVICE = {
    "quickstart": lambda: f"Train one, such as: {command_line('quickstart')}",
    "finetune": lambda: f"Fine-tune one first. How: {command_line('finetune', '--help')}",
}
_HUB_FILES = [
    CONFIG,
    GENERATION,
    "*.safetensors",
    f"{WEIGHTS}.index.json",
    *TOKENIZER_FILES,
    *CODECS,
]


def is_hub_name(name: str | Path) -> bool:
    """Whether a name has the form of one on the hub, ``owner/name``; a path of this form may be one, too."""
    return _HUB_NAME.fullmatch(str(name)) is not None


def locate(name: str | Path, *, command: str = "quickstart") -> Path:
    """Find the model directory that ``name`` refers to.

    A run refers to its best checkpoint, else its latest, else its newest intact one; ``RUN@STEP``, a checkpoint or a
    Hugging Face directory, or a file in them, to that model; ``owner/name`` that is not a folder is downloaded from the
    hub.

    Args:
        name: of the model.
        command: that makes such a model, for the advice where there is none.

    Raises:
        UsageError: it is none of these.
        CheckpointError: a run without an intact checkpoint, or the download fails.
        MissingExtra: it may be a hub name, and the library for that is not installed.
    """
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # an unknown user
        path = path.expanduser()
    if (path / CONFIG).is_file():
        return path
    found = parse_run_path(path)
    if found.checkpoint is not None:
        if problems := _problems(found.checkpoint):
            raise CheckpointError(problems[0], fix="Use another checkpoint of the run.")
        return found.checkpoint
    if found.run is not None or (path / "run.toml").is_file():
        return _checkpoint_of(found.run or path)
    if _is_model_file(path) and (path.parent / CONFIG).is_file():
        return path.parent
    if path.exists():
        fix = None
        if path.suffix.lower() in _IMPORTED:
            fix = f"Import it first: {command_line('import', path, unused_path(Path(path.stem)))}"
        elif path.suffix.lower() in _ARCHIVES:
            fix = "Extract it first, and name the folder."
        elif (path / SEARCH).is_file():
            best = read_json_object(path / SEARCH, CheckpointError).get("best")
            fix = f"It has the trials of a search, of which the best is {best}."
        elif (path / SEEDS).is_file():
            fix = f"It has a run of each seed, such as {path / 'seed-1'}."
        raise UsageError(
            "not a model",
            where=path,
            expected="a run, a checkpoint, or a folder with config.json and model.safetensors",
            fix=fix,
        )
    if is_hub_name(name) and not path.parent.is_dir():
        return download_from_hub(str(name))
    near: str | Path | None = _HUB_NAMES.get(str(name))
    if near is None and path.parent.is_dir():
        run_name, at, step = path.name.partition("@")
        found_near = nearest(run_name, [p.name for p in path.parent.iterdir()])
        near = None if found_near is None else path.parent / f"{found_near}{at}{step}"
    is_file = path.suffix.lower() in _FILES
    raise UsageError(
        "no such file" if is_file else "no such run or model",
        where=name,
        fix=f"Did you mean {near}?" if near else "Check the path." if is_file else _TRAIN_ADVICE[command](),
    )


def _is_model_file(path: Path) -> bool:
    return path.is_file() and (path.name in (CONFIG, GENERATION) or ".safetensors" in path.suffixes)


def _checkpoint_of(run: Path) -> Path:
    named = [parse_run_path(run / name).checkpoint for name in ("best", "latest")]
    checkpoints = list(dict.fromkeys([*filter(None, named), *list_checkpoints(run)]))
    if not checkpoints and not (run / run_layout.LATEST).exists():  # none was ever saved
        resume = command_line(_kind_of(run), run, "--resume")
        fix = f"Wait for the first one (train.checkpoint_every), or, if the run was killed, continue it: {resume}"
        raise CheckpointError("the run has no checkpoint yet", where=run, fix=fix)
    for checkpoint in checkpoints:
        problems = _problems(checkpoint)
        if not problems:
            return checkpoint
        progress.warn(f"{problems[0]}: using another checkpoint of the run")
    raise CheckpointError(
        "no intact checkpoint",
        where=run,
        fix=f"Put one back, or train the run again: {command_line(_kind_of(run), run, '--restart')}",
    )


def _kind_of(run: Path) -> str:
    """Return the command that made a run."""
    try:
        kind = read_json_object(run / run_layout.MARK, CheckpointError).get("kind")
    except (OSError, CheckpointError):
        kind = None
    return kind if isinstance(kind, str) else "pretrain"


def _problems(folder: Path) -> list[str]:
    """List problems of a checkpoint by names and sizes; its training state may have been deleted."""
    trainer = str(folder / "trainer")
    problems = without_card(verify_manifest(folder, contents=False), folder)
    return [problem for problem in problems if not problem.startswith(trainer)]


def download_from_hub(name: str, also: Sequence[str] = ()) -> Path:
    """Download a model from the hub, unless it is cached.

    Args:
        name: ``owner/name``.
        also: patterns of further files.

    Raises:
        CheckpointError: the download fails, or the model names Python code.
        MissingExtra: the library for that is not installed.
    """
    try:
        from huggingface_hub import snapshot_download  # optional
    except ImportError as error:
        raise MissingExtra(f"{name} is not a folder here: downloading it from the hub", "hub") from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, *also]))
    except (OSError, ValueError) as error:  # the base classes of the library's errors
        raise CheckpointError(
            f"not a folder here, and cannot be downloaded from the hub: {error}",
            where=name,
            fix="Check the name and the connection.",
        ) from error
    _refuse_code(folder / CONFIG)
    return folder


def _refuse_code(path: Path) -> None:
    """Refuse a downloaded config.json that would import ``package.module:Class`` from this machine."""
    table = _read_json(path) or {}
    for key in get_args(Part):
        value = table.get(key)
        if isinstance(value, str) and ":" in value:
            raise CheckpointError(
                "names Python code, which is not run for downloaded models",
                where=f"{path}: {key}",
                found=value,
                fix="If you trust it, load the folder by its path.",
            )


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read a model's shape, and config.json as it is.

    Raises:
        CheckpointError: missing, unreadable, or of an unsupported model type.
    """
    path = folder / CONFIG
    table = _read_json(path)
    if table is None:
        raise CheckpointError("missing", where=path)
    if table.get("quantization_config") is not None:
        raise CheckpointError(
            "quantised models are not supported", where=path, fix="Use the model before quantisation."
        )
    try:
        return from_hf_config(table, where=path), table
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"invalid configuration: {key + ': ' if key else ''}{reason}", where=path) from error
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RecursionError) as error:
        raise CheckpointError(f"invalid configuration: {error}"[:300], where=path) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read the object in a JSON file, or return None if there is no file."""
    try:
        return read_json_object(path, CheckpointError)
    except FileNotFoundError:
        return None


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer of a model directory, or return None if there is none.

    Raises:
        TokenizerError: it is damaged.
    """
    if not tokenizers.has_tokenizer(folder):
        return None
    try:
        return tokenizers.load(folder)
    except TokenizerError:
        # The import adds a missing end-of-text token; it raises any other problem again.
        return tokenizers.import_tokenizer(folder)


def load_codec(folder: Path, config: ModelConfig) -> Codec | None:
    """Read the codec of a model of sequences that are not text, or return None if there is none.

    Raises:
        TokenizerError: the file is damaged.
        CheckpointError: it does not match the model.
    """
    codec = tokenizers.load_codec(folder) if any((folder / name).is_file() for name in CODECS) else None
    if codec is not None and (
        codec.vocab_size != config.vocab_size or config.block_size < (codec.sequence_length or 1) - 1
    ):
        raise CheckpointError(
            "does not match the model in the same folder",
            where=folder / codec.FILE,
            found=f"{codec.vocab_size} ids",
            expected=f"{config.vocab_size} ids",
        )
    return codec


def check_manifest(folder: Path) -> None:
    """Check the files of a run's checkpoint against the SHA-256 of its manifest; other directories have none.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    if (folder / MANIFEST).is_file():
        names = [path.name for path in folder.iterdir() if path.is_file() and path.name != CARD]
        problems = _problems(folder) or changed_files(folder, names)
        if problems:
            raise CheckpointError(problems[0], fix="Use another checkpoint of the run, or train it again.")


def build_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Build a model that uses ``weights`` as they are, without a copy."""
    with skip_init():
        model = GPT(config)
        for name, tensor in weights.items():
            if name.startswith("heads."):
                model.add_head(name.removeprefix("heads.").removesuffix(".weight"), len(tensor))
    model.load_state_dict(weights, assign=True)
    return model


def cast_parameters(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters to ``dtype``; buffers, such as rotary angles, stay in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
