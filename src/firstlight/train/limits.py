"""The limits of a run, and the number of steps that its schedule assumes."""

from dataclasses import dataclass

from firstlight.errors import ConfigError
from firstlight.train.settings import TrainSettings
from firstlight.train.state import Counters

_UNKNOWN_STEPS = 1_000_000  # before the speed is known: the schedule is at its start


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run, resolved.

    Attributes:
        steps: updates until the first of the limits in steps, tokens and epochs; None if there is none.
        minutes: limit of wall time, or None.
        name: name of the limit that ``steps`` comes from, or of the one that ends the run without it.
    """

    steps: int | None
    minutes: float | None
    name: str

    @classmethod
    def resolve(cls, settings: TrainSettings, *, step_tokens: int, epoch_tokens: int, parameters: int) -> "Limits":
        """Convert limits in tokens and epochs to steps; ``auto`` applies only if nothing else limits the run.

        Auto is 20 tokens per parameter (Hoffmann et al. 2022), but at most 4 epochs, up to which repeated
        text is nearly as good as new text (Muennighoff et al. 2023).

        Raises:
            ConfigError: nothing ends the run.
        """
        converges = settings.convergence.evaluations > 0
        if converges and not settings.eval_every:
            raise ConfigError(
                "stops by evaluations, but there is none before the end",
                where="train.convergence.evaluations",
                found="train.eval_every=0",
                fix="Set train.eval_every.",
            )
        limits: dict[str, int] = {}
        if isinstance(settings.steps, int):
            limits["steps"] = settings.steps
        if settings.tokens is not None:
            limits["tokens"] = -(-settings.tokens // step_tokens)
        if settings.epochs is not None:
            limits["epochs"] = max(1, round(settings.epochs * epoch_tokens / step_tokens))
        if not limits and settings.steps == "auto" and settings.minutes is None and not converges:
            limits["auto"] = max(1, min(20 * parameters, 4 * epoch_tokens) // step_tokens)
        if limits:
            first = min(limits, key=lambda name: limits[name])
            return cls(limits[first], settings.minutes, first)
        if settings.minutes is None and not converges:
            raise ConfigError(
                "nothing ends this run",
                where="train.steps",
                fix="Set train.steps, tokens, epochs, minutes or convergence.evaluations.",
            )
        return cls(None, settings.minutes, "minutes" if settings.minutes is not None else "convergence")

    def schedule_steps(self, counters: Counters) -> int | None:
        """Return the total number of steps for the schedule; None if only convergence ends the run.

        With a limit in minutes it is estimated from the speed so far, so that the progress of the schedule is that
        of the time; learning rates then differ from run to run.
        """
        if self.minutes is None:
            return self.steps
        elapsed = counters.seconds - counters.setup_seconds
        available = 60 * self.minutes - counters.setup_seconds
        progress = min(1.0, elapsed / available) if available > 0 else 1.0
        by_time = _UNKNOWN_STEPS
        if counters.step and progress > 0:
            by_time = max(counters.step + 1, round(counters.step / progress))
        return by_time if self.steps is None else min(self.steps, by_time)

    def reached(self, counters: Counters, settings: TrainSettings) -> str | None:
        """Return the name of the limit that has been reached, or None."""
        if self.steps is not None and counters.step >= self.steps:
            return self.name
        if self.minutes is not None and counters.seconds >= 60 * self.minutes:
            return "minutes"
        if settings.convergence.evaluations and counters.evaluations_without_gain >= settings.convergence.evaluations:
            return "convergence"
        return None
