"""Several processes: started by torchrun, joined by gloo on CPUs and NCCL on GPUs. One process needs none of it."""

import datetime
import gc
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from firstlight.parallel.device import DeviceContext

# Others wait at a barrier while the first process prepares the data.
_PATIENCE = datetime.timedelta(hours=12)


def start(device_context: DeviceContext) -> None:
    """Join the other processes, if there are any."""
    if device_context.world_size > 1 and not dist.is_initialized():
        own = device_context.device if device_context.device.type == "cuda" else None
        dist.init_process_group(device_context.backend, timeout=_PATIENCE, device_id=own)


def stop(device_context: DeviceContext) -> None:
    """Leave the other processes, with gloo's threads ended too.

    Such a thread lets go of the last exchange's tensors whenever it is scheduled next. Where that is after
    the interpreter's end, it aborts the process, and a run that is finished and saved exits with a failure.
    """
    if device_context.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # the wrapped module lies in reference cycles and holds the group, which waits for its threads
        time.sleep(0.1)  # where something holds it still, as the traceback of an error does


def is_main(device_context: DeviceContext) -> bool:
    """Tell the process that writes files."""
    return device_context.rank == 0


def wrap(module: nn.Module, device_context: DeviceContext, *, idle: bool = False) -> nn.Module:
    """Let gradients be averaged over processes; ``idle`` where parameters may have none for some steps."""
    if device_context.world_size == 1:
        return module
    ids = [device_context.device.index] if device_context.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True, find_unused_parameters=idle)


def no_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """Leave gradients unaveraged while the context is open: another micro-batch follows."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def all_sum(tensor: Tensor, device_context: DeviceContext) -> Tensor:
    """Return the sum of a tensor over processes."""
    if device_context.world_size == 1:
        return tensor
    total = tensor.detach().clone().to(device_context.device)
    dist.all_reduce(total)
    return total


def gather(value: Any, device_context: DeviceContext) -> list[Any]:
    """Return every process's value, in the order of their ranks."""
    if device_context.world_size == 1:
        return [value]
    values: list[Any] = [None] * device_context.world_size
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any, device_context: DeviceContext) -> Any:
    """Return the main process's value in every process."""
    if device_context.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=device_context.device)
    return values[0]


def barrier(device_context: DeviceContext) -> None:
    """Wait for the other processes."""
    if device_context.world_size > 1:
        dist.barrier()


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
    """Put torch's generators into earlier states."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
