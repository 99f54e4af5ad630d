"""One optimiser step, on one page.

The loss is summed over tokens and divided once by the number of tokens of the whole step, over all
micro-batches and processes: however a step is cut, its gradient is the same.
"""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight import optim, parallel
from firstlight.optim import OptimSettings
from firstlight.train.state import TrainState
from firstlight.types import Batch


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found: mean loss in nats a target, gradient norm before clipping, targets, and whether it was applied."""

    loss: float
    grad_norm: float
    targets: int
    applied: bool


def train_step(
    state: TrainState, module: nn.Module, batch: Batch, factor: float, settings: OptimSettings, place: parallel.Place
) -> Outcome:
    """Update the weights by one batch: this process's rows of it.

    Args:
        state: what changes; ``counters.micro_rows`` says in what pieces.
        module: the loss module, wrapped for this place.
        batch: this process's rows, on the CPU.
        factor: the schedule's share of the learning rate.
        settings: clipping.
        place: device, precision, processes.
    """
    rows = batch.inputs.shape[0]
    micro = state.counters.micro_rows or rows
    own = float(batch.targets.numel()) if batch.weights is None else float(batch.weights.sum())
    total = parallel.all_sum(torch.tensor(own, dtype=torch.float64), place).item()
    # DDP averages gradients over processes; the loss here is divided by the tokens of all of them.
    scale = place.world_size / max(total, 1.0)
    loss_sum = torch.zeros((), dtype=torch.float64, device=place.device)
    for first in range(0, rows, micro):
        piece = _to_device(batch, slice(first, first + micro), place.device)
        last = first + micro >= rows
        with contextlib.nullcontext() if last else parallel.no_sync(module), parallel.autocast(place):
            piece_sum, _ = module(piece.inputs, piece.targets, piece.weights, piece.starts)
        with contextlib.nullcontext() if last else parallel.no_sync(module):
            loss = piece_sum * scale
            (state.scaler.scale(loss) if state.scaler is not None else loss).backward()  # type: ignore[no-untyped-call]
        loss_sum += piece_sum.detach().double()
    loss_mean = (parallel.all_sum(loss_sum, place) / max(total, 1.0)).item()
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    grad_norm = float(optim.clip(state.model.parameters(), settings))
    applied = math.isfinite(loss_mean) and math.isfinite(grad_norm) and total > 0
    optim.set_lr(state.optimizer, factor)
    if applied and state.scaler is not None:
        state.scaler.step(state.optimizer)
    elif applied:
        state.optimizer.step()
    if state.scaler is not None:
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if applied and state.average is not None:
        state.average.update()
    return Outcome(loss_mean, grad_norm, round(total), applied)


def _to_device(batch: Batch, rows: slice, device: torch.device) -> Batch:
    def move(tensor: Tensor) -> Tensor:
        return tensor[rows].to(device, non_blocking=True)

    return Batch(
        move(batch.inputs),
        move(batch.targets),
        None if batch.weights is None else move(batch.weights),
        None if batch.starts is None else move(batch.starts),
    )
