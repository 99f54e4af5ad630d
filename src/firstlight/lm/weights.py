"""Reading the weights of a model directory: in one file, or in several with an index."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.errors import CheckpointError
from firstlight.files import read_json_object
from firstlight.lm.save import WEIGHTS
from firstlight.model import HEADS_FILE, ModelConfig, from_hf_state_dict, is_known_buffer, match_tied_head

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_weights(folder: Path, config: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read the weights under our names, in fp32, and the config with its head tied or not as the weights are.

    Raises:
        CheckpointError: a file is missing or damaged, its tensors do not match ``config``, or are not finite.
    """
    state = read_state_dict(folder, WEIGHTS, _safetensors)
    heads = folder / HEADS_FILE
    if (folder / WEIGHTS).is_file() and heads.is_file():
        state |= merge_shards([heads], _safetensors)
    config, matched = match_tied_head(config, state, folder)
    try:
        return config, from_hf_state_dict(config, matched)
    except CheckpointError as error:
        where = folder if error.where is None else f"{folder}: {error.where}"
        raise CheckpointError(
            error.problem, where=where, found=error.found, expected=error.expected, fix=error.fix
        ) from error


def read_state_dict(folder: Path, name: str, read: Callable[[Path], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
    """Read the weights in a file, or else in the files of its index, in fp32 and under their names there.

    Known buffers (``firstlight.model.is_known_buffer``) are left out.

    Args:
        folder: of the model.
        name: of the file; its index is NAME.index.json.
        read: yields the tensors of a file, with their names.

    Raises:
        CheckpointError: a file is missing or damaged, or does not match the index; or a tensor is not of floats, or not
            finite; names the tensor.
    """
    if (folder / name).is_file():
        return _without_buffers(merge_shards([folder / name], read))
    index = folder / f"{name}.index.json"
    try:
        weight_map = read_json_object(index, CheckpointError)["weight_map"]
        files = sorted(set(weight_map.values()))
        # A name with a path in it could read any file of this machine.
        bad = next((n for n in files if Path(n).name != n or not (folder / n).is_file()), None)
    except FileNotFoundError as error:
        raise CheckpointError("contains no weights", where=folder, expected=f"{name} or {index.name}") from error
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError("not an index of weights", where=index) from error
    if bad is not None:
        raise CheckpointError("names a file that is not in the same folder", where=index, found=bad)
    state = merge_shards([folder / file for file in files], read)
    absent = next((tensor for tensor in weight_map if tensor not in state), None)
    if absent is not None:
        raise CheckpointError(
            "lists a weight that its file does not have", where=index, found=absent, expected=weight_map[absent]
        )
    return _without_buffers(state)


def merge_shards(files: Iterable[Path], read: Callable[[Path], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
    """Read the weights of several files into one dictionary, in fp32; known buffers as they are.

    Args:
        files: of the weights.
        read: yields the tensors of a file, with their names.

    Raises:
        CheckpointError: a tensor is not of floats, is not finite, or is in two files with different values.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read(file):
            where = f"{file}: {name}"
            value = tensor if is_known_buffer(name, tensor) else finite_fp32(where, tensor)
            if name in state and not torch.equal(state[name], value):
                raise CheckpointError("is in two files, with different values", where=where)
            state[name] = value
    return state


def _without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not is_known_buffer(name, tensor)}


def finite_fp32(where: str, tensor: Tensor) -> Tensor:
    """Convert a weight to fp32, and check that it is finite.

    Raises:
        CheckpointError: it is not of floats, or of those of 8 bits, which are nothing without their scales; or it
            contains NaN or infinity.
    """
    if tensor.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            "is not a weight of a supported type",
            where=where,
            found=_dtype_name(tensor.dtype),
            expected=", ".join(map(_dtype_name, FLOAT_DTYPES)),
        )
    tensor = tensor.to(torch.float32)
    # A sum is finite unless a value is not, or it overflows; it reads the tensor once and allocates nothing.
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        n_nan, n_infinite = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
        raise CheckpointError(
            "contains values that are not finite",
            where=where,
            found=f"{n_nan:,} NaN and {n_infinite:,} infinite of {tensor.numel():,}",
        )
    return tensor


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _safetensors(file: Path) -> Iterable[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"unreadable: {error}", where=file) from error
