"""When a run ends, and how far along its schedule it is."""

from dataclasses import dataclass

from firstlight.errors import ConfigError
from firstlight.train.settings import TrainSettings
from firstlight.train.state import Counters

_UNKNOWN = 1_000_000  # steps before the rate is known: the schedule stands at its beginning


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run, resolved.

    Attributes:
        steps: updates until the first of the limits in steps, tokens and epochs; None where there is none.
        minutes: wall time, or None.
        named: which limit ``steps`` came from; where it is None, what else ends the run.
    """

    steps: int | None
    minutes: float | None
    named: str

    @classmethod
    def resolve(cls, settings: TrainSettings, *, step_tokens: int, epoch_tokens: int, parameters: int) -> "Limits":
        """Turn limits in tokens and epochs into steps; ``auto`` steps only where nothing else limits the run.

        Auto is 20 tokens a parameter (Hoffmann et al. 2022), but at most 4 epochs, up to which repeated
        text is worth nearly as much as new text (Muennighoff et al. 2023).

        Raises:
            ConfigError: nothing would ever end the run.
        """
        converges = settings.convergence.evaluations > 0
        if converges and not settings.eval_every:
            raise ConfigError(
                "converges by evaluations, and none is made before the end",
                where="train.convergence.evaluations",
                found="train.eval_every=0",
                fix="Set train.eval_every.",
            )
        found: dict[str, int] = {}
        if isinstance(settings.steps, int):
            found["steps"] = settings.steps
        if settings.tokens is not None:
            found["tokens"] = -(-settings.tokens // step_tokens)
        if settings.epochs is not None:
            found["epochs"] = max(1, round(settings.epochs * epoch_tokens / step_tokens))
        if not found and settings.steps == "auto" and settings.minutes is None and not converges:
            found["auto"] = max(1, min(20 * parameters, 4 * epoch_tokens) // step_tokens)
        if found:
            named = min(found, key=lambda name: found[name])
            return cls(found[named], settings.minutes, named)
        if settings.minutes is None and not converges:
            raise ConfigError(
                "nothing ends this run",
                where="train.steps",
                fix="Set train.steps, tokens, epochs, minutes or convergence.evaluations.",
            )
        return cls(None, settings.minutes, "minutes" if settings.minutes is not None else "convergence")

    def schedule_steps(self, counters: Counters) -> int | None:
        """Return the steps that the schedule should count on; None where only convergence ends the run.

        Under a limit of minutes these are the steps that the time will allow by the rate so far, so that
        the schedule is as far along as the time; it then differs from run to run.
        """
        if self.minutes is None:
            return self.steps
        passed = counters.seconds - counters.setup_seconds
        whole = 60 * self.minutes - counters.setup_seconds
        share = min(1.0, passed / whole) if whole > 0 else 1.0
        by_time = max(counters.step + 1, round(counters.step / share)) if counters.step and share > 0 else _UNKNOWN
        return by_time if self.steps is None else min(self.steps, by_time)

    def reached(self, counters: Counters, settings: TrainSettings) -> str | None:
        """Return which limit ends the run now, or None."""
        if self.steps is not None and counters.step >= self.steps:
            return self.named
        if self.minutes is not None and counters.seconds >= 60 * self.minutes:
            return "minutes"
        if settings.convergence.evaluations and counters.evaluations_without_gain >= settings.convergence.evaluations:
            return "convergence"
        return None
