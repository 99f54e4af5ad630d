"""Say which checkpoint of a run a command uses: the best or the latest one, its step and its validation loss."""

from pathlib import Path

from firstlight import progress
from firstlight.files import run_layout
from firstlight.files.run_names import parse_run_path
from firstlight.lm import LM
from firstlight.runs import RunDirectory


def report_checkpoint(lm: LM) -> None:
    """Say which checkpoint of its run a model is; nothing of one that is not in a run."""
    if lm.source is None or (run := parse_run_path(lm.source).run) is None or lm.source.parent.parent != run:
        return
    step = int(lm.source.name.removeprefix("step-"))
    pointers = [
        name for name in (run_layout.BEST, run_layout.LATEST) if parse_run_path(run / name).checkpoint == lm.source
    ]
    which = f"{' and '.join(pointers)} checkpoint" if pointers else "checkpoint"
    loss = RunDirectory(run).validation_loss(step)
    known = "" if loss is None else f", validation loss {loss:.4f}"
    progress.notice(f"{_short(run)}: {which}, step {step:,}{known}")


def _short(run: Path) -> str:
    return run.absolute().name if run == Path() else str(run)
