"""``predict``: labels and probabilities for the rows of a file, by a fine-tuned model."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import parallel, progress
from firstlight.errors import CheckpointError, UnknownName, UsageError, quote_argument
from firstlight.files import storage_errors
from firstlight.files.run_layout import TASKS
from firstlight.finetuning import (
    Example,
    Prediction,
    Preprocessor,
    TaskSpec,
    change_spec,
    format_prediction,
    head_of,
    read_tasks,
    read_unlabelled,
)
from firstlight.finetuning import predict as predict_rows
from firstlight.lm import LM

_CHUNK_ROWS, _CHUNK_PROBABILITIES = 512, 1 << 18  # between two writes
_LINE_START = b'{"where": '


@dataclass(frozen=True, slots=True)
class PredictResult:
    """The prediction for one row.

    Attributes:
        where: file and line of the row.
        values: as the task's kind defines them: ``label`` and ``probabilities``, or ``score``, or ``labels``.
    """

    where: str
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"where": self.where, **self.values}


def predict(
    run: str | Path,
    file: str | Path,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Iterator[PredictResult]:
    """Predict the label of every row of a file, in its order.

    Where the task drops rows without text, their predictions are null. With ``out`` every result is also written to
    that file as a line of JSON. Rows whose line is there already are skipped, so that an interrupted command can be
    resumed.

    Args:
        run: a fine-tuned run, or a checkpoint of one.
        file: rows in the format of the task's own files.
        task: name of the task, where the run has several.
        out: a file of JSON lines.
        device: auto, cpu, cuda, cuda:N or mps.
        settings: settings of the task to override, such as ``{"columns": {"text": "review"}}``.

    Raises:
        UsageError: the model is not fine-tuned or its task has no labels; or ``out`` holds other lines.
        UnknownName: there is no such task.
        CorpusError: a row cannot be read.
    """
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    lm = LM.load_fp32(run).to(device_context)
    spec = _spec(lm, run, task)
    if settings:
        spec = change_spec(spec, settings)
    assert lm.tokenizer is not None, "a fine-tuned model has one"
    preprocess = Preprocessor(spec, lm.tokenizer, lm.config.block_size)
    rows = read_unlabelled(spec, Path(file))
    target = None if out is None else Path(out)
    if target is not None:
        _skip_written(rows, target, Path(file))
    head = head_of(spec)
    assert head is not None, "_spec chooses among tasks with a head"
    no_prediction: dict[str, Any] = dict.fromkeys(head.prediction_keys)
    n_empty = 0
    n_rows = max(1, min(_CHUNK_ROWS, _CHUNK_PROBABILITIES // max(1, len(spec.labels))))
    with progress.task("predict", None, "rows") as progress_bar:
        while chunk := list(itertools.islice(rows, n_rows)):
            labelled = [row for row in chunk if row.texts]
            found = predict_rows(lm.model, spec, preprocess(labelled), device_context)
            _check_finite(found, labelled, run)
            predictions = iter(found)
            results = [
                PredictResult(row.where, format_prediction(spec, next(predictions)) if row.texts else no_prediction)
                for row in chunk
            ]
            n_empty += sum(not row.texts for row in chunk)
            if target is not None:
                _append(target, results)
            progress_bar.advance(len(chunk))
            yield from results
    if n_empty:
        progress.notice(f"{n_empty:,} rows without text are labelled null (data.on_empty = {spec.data.on_empty!r})")
    for note in preprocess.describe_long_rows():
        progress.notice(f"{file}: {note}")


def _spec(lm: LM, run: str | Path, task: str | None) -> TaskSpec:
    assert lm.source is not None
    if not (lm.source / TASKS).is_file():
        raise UsageError(
            "is not a fine-tuned model",
            where=run,
            fix=f"Fine-tune it first: firstlight finetune {quote_argument(run)} TASK.toml --out runs/task",
        )
    labelled = {name: spec for name, spec in read_tasks(lm.source).items() if head_of(spec) is not None}
    if task is not None and task not in labelled:
        raise UnknownName("task", task, labelled, where=run)
    if task is None and len(labelled) != 1:
        raise UsageError(
            "has several tasks" if labelled else "has no labelled task",
            where=run,
            expected=", ".join(labelled),
            fix="Name one with --task."
            if labelled
            else f"Use it to generate text: firstlight generate {quote_argument(run)}",
        )
    return labelled[task] if task is not None else next(iter(labelled.values()))


def _check_finite(predictions: Sequence[Prediction], rows: Sequence[Example], run: str | Path) -> None:
    for prediction, row in zip(predictions, rows, strict=True):
        score = prediction.label if isinstance(prediction.label, float) else 0.0
        if not (math.isfinite(score) and np.isfinite(prediction.probabilities).all()):
            raise CheckpointError(
                "the model's outputs are not finite", where=run, found=f"at {row.where}", fix="Use another checkpoint."
            )


def _append(out: Path, results: list[PredictResult]) -> None:
    with storage_errors(out), out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(result.to_json(), ensure_ascii=False) + "\n" for result in results)
        file.flush()
        os.fsync(file.fileno())


def _skip_written(rows: Iterator[Example], out: Path, file: Path) -> None:
    """Skip the rows whose whole line is in ``out`` already, and remove a truncated line from it.

    Raises:
        UsageError: its lines are not predictions for this file's rows.
    """
    if not out.is_file():
        return
    n, end, last, truncated = 0, 0, b"", b""
    with storage_errors(out), out.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                n, end, last = n + 1, end + len(line), line
            else:
                truncated = line
    row = next(itertools.islice(rows, n - 1, None), None) if n else None
    # Folders are left out: the same file may have been named relative to another one.
    found, expected = _location(last) if n else None, None if row is None else Path(row.where).name
    if found == expected and not truncated.startswith(_LINE_START[: len(truncated)]):
        n, found, expected = n + 1, _location(truncated), None
    if found != expected:
        raise UsageError(
            f"contains lines that are not predictions for {file}",
            where=f"{out}:{n}",
            found=found,
            expected=expected or "no such line",
            fix="Choose another --out, or remove that file.",
        )
    if truncated:
        with storage_errors(out), out.open("r+b") as lines:
            lines.truncate(end)
    if n:
        progress.notice(f"{out} contains {n:,} rows already: continuing after them")


def _location(line: bytes) -> str:
    """Return the file and line that a line of predictions is about, or its start if it is not one."""
    try:
        return Path(json.loads(line)["where"]).name
    except (ValueError, TypeError, KeyError, RecursionError):
        return line[:60].decode("utf-8", "replace").strip()
