"""Learning rate schedules: the factor of the learning rate at a step.

A schedule is a function ``(progress, settings, **options) -> factor``, where progress is the fraction of the steps
after warm-up, from 0 to 1; warm-up is the same for all. It needs to know how many steps the run has, unless it is
marked ``open_ended``: then the learning rate is constant after warm-up in a run that only convergence ends.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import Field, field_validator, model_validator

from firstlight.config import Settings, load_object
from firstlight.errors import ConfigError

ScheduleFunction = Callable[..., float]


class ScheduleSettings(Settings):
    """Settings of the learning rate schedule."""

    name: str = Field(
        "wsd",
        description="constant, linear, cosine, wsd (warm up, stay constant, decay linearly) or package.module:function",
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    warmup_ratio: float = Field(
        0.0, ge=0, le=1, description="warm-up as a fraction of all steps; the longer one counts"
    )
    decay_ratio: float = Field(0.4, gt=0, le=1, description="fraction of the steps after warm-up in which wsd decays")
    min_ratio: float = Field(0.0, ge=0, le=1, description="final learning rate, as a fraction of the highest")
    options: dict[str, Any] = Field({}, description="keyword arguments for package.module:function")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        schedule_function(name)
        return name

    @model_validator(mode="after")
    def _options_are_accepted(self) -> "ScheduleSettings":
        try:
            inspect.signature(schedule_function(self.name)).bind(0.0, self, **self.options)
        except ValueError:  # a function written in C may have no signature
            pass
        except TypeError as error:
            raise ConfigError(
                f"are not accepted by the schedule {self.name}: {error}",
                where="optim.schedule.options",
                found=self.options,
            ) from error
        return self

    def unused_settings(self) -> dict[str, str]:
        """Return the settings that a schedule of ours does not read; one of another package may read all."""
        reads = _READS.get(self.name, ("decay_ratio", "min_ratio"))
        unused = (name for name in ("decay_ratio", "min_ratio") if name not in reads)
        return dict.fromkeys(unused, f"has no effect on the schedule {self.name}")


# What each schedule of ours reads, besides the settings of warm-up.
_READS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "linear": ("min_ratio",),
    "cosine": ("min_ratio",),
    "wsd": ("decay_ratio", "min_ratio"),
}


def open_ended(function: ScheduleFunction) -> ScheduleFunction:
    """Mark a schedule that also works in a run without a known number of steps."""
    function.needs_total_steps = False  # type: ignore[attr-defined]
    return function


@open_ended
def constant(progress: float, settings: ScheduleSettings) -> float:
    """Return 1."""
    del progress, settings
    return 1.0


def linear(progress: float, settings: ScheduleSettings) -> float:
    """Fall in a straight line to ``min_ratio``."""
    return 1 - (1 - settings.min_ratio) * progress


def cosine(progress: float, settings: ScheduleSettings) -> float:
    """Fall along half a cosine to ``min_ratio`` (Loshchilov and Hutter 2017, without restarts)."""
    return settings.min_ratio + (1 - settings.min_ratio) * (1 + math.cos(math.pi * progress)) / 2


@open_ended
def wsd(progress: float, settings: ScheduleSettings) -> float:
    """Stay at 1, then fall in a straight line to ``min_ratio`` (warmup-stable-decay, Hu et al. 2024)."""
    left = (1 - progress) / settings.decay_ratio
    return settings.min_ratio + (1 - settings.min_ratio) * min(1.0, left)


# The schedules by the name that ``optim.schedule.name`` has. Others are named ``package.module:function``.
SCHEDULES: Mapping[str, ScheduleFunction | str] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
}


@cache
def schedule_function(name: str) -> ScheduleFunction:
    """Return the schedule of that name.

    Raises:
        UnknownName: there is none.
        ConfigError: a function of another package cannot be loaded.
    """
    found: ScheduleFunction = load_object(
        name, SCHEDULES, kind="schedule", interface=_interface, where="optim.schedule.name"
    )
    return found


def _interface(found: Any) -> str | None:
    return None if callable(found) else f"it is of type {type(found).__name__}, which cannot be called"


def lr_factor(step: int, total_steps: int | None, settings: ScheduleSettings) -> float:
    """Return the factor of the learning rate in the step that follows ``step`` completed ones.

    Args:
        step: completed steps.
        total_steps: steps of the run; None where only convergence ends it: the learning rate is then constant after
            warm-up, also with wsd, whose decay never begins.
        settings: the schedule.

    Raises:
        ConfigError: decay or warm-up is a fraction of a number of steps that is not known; or the schedule raised an
            error, or returned no finite number.
    """
    function = schedule_function(settings.name)
    warmup = max(settings.warmup_steps, round(settings.warmup_ratio * (total_steps or 0)))
    rise = min(1.0, (step + 1) / (warmup + 1))
    if total_steps is None:
        if getattr(function, "needs_total_steps", True):
            raise ConfigError(
                "needs a number of steps",
                where="optim.schedule.name",
                found=settings.name,
                fix="Set train.steps (or tokens, epochs, minutes), or optim.schedule.name=wsd or constant.",
            )
        if settings.warmup_ratio:
            raise ConfigError(
                "is a fraction of a number of steps that is not known",
                where="optim.schedule.warmup_ratio",
                found=settings.warmup_ratio,
                fix="Set optim.schedule.warmup_steps instead, or train.steps.",
            )
        return rise
    progress = min(1.0, max(0.0, (step - warmup) / max(1, total_steps - warmup)))
    return rise * _call(function, progress, settings)


def _call(function: ScheduleFunction, progress: float, settings: ScheduleSettings) -> float:
    """Call a schedule and check its factor: with one that is not finite, the step would destroy the weights."""
    try:
        factor = float(function(progress, settings, **settings.options))
    except Exception as error:
        problem = f"{settings.name} fails at progress {progress:g}: {type(error).__name__}: {error}"
        raise ConfigError(" ".join(problem.split()), where="optim.schedule.name") from error
    if not 0 <= factor < math.inf:
        raise ConfigError(
            f"{settings.name} returned an unusable factor at progress {progress:g}",
            where="optim.schedule.name",
            found=factor,
            expected="a finite number >= 0",
        )
    return factor
