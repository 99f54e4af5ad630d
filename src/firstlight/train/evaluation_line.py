"""The lines that stay in the terminal while a run trains: one per evaluation, and one per sample."""

import math

from firstlight.train.context import EvaluationResult, TrainContext

_SAMPLE_CHARACTERS = 160


def evaluation_line(
    ctx: TrainContext, result: EvaluationResult, previous: float | None, average_loss: float | None = None
) -> str:
    """Return the line of the evaluation at the current step.

    Args:
        ctx: the run, whose counters have recorded the evaluation.
        result: the evaluation.
        previous: criterion of the evaluation before, if there was one.
        average_loss: validation loss of averaged weights, if there are any.
    """
    counters, is_loss = ctx.counters, ctx.criterion == "loss"
    sign = 1 if is_loss else -1  # criteria are minimised
    now = result.loss if is_loss else sign * result.criterion
    change = "" if previous is None or not math.isfinite(now) else f" ({now - sign * previous:+.4f})"
    parts = [] if ctx.loop.shown_loss is None else [f"train loss {ctx.loop.shown_loss:.4f}"]
    parts.append(f"valid {ctx.criterion} {now:.4f}{change}")
    if not is_loss:
        parts.append(f"valid loss {result.loss:.4f}")
    if average_loss is not None:
        parts.append(f"valid loss of averaged weights {average_loss:.4f}")
    if counters.best_loss is not None:
        is_best = counters.best_step == counters.step
        parts.append("best so far" if is_best else f"best {sign * counters.best_loss:.4f} at step {counters.best_step}")
    return f"step {counters.step}: {' · '.join(parts)}"


def sample_line(step: int, prompt: str, text: str) -> str:
    """Return the start of a sample on one line; the whole of it is in samples.jsonl."""
    words = " ".join(f"{prompt}{text}".split())
    more = "" if len(words) <= _SAMPLE_CHARACTERS else " …"
    return f"step {step} sample: {words[:_SAMPLE_CHARACTERS].rstrip()}{more}" if words else f"step {step} sample: empty"
