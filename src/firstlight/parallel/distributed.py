"""Data-parallel training in several processes, as torchrun starts them: gloo on CPUs, NCCL on GPUs.

With one process every function here does nothing.
"""

import contextlib
import datetime
import gc
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from firstlight.errors import Interrupted, TrainingError, UsageError
from firstlight.parallel.device import DeviceContext
from firstlight.parallel.launcher import watch_launcher
from firstlight.signals import is_training, raise_on_signal

# The other processes wait at a barrier while the first one prepares the data.
_TIMEOUT = datetime.timedelta(hours=12)
# Messages of gloo and of the store that the processes meet at, when the process at the other end has ended.
_PEER = re.compile(r"gloo|Connection (closed|reset|refused)|Broken pipe|TCPStore|recvValue|sendBytes", re.IGNORECASE)


def init_distributed(device_context: DeviceContext) -> None:
    """Initialize the process group; the process ends with its launcher.

    Raises:
        UsageError: the environment has WORLD_SIZE, but not the other variables of a launcher.
    """
    if device_context.world_size > 1 and not dist.is_initialized():
        _check_launcher(device_context)
        watch_launcher()
        device_id = device_context.device if device_context.device.type == "cuda" else None
        dist.init_process_group(device_context.backend, timeout=_TIMEOUT, device_id=device_id)


def _check_launcher(device_context: DeviceContext) -> None:
    """Check the variables of torchrun; job schedulers and containers set some of them for other programs."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE={device_context.world_size} is set in the environment, but {', '.join(missing)} not",
            expected="all variables of a launcher, or none",
            fix="Start several processes with torchrun; for one process: unset WORLD_SIZE",
        )
    if device_context.rank >= device_context.world_size:
        raise UsageError(
            "RANK is out of range",
            found=device_context.rank,
            expected=f"below WORLD_SIZE={device_context.world_size}",
            fix="Start several processes with torchrun.",
        )


def destroy_distributed(device_context: DeviceContext) -> None:
    """Destroy the process group, and wait until gloo's threads have ended.

    Such a thread frees the tensors of the last collective whenever it is scheduled next. If that is after the
    interpreter's end, it aborts the process, and a run that is finished and saved exits with a failure.
    """
    if device_context.world_size > 1 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # of which another process has ended already
            dist.destroy_process_group()
        gc.collect()  # the DDP module is in reference cycles and holds the group, which waits for its threads
        time.sleep(0.1)  # something may still hold it, such as the traceback of an error


@contextlib.contextmanager
def peer_errors(device_context: DeviceContext) -> Iterator[None]:
    """Convert the error of a collective operation whose other process has ended into one that says so.

    Raises:
        TrainingError: another process of the run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if device_context.world_size == 1 or not (isinstance(error, dist.DistError) or _PEER.search(str(error))):
            raise
        raise TrainingError(
            "another process of this run has ended, so this one ends too",
            where=f"process {device_context.rank} of {device_context.world_size}",
            fix="Look at the messages of the other processes, and continue with --resume.",
        ) from error


def is_main_process(device_context: DeviceContext) -> bool:
    """Whether this is the process that writes files."""
    return device_context.rank == 0


def is_first_rank() -> bool:
    """Whether this process is rank 0 of its process group, or has none."""
    return not dist.is_initialized() or bool(dist.get_rank() == 0)


def wrap_ddp(module: nn.Module, device_context: DeviceContext, *, find_unused_parameters: bool = False) -> nn.Module:
    """Wrap a module in DistributedDataParallel, which averages gradients over processes.

    Args:
        module: the loss module.
        device_context: device and processes.
        find_unused_parameters: whether parameters may have no gradient in some steps.
    """
    if device_context.world_size == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device_context.device.index] if device_context.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused_parameters,
    )


def no_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which gradients are not averaged, because another micro-batch follows."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def all_reduce_sum(tensor: Tensor, device_context: DeviceContext) -> Tensor:
    """Return the sum of a tensor over processes."""
    if device_context.world_size == 1:
        return tensor
    total = tensor.detach().clone().to(device_context.device)
    dist.all_reduce(total)
    return total


def all_gather(value: Any, device_context: DeviceContext) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if device_context.world_size == 1:
        return [value]
    values: list[Any] = [None] * device_context.world_size
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any, device_context: DeviceContext) -> Any:
    """Return the value of rank 0 in every process."""
    if device_context.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=device_context.device)
    return values[0]


def barrier(device_context: DeviceContext) -> None:
    """Wait for the other processes."""
    if device_context.world_size > 1:
        dist.barrier()


@contextlib.contextmanager
def interruptible(device_context: DeviceContext) -> Iterator[None]:
    """Return a context for this process's part of an evaluation, which a signal may cut short during training.

    Every process enters it. It may contain no collective operation.

    Raises:
        Interrupted: in every process, if a signal cut the part of one of them.
    """
    cut = None
    try:
        with raise_on_signal():
            yield
    except Interrupted as error:
        cut = error
    is_cut = torch.tensor(float(cut is not None))
    if is_training() and not all_reduce_sum(is_cut, device_context).item():
        return
    if cut is not None or is_training():
        raise cut or Interrupted("SIGTERM")


def seed_everything(seed: int) -> None:
    """Seed torch's generators, which dropout draws from."""
    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """Return the states of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: dict[str, Tensor]) -> None:
    """Set the states of torch's generators."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
