"""Labelled tasks of a fine-tuning run: metrics, confusion matrix, calibration, worst errors, forgetting."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.finetuning import KINDS
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, to_text
from firstlight.report.units import format_number, format_percent, to_float

_MAX_CLASSES, _MAX_CONFUSED = 30, 8
_MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class WorstError:
    """A confident error: where its row is, true and predicted label, probability of the latter, and the text.

    Attributes:
        word: the word that is mislabelled, in a task that labels each word; otherwise empty.
    """

    where: str
    true: str
    predicted: str
    probability: str
    text: str
    word: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a confusion matrix: its count, its fraction of the true class, and whether it is on the diagonal."""

    count: int
    fraction: float
    correct: bool


@dataclass(frozen=True, slots=True)
class TaskScores:
    """The main metric of a task on both splits, and what simple baselines reach; empty where it was not measured.

    Attributes:
        name: of the task.
        metric: its main metric.
        valid: on the validation split, with its interval.
        test: on the test split, with its interval.
        majority: always predicting the most frequent class.
        words: a linear model on TF-IDF of words.
        split: on which the baselines were measured.
    """

    name: str
    metric: str
    valid: str
    test: str
    majority: str
    words: str
    split: str


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task on one split, formatted.

    Attributes:
        name: of the task and the split.
        metric: its main metric with value and interval.
        majority: the most frequent label of the training rows, and the score of always predicting it; or None.
        others: further metrics.
        labels: of rows and columns of the confusion matrix.
        confusion: rows of cells, or empty.
        classes: label, precision, recall, F1 and number of true rows (or words) of each class.
        calibration: confidence, accuracy and number of examples per bin.
        calibration_error: expected calibration error, or empty.
        worst: the most confident errors.
        confused: pairs of classes that are confused most often: true, predicted, count and fraction of the true class.
        notes: warnings about the data.
    """

    name: str
    metric: str
    majority: tuple[str, str] | None
    others: str
    labels: list[str]
    confusion: list[list[Cell]]
    classes: list[tuple[str, str, str, str, str]]
    confused: list[tuple[str, str, str, str]]
    calibration: list[tuple[str, str, str]]
    calibration_error: str
    worst: list[WorstError]
    notes: list[str]


def unit_of_count(files: RunFiles) -> str:
    """Return what loss and counters are per: ``row`` for runs with task heads, else ``token``."""
    # A kind that is not in the table is one from outside the package, which a page does not import.
    kinds = [KINDS.get(str(find(task, "kind"))) for task in files.tasks]
    return "row" if any(kind is None or kind.head is not None for kind in kinds) else "token"


def loss_unit(files: RunFiles) -> str:
    """Return the unit of the loss; that of some heads is a squared error, not nats."""
    return "nats per token" if unit_of_count(files) == "token" else "mean over rows"


def key_metrics(files: RunFiles) -> list[Fact]:
    """Return the main metric of each task, on the test split if evaluated there, else on the validation split."""
    facts = []
    tables = find(files.evaluation, "tasks")
    for name in tables if isinstance(tables, Mapping) else ():
        split = "test" if find(files.evaluation, "test", name) else "validation"
        table = find(files.evaluation, "test" if split == "test" else "tasks", name)
        value, low, high = (to_float(find(table, key)) for key in ("value", "low", "high"))
        note = f"{to_text(find(table, 'metric'), 40)}, {split}"
        if low is not None and high is not None:
            note += f"; 95% CI {format_number(low)} to {format_number(high)}"
        if majority := _majority(table):
            note += f"; majority class ({majority[0]}): {majority[1]}"
        facts.append(Fact(to_text(name, 60), _number(value), note))
    return facts


def task_metrics(files: RunFiles) -> dict[str, float]:
    """Return the main metric of each task on the validation split, by ``task/metric``."""
    tables, found = find(files.evaluation, "tasks"), {}
    for name, table in tables.items() if isinstance(tables, Mapping) else ():
        value = to_float(find(table, "value"))
        if value is not None:
            found[f"{to_text(name, 60)}/{to_text(find(table, 'metric'), 40)}"] = value
    return found


def side_by_side(files: RunFiles) -> list[TaskScores]:
    """Return the main metric of each task on the validation and the test split, beside what simple baselines reach."""
    tables, found = find(files.evaluation, "tasks"), []
    for name, valid in tables.items() if isinstance(tables, Mapping) else ():
        test = find(files.evaluation, "test", name)
        shown = valid if test is None else test
        if find(shown, "metric") == "loss":
            continue
        found.append(
            TaskScores(
                to_text(name, 60),
                to_text(find(shown, "metric"), 40),
                _with_interval(valid),
                _with_interval(test),
                _number(to_float(find(shown, "majority", "value"))),
                _number(to_float(find(shown, "bag_of_words", "value"))),
                "test" if test is not None else "validation",
            )
        )
    return found


def warnings(files: RunFiles) -> list[str]:
    """Return what the end of the run said about the scores of its tasks."""
    tables = find(files.evaluation, "warnings")
    return [
        f"{to_text(name, 60)}: {to_text(warning, 500)}."
        for name, found in (tables.items() if isinstance(tables, Mapping) else ())
        for warning in (found if isinstance(found, list) else ())
    ]


def _with_interval(table: Any) -> str:
    value, low, high = (to_float(find(table, key)) for key in ("value", "low", "high"))
    if value is None:
        return ""
    return _number(value) + (f" ({_number(low)} to {_number(high)})" if low is not None and high is not None else "")


def views(files: RunFiles) -> list[TaskView]:
    """Return every task on the validation split, then on the test split."""
    labels = {
        str(find(task, "name")): [to_text(name, 60) for name in find(task, "labels") or []] for task in files.tasks
    }
    found = []
    for key, split in (("tasks", "validation"), ("test", "test")):
        tables = find(files.evaluation, key)
        for name, table in (tables or {}).items() if isinstance(tables, Mapping) else ():
            notes = find(files.evaluation, "notes", name) if split == "validation" else None
            found.append(_view(f"{to_text(name, 60)}, {split}", table, labels.get(name, []), notes))
    return found


def forgetting(files: RunFiles) -> str:
    """Describe how the loss on the pre-training data changed; empty if it was not measured."""
    before = to_float(find(files.evaluation, "forgetting", "before"))
    after = to_float(find(files.evaluation, "forgetting", "after"))
    if before is None or after is None:
        return ""
    return (
        f"Forgetting: the loss on a part of the validation split of pre-training was {format_number(before)} before "
        f"fine-tuning and is {format_number(after)} after, a change of {format_number(after - before)} nats per token."
    )


def _view(name: str, table: Any, labels: list[str], notes: Any) -> TaskView:
    value, low, high = (to_float(find(table, key)) for key in ("value", "low", "high"))
    n = to_float(find(table, "n"))
    metric = to_text(find(table, "metric"), 40)
    main = f"{metric} {_number(value)}"
    if low is not None and high is not None:
        main += f" (95% CI {_number(low)} to {_number(high)})"
    main += f", n = {int(n):,}" if n is not None else ""
    others = find(table, "others")
    further = ", ".join(
        f"{to_text(k, 40)} {_number(to_float(v))}"
        for k, v in (others if isinstance(others, Mapping) else {}).items()
        if k != metric
    )
    bins = find(table, "calibration", "bins") or []
    error = to_float(find(table, "calibration", "error"))
    matrix = _confusion(find(table, "confusion"))
    return TaskView(
        name,
        main,
        _majority(table),
        further,
        labels,
        matrix,
        _classes(find(table, "confusion"), labels),
        _confused(matrix, labels),
        [(format_percent(b[0]), format_percent(b[1]), f"{int(b[2]):,}") for b in bins],
        "" if error is None else format_percent(error),
        [_worst(found) for found in worst] if isinstance(worst := find(table, "worst"), list) else [],
        [to_text(note, 500) for note in notes or []],
    )


def _majority(table: Any) -> tuple[str, str] | None:
    """Return the majority class and its score, if there are any."""
    value = to_float(find(table, "majority", "value"))
    return None if value is None else (to_text(find(table, "majority", "label"), 40), _number(value))


def _worst(table: Any) -> WorstError:
    probability, word = to_float(find(table, "probability")), to_float(find(table, "word"))
    where = to_text(find(table, "where"), 200)
    text, of_word = (found if isinstance(found := find(table, key), str) else "" for key in ("text", "word_text"))
    return WorstError(
        where if word is None else f"{where}, word {word:,.0f}",
        to_text(find(table, "true"), 60),
        to_text(find(table, "predicted"), 60),
        "" if probability is None else format_percent(probability),
        text[:_MAX_TEXT] + (" …" if len(text) > _MAX_TEXT else ""),
        of_word[:60],
    )


def _classes(table: Any, labels: list[str]) -> list[tuple[str, str, str, str, str]]:
    """Compute precision, recall and F1 of each class from the confusion matrix; a dash where it has none."""
    if not isinstance(table, list):
        return []
    found = []
    for i, row in enumerate(table):
        right, true, predicted = int(row[i]), int(sum(row)), int(sum(other[i] for other in table))
        scores = ((right, predicted), (right, true), (2 * right, predicted + true))
        precision, recall, f1 = (_number(part / whole if whole else None) for part, whole in scores)
        found.append((labels[i] if i < len(labels) else str(i), precision, recall, f1, f"{true:,}"))
    return found


def _confused(matrix: list[list[Cell]], labels: list[str]) -> list[tuple[str, str, str, str]]:
    """Return the pairs of classes that are confused most often."""
    names = [labels[i] if i < len(labels) else str(i) for i in range(len(matrix))]
    wrong = [(cell, i, j) for i, row in enumerate(matrix) for j, cell in enumerate(row) if cell.count and i != j]
    wrong.sort(key=lambda found: -found[0].count)
    return [
        (names[i], names[j] if j < len(names) else str(j), f"{cell.count:,}", format_percent(cell.fraction))
        for cell, i, j in wrong[:_MAX_CONFUSED]
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _confusion(table: Any) -> list[list[Cell]]:
    if not isinstance(table, list) or len(table) > _MAX_CLASSES:
        return []
    return [
        [Cell(int(count), count / max(1, sum(row)), i == j) for j, count in enumerate(row)]
        for i, row in enumerate(table)
    ]
