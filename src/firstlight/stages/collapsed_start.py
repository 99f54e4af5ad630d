"""A fine-tuning run whose start has collapsed is reported, or starts again with another random head.

The starts that were given up are listed in ``collapsed.json``, from which the seed of the head follows. The list is
written before anything else is changed, so that a process killed at any moment continues with the next start.
"""

from dataclasses import dataclass, field
from typing import Any

from firstlight.errors import TrainingError
from firstlight.finetuning import constant_prediction
from firstlight.parallel import DeviceContext, broadcast_object, is_main_process
from firstlight.runs import RunDirectory, read_json_object, write_json
from firstlight.shell import command_line
from firstlight.stages.finetune_artifacts import FinetuneArtifacts
from firstlight.stages.finetune_evaluation import TaskEvaluation
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.train import Limits, RunLog, TrainState

# Key of contract.json: the starts that had been given up when the run's checkpoints were begun.
N_COLLAPSED = "collapsed_starts"

_CHECKED_AT = 0.25  # of the updates
_MIN_UPDATES = 50  # before them, a head has hardly moved
_SEED_STEP = 1000  # far from the seeds of other runs, which are small numbers


class CollapsedStart(TrainingError):
    """The start has collapsed, and the run is to start again."""


def collapsed_starts(run: RunDirectory) -> list[dict[str, Any]]:
    """Read the starts of a run that were given up: ``task``, ``prediction``, ``step`` and ``head_seed`` of each."""
    starts = read_json_object(run.collapsed_starts_file).get("starts")
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def head_seed(run: RunDirectory, settings: FinetuneSettings) -> int:
    """Return the seed of everything that is random in the model of the current start."""
    return settings.run.seed + _SEED_STEP * len(collapsed_starts(run))


def is_to_restart(run: RunDirectory) -> bool:
    """Whether the process that gave up a start ended before the next one began."""
    begun = read_json_object(run.compatibility_file).get(N_COLLAPSED)
    return run.exists and isinstance(begun, int) and len(collapsed_starts(run)) > begun


def describe_collapsed(starts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Describe the starts that were given up, by task."""
    texts: dict[str, list[str]] = {}
    for n, start in enumerate(starts, 1):
        texts.setdefault(start["task"], []).append(
            f"start {n} was given up after {start['step']} updates, when it predicted {start['prediction']!r} for "
            f"every validation row; the head was drawn again with seed {start['head_seed'] + _SEED_STEP}"
        )
    return texts


@dataclass
class StartCheck:
    """Looks at the first evaluation after a quarter of the updates, and after 50, if there is one before the end.

    Where a start that was reported recovers, later evaluations say so.

    Attributes:
        run: the run directory.
        settings: of the run.
        artifacts: of the run, with the rows of its tasks.
        state: of training.
        limits: of training.
        log: of the run.
        device_context: of the run; the first process decides.
        new_heads: the tasks whose head was random at first; with the others every start is the same.
        checked: the step that was looked at; averaged weights, which are evaluated at the same step, are not.
        reported: whether a collapsed start was reported that goes on and has not recovered yet.
    """

    run: RunDirectory
    settings: FinetuneSettings
    artifacts: FinetuneArtifacts
    state: TrainState
    limits: Limits
    log: RunLog
    device_context: DeviceContext
    new_heads: list[str]
    checked: int | None = field(default=None, init=False)
    reported: bool = field(default=False, init=False)

    def __call__(self, evaluation: TaskEvaluation) -> None:
        """Report a collapsed start.

        Raises:
            CollapsedStart: the run is to start again; it is recorded.
        """
        counters = self.state.counters
        step, total = counters.step, self.limits.schedule_steps(counters)
        if self.reported and step != self.checked:
            self._report_recovery(evaluation)
            return
        first = max(_MIN_UPDATES, _CHECKED_AT * (total or 0))
        if not first <= step < (total or 0) or step == self.checked:
            return
        if counters.evaluated_step is not None and counters.evaluated_step >= first:
            return
        self.checked = step
        found = self._constant_prediction(evaluation) if is_main_process(self.device_context) else None
        starts = collapsed_starts(self.run) if is_main_process(self.device_context) else []
        found, starts = broadcast_object((found, starts), self.device_context)
        if found is None:
            return
        name, label = found
        text = (
            f"the start has collapsed: after {step} of {total} updates {label!r} is predicted for every validation row "
            f"of {name}, and the loss is no better than that of predicting the distribution of the labels"
        )
        limit, n = self.settings.finetune.max_restarts, len(starts) + 1
        if n > limit or name not in self.new_heads:
            self.log.event(step, "collapsed", f"{text}; {_advice(n, is_new=name in self.new_heads)}")
            self.reported = True
            return
        if is_main_process(self.device_context):
            start = {"task": name, "prediction": label, "step": step, "head_seed": head_seed(self.run, self.settings)}
            write_json(self.run.collapsed_starts_file, {"starts": [*starts, start]})
        raise CollapsedStart(
            f"{text}; it starts again with another head, restart {n} of at most {limit}",
            # Of several processes, which cannot make a process group a second time.
            fix=f"Launch {command_line('finetune', self.run.path, '--resume')}",
        )

    def _report_recovery(self, evaluation: TaskEvaluation) -> None:
        """Say if no task has one label predicted for every row any longer."""
        found = self._constant_prediction(evaluation) if is_main_process(self.device_context) else None
        if broadcast_object(found, self.device_context) is None:
            self.reported = False
            text = "the start has recovered: the labels that are predicted differ"
            self.log.event(self.state.counters.step, "recovered", text, warn=False)

    def _constant_prediction(self, evaluation: TaskEvaluation) -> tuple[str, Any] | None:
        """Return the first task of which one label is predicted for every row, and the label."""
        for name, predictions in evaluation.predictions.items():
            rows = self.artifacts.rows[name]
            label = constant_prediction(self.artifacts.specs[name], rows.train, rows.valid, predictions)
            if label is not None:
                return name, label
        return None


def _advice(n: int, *, is_new: bool) -> str:
    """Return what to try after the n-th start, which goes on."""
    if not is_new:
        return "lower optim.lr"
    if n > 1:
        return f"{n} starts in a row: lower optim.lr, or the task is beyond this model"
    return "lower optim.lr, or start a run with finetune.max_restarts=3, which draws another head automatically"
