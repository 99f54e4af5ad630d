"""``predict``: labels and probabilities for the rows of a file, by a fine-tuned model."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import parallel, progress
from firstlight.config import flatten
from firstlight.errors import CheckpointError, ConfigError, CorpusError, UnknownName, UsageError, nearest
from firstlight.files import sha256
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
from firstlight.finetuning.folders import list_inside
from firstlight.lm import LM
from firstlight.lm.load import locate
from firstlight.shell import command_line, model_argument
from firstlight.stages.predictions_file import PredictionsFile
from firstlight.stages.used_checkpoint import report_checkpoint
from firstlight.tokenizer import WARN_FRACTION, unknown_share

_OTHER_FORMATS = {".csv", ".tsv", ".parquet", ".xlsx"}
_CHUNK_ROWS, _CHUNK_PROBABILITIES = 512, 1 << 18  # between two writes
# Settings of a task's own files, which another file does not have.
_NOT_USED = ("folder", "train", "valid", "test")
# Settings of training: they have no effect on predictions, or belong to the weights.
_OF_TRAINING = {
    *("name", "kind", "pool", "label_values", "answer_format"),
    *("valid_ratio", "max_train_rows", "metric", "class_weights"),
    *(f"data.{name}" for name in (*_NOT_USED, "drop_labels", "max_unk_fraction")),
}


@dataclass(frozen=True, slots=True)
class PredictResult:
    """The prediction for one row.

    Attributes:
        where: file and line of the row.
        values: as the task's kind defines them: ``label`` and ``probabilities``, or ``score``, or ``labels``.
        unk_tokens: tokens of its texts that the model does not know.
    """

    where: str
    values: Mapping[str, Any]
    unk_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; the number of unknown tokens only where there are any."""
        return {"where": self.where, **self.values, **({"unk_tokens": self.unk_tokens} if self.unk_tokens else {})}


def predict(
    run: str | Path,
    file: str | Path,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[PredictResult]:
    """Predict the label of every row of a file, in its order.

    Where the task drops rows without text, their predictions are null. With ``out`` every result is also written to
    that file as a line of JSON, and hashes of model, task and input to ``OUT.meta.json``. An interrupted command can be
    resumed: where the hashes are equal, rows whose line is there already are skipped.

    Args:
        run: a fine-tuned run, or a checkpoint of one.
        file: rows in the format of the task's own files.
        task: name of the task, where the run has several.
        out: a file of JSON lines.
        device: auto, cpu, cuda, cuda:N or mps.
        settings: settings of the task to override, such as ``{"columns": {"text": "review"}}``.
        overwrite: start again if ``out`` exists.

    Raises:
        UsageError: the model is not fine-tuned or its task has no labels; ``file`` is ``-``; or ``out`` is named as
            another format, or exists and was made from something else.
        UnknownName: there is no such task.
        CorpusError: a row cannot be read.
    """
    _check_input(file)
    if out is not None and Path(out).suffix.lower() in _OTHER_FORMATS:
        fix = f"Name it {Path(out).with_suffix('.jsonl')}; pandas.read_json(FILE, lines=True) reads it."
        raise UsageError("predictions are JSON lines", where=out, expected="a file .jsonl", fix=fix)
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    lm = LM.load_fp32(locate(run, command="finetune")).to(device_context)
    spec = _spec(lm, run, task)
    if settings:
        spec = _change_spec(spec, settings, Path(file))
    report_checkpoint(lm)
    assert lm.tokenizer is not None, "a fine-tuned model has one"
    preprocess = Preprocessor(spec, lm.tokenizer, lm.config.block_size)
    rows = read_unlabelled(spec, Path(file))
    head = head_of(spec)
    assert head is not None, "_spec chooses among tasks with a head"
    no_prediction: dict[str, Any] = dict.fromkeys(head.prediction_keys)
    made_from = _made_from(lm, spec, Path(file)) if out is not None else {}
    n_empty = 0
    n_rows = max(1, min(_CHUNK_ROWS, _CHUNK_PROBABILITIES // max(1, len(spec.labels))))
    with (
        nullcontext() if out is None else PredictionsFile(Path(out), made_from, overwrite=overwrite) as target,
        progress.task("predict", None, "rows") as progress_bar,
    ):
        if target is not None:
            rows = target.remaining(rows, n_rows)
        while chunk := list(itertools.islice(rows, n_rows)):
            labelled = [row for row in chunk if row.texts]
            encoded = preprocess(labelled)
            found = predict_rows(lm.model, spec, encoded, device_context)
            _check_finite(found, labelled, run)
            predicted = (
                PredictResult(row.where, format_prediction(spec, prediction), row.unk_tokens)
                for row, prediction in zip(encoded, found, strict=True)
            )
            results = [next(predicted) if row.texts else PredictResult(row.where, no_prediction) for row in chunk]
            n_empty += sum(not row.texts for row in chunk)
            if target is not None:
                target.append([result.to_json() for result in results])
            progress_bar.advance(len(chunk))
            yield from results
    if n_empty:
        progress.notice(f"{n_empty:,} rows without text are labelled null (data.on_empty = {spec.data.on_empty!r})")
    for note in preprocess.describe_long_rows():
        progress.notice(f"{file}: {note}")
    is_much = unknown_share(preprocess.unknown, preprocess.n_tokens, preprocess.n_bytes) > WARN_FRACTION
    for note in preprocess.describe_unknown():
        progress.notice(f"{file}: {note}", level="warning" if is_much else "info")


def _check_input(file: object) -> None:
    """Refuse what is not the path of a table, before the model is loaded."""
    advice = "Write texts as rows of a table in the task's format, such as new.csv, and name that file."
    if str(file) == "-":
        raise UsageError("standard input is not read", expected="a file, whose name says its format")
    if not isinstance(file, str | Path):
        raise UsageError("the rows of a file are predicted", found=type(file).__name__, expected="a path", fix=advice)
    path = Path(file)
    try:
        exists = str(file).startswith("hf:") or path.exists()
    except OSError:  # a text that is longer than names may be
        exists = False
    if not exists:
        is_text = not path.suffix or any(character.isspace() for character in path.suffix)
        others = [p.name for p in path.parent.iterdir()] if not is_text and path.parent.is_dir() else []
        near = nearest(path.name, others)
        fix = advice if is_text else f"Did you mean {path.parent / near}?" if near else None
        raise CorpusError("no such file", where=str(file)[:200], fix=fix)


def _spec(lm: LM, run: str | Path, task: str | None) -> TaskSpec:
    assert lm.source is not None
    if not (lm.source / TASKS).is_file():
        raise UsageError(
            "is not a fine-tuned model",
            where=run,
            fix=f"Fine-tune it first. How: {command_line('finetune', '--help')}",
        )
    labelled = {name: spec for name, spec in read_tasks(lm.source).items() if head_of(spec) is not None}
    if task is not None and task not in labelled:
        raise UnknownName("task", task, labelled, where=run)
    if task is None and len(labelled) != 1:
        raise UsageError(
            "has several tasks" if labelled else "has no labelled task",
            where=run,
            expected=", ".join(labelled) or None,
            fix="Name one with --task."
            if labelled
            else f"Use it to generate text: {command_line('generate', model_argument(run), 'The ')}",
        )
    return labelled[task] if task is not None else next(iter(labelled.values()))


def _change_spec(spec: TaskSpec, settings: Mapping[str, Any], file: Path) -> TaskSpec:
    """Return the task with other settings of how the rows of a file are read."""
    given = flatten(settings)
    for key in sorted(given.keys() & _OF_TRAINING):
        raise ConfigError(
            "applies to fine-tuning: the model keeps what it was fine-tuned with",
            where=key,
            found=given[key],
            expected="how rows are read, such as columns.text or data.encoding",
            fix="Leave it out.",
        )
    names, n = given.get("labels"), len(spec.labels)
    if isinstance(names, list) and len(names) != n:
        raise ConfigError(
            "does not fit the model",
            where="labels",
            found=f"{len(names)} names",
            expected=f"{n} names, in the order of {', '.join(spec.labels)}"[:300] if n else "none, since it has scores",
        )
    changed = change_spec(spec, settings)
    of_file = changed.data.model_copy(update={"train": str(file), "valid": None, "test": None})
    for name, reason in of_file.unused_settings().items():
        if f"data.{name}" in given:
            raise ConfigError(reason, where=f"data.{name}", found=given[f"data.{name}"], fix="Leave it out.")
    return changed


def _check_finite(predictions: Sequence[Prediction], rows: Sequence[Example], run: str | Path) -> None:
    for prediction, row in zip(predictions, rows, strict=True):
        score = prediction.label if isinstance(prediction.label, float) else 0.0
        if not (math.isfinite(score) and np.isfinite(prediction.probabilities).all()):
            raise CheckpointError(
                "the model's outputs are not finite", where=run, found=f"at {row.where}", fix="Use another checkpoint."
            )


def _made_from(lm: LM, spec: TaskSpec, file: Path) -> dict[str, Any]:
    """Return what determines the predictions: hashes of the model, of the task with its settings, and of the input."""
    assert lm.source is not None
    table = spec.model_dump(mode="json")
    for name in _NOT_USED:
        table["data"].pop(name, None)
    inputs = list_inside(file, spec.data) if file.is_dir() else [file]
    is_readable_again = all(path.is_file() for path in inputs)  # not a pipe
    return {
        "model": _hash_files(lm.source, [path for path in sorted(lm.source.iterdir()) if path.is_file()]),
        "task": hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest(),
        "input": _hash_files(file, inputs) if is_readable_again else None,
    }


def _hash_files(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        name = "" if path == root else path.relative_to(root).as_posix()
        digest.update(name.encode() + b"\0" + sha256(path).encode())
    return digest.hexdigest()
