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

from firstlight.parallel.place import Place

# Others wait at a barrier while the first process prepares the data.
_PATIENCE = datetime.timedelta(hours=12)


def start(place: Place) -> None:
    """Join the other processes, if there are any."""
    if place.world_size > 1 and not dist.is_initialized():
        own = place.device if place.device.type == "cuda" else None
        dist.init_process_group(place.backend, timeout=_PATIENCE, device_id=own)


def stop(place: Place) -> None:
    """Leave the other processes, with gloo's threads ended too.

    Such a thread lets go of the last exchange's tensors whenever it is scheduled next. Where that is after
    the interpreter's end, it aborts the process, and a run that is finished and saved exits with a failure.
    """
    if place.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # the wrapped module lies in reference cycles and holds the group, which waits for its threads
        time.sleep(0.1)  # where something holds it still, as the traceback of an error does


def is_main(place: Place) -> bool:
    """Tell the process that writes files."""
    return place.rank == 0


def wrap(module: nn.Module, place: Place, *, idle: bool = False) -> nn.Module:
    """Let gradients be averaged over processes; ``idle`` where parameters may have none for some steps."""
    if place.world_size == 1:
        return module
    ids = [place.device.index] if place.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True, find_unused_parameters=idle)


def no_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """Leave gradients unaveraged while the context is open: another micro-batch follows."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def all_sum(tensor: Tensor, place: Place) -> Tensor:
    """Return the sum of a tensor over processes."""
    if place.world_size == 1:
        return tensor
    total = tensor.detach().clone().to(place.device)
    dist.all_reduce(total)
    return total


def gather(value: Any, place: Place) -> list[Any]:
    """Return every process's value, in the order of their ranks."""
    if place.world_size == 1:
        return [value]
    values: list[Any] = [None] * place.world_size
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any, place: Place) -> Any:
    """Return the main process's value in every process."""
    if place.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=place.device)
    return values[0]


def barrier(place: Place) -> None:
    """Wait for the other processes."""
    if place.world_size > 1:
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
