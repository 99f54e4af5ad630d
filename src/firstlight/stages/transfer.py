"""``transfer``: does one task help another? Each alone, after and with the other, and its head on the other's rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import read_toml
from firstlight.errors import UsageError
from firstlight.files import write_atomic
from firstlight.files.run_layout import TASKS
from firstlight.finetuning import Preprocessor, TaskSpec, compute_metrics, load_task, predict
from firstlight.lm import LM
from firstlight.stages.finetune import finetune

_N_BOOTSTRAP = 1000


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One cell of the report.

    Attributes:
        task: whose valid rows are judged.
        trained: on what, in words.
        metric: the task's own.
        value: of it.
        low, high: its 95 % interval.
    """

    task: str
    trained: str
    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What one task did for another."""

    out: Path
    rows: list[TransferRow]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"out": str(self.out), "rows": [asdict(row) for row in self.rows]}


def transfer(
    start_from: str | Path, tasks: Sequence[str | Path], *, out: str | Path, overrides: Sequence[str] = (), **more: Any
) -> TransferResult:
    """Fine-tune on two tasks alone, one after the other and together, and judge each on its valid rows.

    Where both have the same labels, each one's head is judged on the other's rows too. Runs that are there already
    are used again, so that a report that was cut off goes on.

    Args:
        start_from: the pre-trained model.
        tasks: two TASK.toml files.
        out: folder of the runs, and of transfer.json.
        overrides: ``key=value`` words.
        more: as of ``finetune``.

    Raises:
        UsageError: not two tasks.
        FirstlightError: as ``finetune``.
    """
    if len(tasks) != 2:
        raise UsageError("compares two tasks", where="transfer", found=len(tasks), expected="two TASK.toml files")
    folder, rows = Path(out), []

    def tuned(name: str, start: str | Path, on: Sequence[str | Path]) -> Path:
        result = finetune(start, on, out=folder / name, resume=True, overrides=overrides, **more)
        if not result.finished:
            raise KeyboardInterrupt
        for task, f in result.valid.items():
            if "low" in f:
                rows.append(TransferRow(task, name, f["metric"], f["value"], f["low"], f["high"]))
        return folder / name

    a, b = tasks
    names = [Path(t).stem for t in tasks]
    alone = {name: tuned(name, start_from, [task]) for name, task in zip(names, tasks, strict=True)}
    tuned(f"{names[0]}-with-{names[1]}", start_from, [a, b])
    tuned(f"{names[0]}-after-{names[1]}", alone[names[1]], [a])
    tuned(f"{names[1]}-after-{names[0]}", alone[names[0]], [b])
    rows += _across(alone)
    result = TransferResult(folder, rows)
    write_atomic(folder / "transfer.json", json.dumps(result.to_json(), indent=1) + "\n")
    return result


def _across(runs: dict[str, Path]) -> list[TransferRow]:
    """Judge each run's head on the other's valid rows, where their labels are the same."""
    specs = {}
    for name, run in runs.items():
        (table,) = json.loads((run / TASKS).read_text(encoding="utf-8"))
        specs[name] = TaskSpec.model_validate(table)
    (one, first), (two, second) = specs.items()
    if first.labels != second.labels or first.kind != second.kind or not first.labels:
        progress.notice(f"{one} and {two} have other labels: neither's head can judge the other's rows")
        return []
    found = []
    for trained, on in ((one, two), (two, one)):
        lm = LM.load_fp32(runs[trained])
        assert lm.tokenizer is not None
        head, spec = specs[trained].name, specs[on]
        rows = Preprocessor(spec, lm.tokenizer, lm.config.block_size)(
            load_task(spec, seed=read_toml(runs[on] / "run.toml")["run"]["seed"]).valid
        )
        asked = spec.model_copy(update={"name": head})
        figures = compute_metrics(
            asked, rows, predict(lm.model, asked, rows, lm.device_context), n_bootstrap=_N_BOOTSTRAP
        )
        found.append(
            TransferRow(spec.name, f"{trained} alone", figures.metric, figures.value, figures.low, figures.high)
        )
    return found
