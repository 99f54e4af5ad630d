"""When a run ends, and how far along its schedule it is."""

from dataclasses import dataclass

from firstlight.train.settings import TrainSettings
from firstlight.train.state import Counters


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run, resolved.

    Attributes:
        steps: updates until the first of the limits in steps, tokens and epochs; None where there is none.
        minutes: wall time, or None.
        named: which limit ``steps`` came from.
    """

    steps: int | None
    minutes: float | None
    named: str

    @classmethod
    def resolve(cls, settings: TrainSettings, *, step_tokens: int, epoch_tokens: int, parameters: int) -> "Limits":
        """Turn limits in tokens and epochs into steps; ``auto`` steps only where nothing else limits the run.

        Auto is 20 tokens a parameter (Hoffmann et al. 2022), but at most 4 epochs, up to which repeated
        text is worth nearly as much as new text (Muennighoff et al. 2023).
        """
        found: dict[str, int] = {}
        if isinstance(settings.steps, int):
            found["steps"] = settings.steps
        if settings.tokens is not None:
            found["tokens"] = -(-settings.tokens // step_tokens)
        if settings.epochs is not None:
            found["epochs"] = max(1, round(settings.epochs * epoch_tokens / step_tokens))
        if not found and settings.steps == "auto" and settings.minutes is None and not settings.convergence.evaluations:
            found["auto"] = max(1, min(20 * parameters, 4 * epoch_tokens) // step_tokens)
        if not found:
            return cls(None, settings.minutes, "minutes" if settings.minutes is not None else "convergence")
        named = min(found, key=lambda name: found[name])
        return cls(found[named], settings.minutes, named)

    def schedule_total(self, counters: Counters) -> int | None:
        """Return the steps that the schedule should count on: where time will end the run first, by the rate so far."""
        if self.minutes is None:
            return self.steps
        share = min(1.0, counters.seconds / (60 * self.minutes))
        by_time = max(counters.step + 1, round(counters.step / share)) if share > 0 and counters.step > 0 else None
        return min((n for n in (self.steps, by_time) if n is not None), default=None)

    def reached(self, counters: Counters, settings: TrainSettings) -> str | None:
        """Return which limit ends the run now, or None."""
        if self.steps is not None and counters.step >= self.steps:
            return self.named
        if self.minutes is not None and counters.seconds >= 60 * self.minutes:
            return "minutes"
        if settings.convergence.evaluations and counters.stale >= settings.convergence.evaluations:
            return "convergence"
        return None
