"""Judge each step's loss: fine, not finite, or part of a spike.

The bound of a spike is robust: the median of recent losses plus a number of deviations, where one
deviation is 1.4826 times the median absolute deviation (the standard deviation, for a normal
distribution), and at least 1 % of the median so that a flat curve does not make everything a spike.
"""

import math
import statistics
from enum import Enum

from firstlight.train.settings import SpikeGuardSettings
from firstlight.train.state import Counters

_LEAST = 20  # losses needed before a bound means something


class Verdict(Enum):
    """What is to be done after a step."""

    GO_ON = "go on"
    SKIPPED = "skipped"
    ROLL_BACK = "roll back"
    FAIL = "fail"


def spike_bound(losses: list[float], sigma: float) -> float:
    """Return the loss above which a step is a spike; infinite while too few losses are known."""
    if sigma == 0 or len(losses) < _LEAST:
        return math.inf
    median = statistics.median(losses)
    deviation = 1.4826 * statistics.median(abs(x - median) for x in losses)
    return median + sigma * max(deviation, 0.01 * abs(median))


def judge(counters: Counters, position: int, loss: float, applied: bool, settings: SpikeGuardSettings) -> Verdict:
    """Note in ``counters`` the loss of the step whose first row is ``position``, and say what is to be done."""
    if not applied:
        counters.nonfinite_steps += 1
        return Verdict.FAIL if counters.nonfinite_steps > settings.max_skipped_steps else Verdict.SKIPPED
    counters.nonfinite_steps = 0
    if loss > spike_bound(counters.losses, settings.spike_sigma):
        if counters.spike_steps == 0:
            counters.spike_position = position
        counters.spike_steps += 1
        if counters.spike_steps < settings.spike_steps:
            return Verdict.GO_ON
        return Verdict.FAIL if counters.rollbacks >= settings.max_rollbacks else Verdict.ROLL_BACK
    counters.spike_steps = 0
    counters.losses.append(loss)
    del counters.losses[: -settings.spike_window]
    return Verdict.GO_ON
