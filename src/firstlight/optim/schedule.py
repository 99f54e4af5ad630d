"""Schedules: the share of the learning rate at a step."""

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from firstlight.config import Settings
from firstlight.errors import ConfigError


class Schedule(Settings):
    """How the learning rate runs."""

    name: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "wsd", description="wsd: warm up, stay, decay linearly"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="the same as a share of all steps; the longer one counts")
    decay_ratio: float = Field(0.4, gt=0, le=1, description="share of the steps after warm-up in which wsd decays")
    min_ratio: float = Field(0.0, ge=0, le=1, description="share of the learning rate at the end")


def _constant(share: float, schedule: Schedule) -> float:
    del share, schedule
    return 1.0


def _linear(share: float, schedule: Schedule) -> float:
    return 1 - (1 - schedule.min_ratio) * share


def _cosine(share: float, schedule: Schedule) -> float:
    return schedule.min_ratio + (1 - schedule.min_ratio) * (1 + math.cos(math.pi * share)) / 2


def _wsd(share: float, schedule: Schedule) -> float:
    left = (1 - share) / schedule.decay_ratio
    return schedule.min_ratio + (1 - schedule.min_ratio) * min(1.0, left)


SCHEDULES: dict[str, Callable[[float, Schedule], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "wsd": _wsd,
}


def factor(step: int, total: int | None, schedule: Schedule) -> float:
    """Return what the learning rate is multiplied by in the step after ``step`` done ones.

    Args:
        step: steps done.
        total: steps in all; None where only convergence ends the run: constant after warm-up, also
            for wsd, whose decay then never begins.
        schedule: its settings.

    Raises:
        ConfigError: decay or warm-up is a share of a number of steps that is not known.
    """
    warmup = max(schedule.warmup_steps, round(schedule.warmup_ratio * (total or 0)))
    rise = min(1.0, (step + 1) / (warmup + 1))
    if total is None:
        if schedule.name in ("linear", "cosine"):
            raise ConfigError(
                "needs a number of steps",
                where="optim.schedule.name",
                found=schedule.name,
                fix="Set train.steps (or tokens, epochs, minutes), or take the schedule wsd or constant.",
            )
        if schedule.warmup_ratio:
            raise ConfigError(
                "is a share of a number of steps that is not known",
                where="optim.schedule.warmup_ratio",
                found=schedule.warmup_ratio,
                fix="Set optim.schedule.warmup_steps instead, or train.steps.",
            )
        return rise
    share = min(1.0, max(0.0, (step - warmup) / max(1, total - warmup)))
    return rise * SCHEDULES[schedule.name](share, schedule)
