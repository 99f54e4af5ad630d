"""One optimiser step, on one page.

The loss is summed over tokens and divided once by the weight of the targets of the whole step, over all
micro-batches and processes: however a step is cut, its gradient is the same.
"""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import nn

from firstlight import optim, parallel
from firstlight.errors import TrainingError
from firstlight.optim import OptimizerSettings
from firstlight.train.micro_batch import is_out_of_memory
from firstlight.train.state import TrainState
from firstlight.types import BatchLike


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found.

    Attributes:
        loss: mean in nats a target, weighted; NaN for a batch without targets.
        grad_norm: of the gradient before clipping.
        targets: targets that count, over all processes.
        applied: False where the update was left out: loss or gradient not finite, or no targets.
    """

    loss: float
    grad_norm: float
    targets: int
    applied: bool


def train_step(
    state: TrainState,
    module: nn.Module,
    batch: BatchLike,
    factor: float,
    settings: OptimizerSettings,
    device_context: parallel.DeviceContext,
) -> StepResult:
    """Update the weights by one batch: this process's rows of it.

    Args:
        state: what changes; ``counters.micro_rows`` says in what pieces.
        module: the loss module, wrapped for this place.
        batch: this process's rows, on the CPU.
        factor: the schedule's share of the learning rate.
        settings: clipping.
        device_context: device, precision, processes.

    Raises:
        TrainingError: out of memory amid the update, so that the weights are no longer those of any step.
    """
    rows = batch.n_rows
    micro = state.counters.micro_batch or rows
    weight, targets = parallel.all_reduce_sum(batch.count_targets(), device_context).tolist()
    # DDP averages gradients over processes; the loss here is divided by the weight over all of them.
    scale = device_context.world_size / weight if weight > 0 else 0.0
    sums = []
    for first in range(0, rows, micro):
        piece = batch.slice_rows(slice(first, first + micro), device_context.device)
        with contextlib.nullcontext() if first + micro >= rows else parallel.no_sync(module):
            with parallel.autocast(device_context):
                piece_sum, _ = module(*piece.loss_args())
            loss = piece_sum * scale
            (state.scaler.scale(loss) if state.scaler is not None else loss).backward()
        sums.append(piece_sum.detach())
    loss_sum = parallel.all_reduce_sum(torch.stack(sums).cpu().double().sum(), device_context).item()
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    grad_norm = float(optim.clip_gradients(state.model.parameters(), settings))
    applied = weight > 0 and math.isfinite(loss_sum) and math.isfinite(grad_norm)
    optim.scale_lr(state.optimizer, factor)
    if applied:
        _update(state)
    if state.scaler is not None:
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum / weight if weight > 0 else math.nan, grad_norm, int(targets), applied)


def _update(state: TrainState) -> None:
    try:
        if state.scaler is not None:
            state.scaler.step(state.optimizer)
        else:
            state.optimizer.step()
        if state.ema is not None:
            state.ema.update()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # Some weights may be updated already, so the step cannot be taken again in smaller pieces.
        raise TrainingError(
            "out of memory in the optimiser's update",
            where=f"step {state.counters.step + 1}",
            fix="Take a smaller model, or train.micro_batch=1, and go on with --resume.",
        ) from error
