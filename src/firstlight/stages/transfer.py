"""``transfer``: transfer between two tasks: each alone, after and with the other, and its head on the other's rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import read_toml
from firstlight.errors import UsageError
from firstlight.files import check_output, finite_json, write_output
from firstlight.finetuning import compute_metrics, encode_task, load_task, predict, read_tasks
from firstlight.lm import LM
from firstlight.runs import RunDirectory
from firstlight.stages.finetune import finetune
from firstlight.stages.finetune_artifacts import read_specs
from firstlight.tokenizer import report_unknown
from firstlight.types import Paths, as_list

_N_BOOTSTRAP = 1000
_RESULT = "transfer.json"


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One evaluation.

    Attributes:
        task: on whose validation rows.
        trained_on: the tasks that the model was trained on.
        metric: the task's own.
        value: of it.
        low, high: its 95 % interval.
    """

    task: str
    trained_on: str
    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TransferResult:
    """Metrics of two tasks, by what the model was trained on."""

    out: Path
    rows: list[TransferRow]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"out": str(self.out), "rows": [asdict(row) for row in self.rows]}


def transfer(
    init_from: str | Path,
    tasks: Paths,
    *,
    out: str | Path,
    overrides: str | Sequence[str] = (),
    overwrite: bool = False,
    **more: Any,
) -> TransferResult:
    """Fine-tune on two tasks alone, one after the other and together, and evaluate each on its validation rows.

    Where both have the same labels, each one's head is also evaluated on the other's rows. Runs that exist are used
    again, so that an interrupted command can be resumed.

    Args:
        init_from: the pre-trained model.
        tasks: two TASK.toml files.
        out: folder of the runs, and of transfer.json.
        overrides: ``key=value`` settings.
        overwrite: whether an existing transfer.json is replaced.
        more: arguments of ``finetune``.

    Raises:
        UsageError: not two tasks; or transfer.json exists.
        FirstlightError: as ``finetune``.
    """
    tasks, overrides = as_list(tasks), as_list(overrides)
    if len(tasks) != 2:
        raise UsageError("needs two tasks", where="transfer", found=len(tasks), expected="two TASK.toml files")
    folder, rows = Path(out), []
    check_output(folder / _RESULT, overwrite=overwrite)  # before the runs
    names = [spec.name for spec in read_specs(tasks, more.get("data"))]

    def tune(name: str, start: str | Path, on: Sequence[str | Path]) -> Path:
        result = finetune(
            start, on, out=folder / name, resume=RunDirectory(folder / name).exists, overrides=overrides, **more
        )
        result.raise_if_interrupted()
        if not result.finished:
            raise KeyboardInterrupt
        for task, m in result.valid.items():
            if "low" in m:
                rows.append(TransferRow(task, name, m["metric"], m["value"], m["low"], m["high"]))
        return folder / name

    a, b = tasks
    alone = {name: tune(name, init_from, [task]) for name, task in zip(names, tasks, strict=True)}
    tune(f"{names[0]}-with-{names[1]}", init_from, [a, b])
    tune(f"{names[0]}-after-{names[1]}", alone[names[1]], [a])
    tune(f"{names[1]}-after-{names[0]}", alone[names[0]], [b])
    rows += _across(alone)
    result = TransferResult(folder, rows)
    text = json.dumps(finite_json(result.to_json()), ensure_ascii=False, indent=1) + "\n"
    write_output(folder / _RESULT, text.encode(), overwrite=overwrite)
    return result


def _across(runs: dict[str, Path]) -> list[TransferRow]:
    """Evaluate each run's head on the other's validation rows, where their labels are the same."""
    specs = {}
    for name, run in runs.items():
        (specs[name],) = read_tasks(run).values()
    (one, first), (two, second) = specs.items()
    if first.labels != second.labels or first.kind != second.kind or not first.labels:
        progress.notice(f"{one} and {two} have different labels: their heads are not evaluated on each other's rows")
        return []
    found = []
    for trained, on in ((one, two), (two, one)):
        lm = LM.load_fp32(runs[trained])
        assert lm.tokenizer is not None
        spec = specs[on]
        data = load_task(spec, seed=read_toml(runs[on] / "run.toml")["data"]["seed"])
        encoded = encode_task(data, lm.tokenizer, lm.config.block_size)
        report_unknown(f"{on} by {trained}", encoded.unknown, encoded.n_tokens, encoded.n_bytes)
        rows = encoded.valid
        other_head = spec.model_copy(update={"name": specs[trained].name, "pool": specs[trained].pool})
        predictions = predict(lm.model, other_head, rows, lm.device_context)
        m = compute_metrics(other_head, rows, predictions, n_bootstrap=_N_BOOTSTRAP)
        found.append(TransferRow(spec.name, f"{trained} alone", m.metric, m.value, m.low, m.high))
    return found
