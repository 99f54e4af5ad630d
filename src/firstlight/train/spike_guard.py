"""Detect steps that go wrong: loss or gradient not finite, or a loss spike.

A loss is a spike above a robust bound: the median of recent losses plus a number of deviations, where one deviation is
1.4826 times the median absolute deviation (the standard deviation of a normal distribution), and at least 1 % of the
median, so that a flat curve does not make every step a spike.
"""

import math
import statistics
from enum import Enum

from firstlight.train.settings import SpikeGuardSettings
from firstlight.train.state import Counters

_MIN_LOSSES = 20  # fewer recent losses give no meaningful bound


class Action(Enum):
    """What the loop does after a step."""

    CONTINUE = "continue"
    SKIP = "skip"
    ROLL_BACK = "roll back"
    FAIL = "fail"


def spike_bound(losses: list[float], sigma: float) -> float:
    """Return the loss above which a step is a spike; infinite with too few losses."""
    if sigma == 0 or len(losses) < _MIN_LOSSES:
        return math.inf
    median = statistics.median(losses)
    deviation = 1.4826 * statistics.median(abs(x - median) for x in losses)
    return median + sigma * max(deviation, 0.01 * abs(median))


def check_step(counters: Counters, position: int, loss: float, applied: bool, settings: SpikeGuardSettings) -> Action:
    """Record the loss of a step in ``counters`` and return what to do.

    Args:
        counters: the run's.
        position: first row of the step.
        loss: of the step.
        applied: whether the weights were updated.
        settings: bounds and limits.
    """
    if not applied:
        counters.nonfinite_steps += 1
        return Action.FAIL if counters.nonfinite_steps > settings.max_skipped_steps else Action.SKIP
    counters.nonfinite_steps = 0
    if loss > spike_bound(counters.losses, settings.spike_sigma):
        if counters.spike_steps == 0:
            counters.spike_position = position
        counters.spike_steps += 1
        if counters.spike_steps < settings.spike_steps:
            return Action.CONTINUE
        return Action.FAIL if counters.rollbacks >= settings.max_rollbacks else Action.ROLL_BACK
    counters.spike_steps = 0
    counters.losses.append(loss)
    del counters.losses[: -settings.spike_window]
    return Action.CONTINUE
