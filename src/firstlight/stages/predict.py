"""``predict``: labels, with probabilities, for the rows of a file."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firstlight import parallel, progress
from firstlight.errors import CheckpointError, UnknownName, UsageError
from firstlight.files import storage_errors
from firstlight.files.run_layout import TASKS
from firstlight.finetuning import Example, Prediction, Preprocessor, TaskSpec, format_label, read_unlabelled
from firstlight.finetuning import predict as say
from firstlight.lm import LM

_CHUNK = 512  # rows between two writings
_BEGIN = b'{"where": '  # of every line


def predict(
    run: str | Path,
    file: str | Path,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one table a row: where it stands, its label, and the probability of every label.

    With ``out`` every table is a line of that file as well; lines that it holds already are not made again, so that a
    run that was cut off goes on.

    Args:
        run: a fine-tuned run, or a checkpoint of one.
        file: rows in the format of the task's own files.
        task: which, of several.
        out: a file of JSON lines.
        device: auto, cpu, cuda, cuda:N or mps.
        settings: changes of the task's table, such as ``{"columns": {"text": "review"}}``.

    Raises:
        UsageError: no fine-tuned model, or a task of text; or ``out`` holds lines of something else.
        UnknownName: it has no such task.
        CorpusError: a row cannot be read.
    """
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    lm = LM.load_fp32(run).to(device_context)
    spec = _spec(lm, run, task)
    if settings:
        spec = TaskSpec.model_validate({**spec.model_dump(), **_merged(spec, settings)})
    assert lm.tokenizer is not None, "a fine-tuned model has one"
    transform = Preprocessor(spec, lm.tokenizer, lm.config.block_size)
    rows = read_unlabelled(spec, Path(file))
    target = None if out is None else Path(out)
    if target is not None:
        _go_behind(rows, target, Path(file))
    with progress.task("predict", None, "rows") as told:
        while chunk := list(itertools.islice(rows, _CHUNK)):
            said = say(lm.model, spec, transform(chunk), device_context)
            tables = [_table(spec, example.where, answer) for example, answer in zip(chunk, said, strict=True)]
            if target is not None:
                with storage_errors(target), target.open("a", encoding="utf-8") as opened:
                    opened.writelines(json.dumps(table, ensure_ascii=False) + "\n" for table in tables)
                    opened.flush()
                    os.fsync(opened.fileno())
            told.advance(len(chunk))
            yield from tables


def _spec(lm: LM, run: str | Path, task: str | None) -> TaskSpec:
    assert lm.source is not None
    path = lm.source / TASKS
    if not path.is_file():
        raise UsageError(
            "is no fine-tuned model", where=run, fix="Make one: firstlight finetune RUN TASK.toml --out runs/task"
        )
    try:
        specs = {t["name"]: TaskSpec.model_validate(t) for t in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=path) from error
    labelled = {name: spec for name, spec in specs.items() if spec.kind not in ("text", "chat")}
    if task is not None and task not in labelled:
        raise UnknownName("task", task, labelled, where=run)
    if task is None and len(labelled) != 1:
        raise UsageError(
            "has several tasks" if labelled else "has no labelled task",
            where=run,
            expected=", ".join(labelled),
            fix="Name one with --task." if labelled else "Let it write: firstlight generate RUN",
        )
    return labelled[task] if task is not None else next(iter(labelled.values()))


def _merged(spec: TaskSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    table = spec.model_dump()
    return {k: {**table[k], **v} if isinstance(v, Mapping) else v for k, v in settings.items()}


def _go_behind(rows: Iterator[Example], out: Path, file: Path) -> None:
    """Take the rows that have their whole line in ``out`` already; a line that was cut off there is taken away.

    Raises:
        UsageError: the lines are none of this file's rows.
    """
    if not out.is_file():
        return
    n, end, last, cut = 0, 0, b"", b""
    with storage_errors(out), out.open("rb") as opened:
        for line in opened:
            if line.endswith(b"\n"):
                n, end, last = n + 1, end + len(line), line
            else:
                cut = line
    row = next(itertools.islice(rows, n - 1, None), None) if n else None
    # Folders are left out: the same file may have been named from another place.
    found, expected = _named(last) if n else None, None if row is None else Path(row.where).name
    if found == expected and not cut.startswith(_BEGIN[: len(cut)]):
        n, found, expected = n + 1, _named(cut), None
    if found != expected:
        raise UsageError(
            f"holds lines that are no predictions for {file}",
            where=f"{out}:{n}",
            found=found,
            expected=expected or "no such line",
            fix="Choose another --out, or remove that file.",
        )
    if cut:
        with storage_errors(out), out.open("r+b") as opened:
            opened.truncate(end)
    if n:
        progress.notice(f"{out} has {n:,} rows already: going on behind them")


def _named(line: bytes) -> str:
    """Return which row a line tells of, or what it begins with where that is none."""
    try:
        return Path(json.loads(line)["where"]).name
    except (ValueError, TypeError, KeyError):
        return line[:60].decode("utf-8", "replace").strip()


def _table(spec: TaskSpec, where: str, answer: Prediction) -> dict[str, Any]:
    label = format_label(spec, answer.label)
    if spec.scored:
        return {"where": where, "score": label}
    if spec.kind == "tokens":
        return {"where": where, "labels": label, "probabilities": [float(p.max()) for p in answer.probabilities]}
    names = range(len(answer.probabilities)) if spec.kind == "choice" else spec.labels
    chances = {str(n): round(float(p), 6) for n, p in zip(names, answer.probabilities, strict=True)}
    return {"where": where, "label": label, "probabilities": chances}
