"""One optimizer step.

The loss is summed over tokens and divided once by the total weight of the targets of the step, over all micro-batches
and processes: however a step is split, its gradient is the same.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from firstlight import optim, parallel
from firstlight.errors import TrainingError
from firstlight.optim import OptimizerSettings
from firstlight.train.micro_batch import is_out_of_memory
from firstlight.train.state import TrainState
from firstlight.types import BatchLike


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step.

    Attributes:
        loss: mean over targets in nats, weighted; NaN for a batch without targets.
        grad_norm: norm of the gradient before clipping.
        targets: number of targets with a weight, over all processes.
        applied: False if the update was skipped: loss or gradient not finite, or no targets.
        parts: further means over the same targets by name, such as the losses that ``loss`` is the sum of.
    """

    loss: float
    grad_norm: float
    targets: int
    applied: bool
    parts: Mapping[str, float] = field(default_factory=dict)


def train_step(
    state: TrainState,
    module: nn.Module,
    batch: BatchLike,
    lr_factor: float,
    settings: OptimizerSettings,
    device_context: parallel.DeviceContext,
) -> StepResult:
    """Update the weights with one batch.

    Args:
        state: model, optimizer and counters; ``counters.micro_batch`` is the rows of one forward pass.
        module: the loss module, compiled and wrapped in DDP. It returns the sum of the loss, the number of targets, and
            optionally further sums by name, to be logged: of one update the same on every process.
        batch: this process's rows of the batch, on the CPU.
        lr_factor: factor of the learning rate, from the schedule.
        settings: gradient clipping.
        device_context: device, precision, processes.

    Raises:
        TrainingError: out of memory during the update, so that some weights may be updated and others not.
    """
    n_rows = batch.n_rows
    micro_batch_rows = state.counters.micro_batch or n_rows
    weight, targets = parallel.all_reduce_sum(batch.count_targets(), device_context).tolist()
    # DDP averages gradients over processes; the loss is divided by the weight over all of them.
    loss_scale = device_context.world_size / weight if weight > 0 else 0.0
    loss_sums: list[Tensor] = []
    part_sums: list[Mapping[str, Tensor]] = []
    for start in range(0, n_rows, micro_batch_rows):
        micro_batch = batch.slice_rows(slice(start, start + micro_batch_rows), device_context.device)
        is_last = start + micro_batch_rows >= n_rows
        with contextlib.nullcontext() if is_last else parallel.no_sync(module):
            with parallel.autocast(device_context):
                loss_sum, _, *parts = module(*micro_batch.loss_args())
            loss = loss_sum * loss_scale
            (state.scaler.scale(loss) if state.scaler is not None else loss).backward()
        loss_sums.append(loss_sum.detach())
        part_sums += [{name: value.detach() for name, value in sums.items()} for sums in parts]
    total_loss = parallel.all_reduce_sum(torch.stack(loss_sums).cpu().double().sum(), device_context).item()
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    grad_norm = float(optim.clip_gradients(state.model.parameters(), settings))
    applied = weight > 0 and math.isfinite(total_loss) and math.isfinite(grad_norm)
    optim.scale_lr(state.optimizer, lr_factor)
    if applied:
        _optimizer_step(state)
    if state.scaler is not None:
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    means = _means(part_sums, weight, device_context)
    return StepResult(total_loss / weight if weight > 0 else math.nan, grad_norm, int(targets), applied, means)


def _means(
    part_sums: Sequence[Mapping[str, Tensor]], weight: float, device_context: parallel.DeviceContext
) -> dict[str, float]:
    """Add up the named sums of the micro-batches and processes, and divide them by the weight of the targets."""
    if not part_sums or weight <= 0:
        return {}
    names = list(part_sums[0])
    sums = torch.stack([torch.stack([parts[name].float() for name in names]) for parts in part_sums])
    totals = parallel.all_reduce_sum(sums.cpu().double().sum(0), device_context)
    return dict(zip(names, (totals / weight).tolist(), strict=True))


def _optimizer_step(state: TrainState) -> None:
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
        # Some weights may be updated already, so the step cannot be repeated in smaller micro-batches.
        raise TrainingError(
            "out of memory in the optimizer's update",
            where=f"step {state.counters.step + 1}",
            fix="Use a smaller model or train.micro_batch=1, and continue with --resume.",
        ) from error
