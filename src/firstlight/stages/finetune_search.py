"""``finetune --search``: try learning rates and numbers of epochs, and choose among them on the validation rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import flatten, parse_overrides, read_toml
from firstlight.errors import Interrupted, TrainingError, UsageError
from firstlight.files.run_names import SEARCH
from firstlight.runs import RunDirectory, read_json_object, write_json
from firstlight.stages.finetune import FinetuneResult, finetune
from firstlight.types import Paths, as_list

_RATE_STEP, _EPOCH_STEP = 3.0, 2.0  # factors between neighbouring trials
_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1))  # in the order in which they are tried
_MAX_EPOCH_STEPS = 2  # at most four times the epochs of the first trial, or a quarter of them
_CHOSEN = ("optim.lr", "train.epochs")
# Other limits, beside which a run has no number of epochs.
_LENGTHS = ("train.steps", "train.tokens", "train.minutes", "train.convergence.evaluations")

_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        run: its run directory.
        lr: learning rate.
        epochs: epochs of training.
        valid: mean of the tasks' metrics on the validation rows, of the best checkpoint, or where no task has one, the
            loss with a minus sign; None of a trial that failed.
        seconds: that it took.
        failed: why it failed, such as a loss that was not finite; or None.
    """

    run: str
    lr: float
    epochs: float
    valid: float | None
    seconds: float
    failed: str | None = None

    @property
    def score(self) -> float:
        """``valid``; below every other where the trial failed."""
        return -math.inf if self.valid is None else self.valid


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All trials, and the best of them.

    Attributes:
        trials: in the order in which they ran.
        best: the one with the highest metric on the validation rows; the first of equals.
        metric: name of what ``Trial.valid`` is the mean of, or loss.
        valid: metrics of the best on the validation rows, which are a little too high, since they chose it.
        test: metrics of the best on the test rows.
        warnings: by task, what should be known about the metrics of the best.
        complete: every neighbour of the best was tried.
    """

    trials: list[Trial]
    best: Trial
    metric: str
    valid: dict[str, Any]
    test: dict[str, Any]
    warnings: dict[str, list[str]]
    complete: bool


def finetune_search(
    n: int,
    init_from: str | Path,
    tasks: Paths,
    *,
    out: str | Path,
    overrides: str | Sequence[str] = (),
    **options: Any,
) -> SearchResult:
    """Fine-tune at most ``n`` times, each into ``out``/trial-N, and choose by the validation rows.

    The first trial has the default settings. Then, from the best trial so far, the learning rate is multiplied or
    divided by 3, and the number of epochs by 2, until no neighbour is better. Test rows choose nothing. A trial whose
    training fails counts as the worst. Trials are also written to ``out``/search.json; a search that was interrupted
    goes on with ``resume``.

    Raises:
        UsageError: search.json exists, or has more than ``n`` trials; or rate or epochs are given, which it chooses.
        FirstlightError: as ``finetune``, for the first trial.
        Interrupted: a signal ended one of the runs.
    """
    folder = Path(out)
    _check_free(init_from, as_list(overrides))
    recorded = _recorded(folder, n, resumes=bool(options.get("resume")), restarts=bool(options.get("restart")))
    trials: dict[_Place, Trial] = {}
    results: dict[_Place, FinetuneResult] = {}
    metric = ""
    first: Trial | None = None
    while len(trials) < n and (place := _next(trials)) is not None:
        number = len(trials) + 1
        run = RunDirectory(folder / f"trial-{number}")
        chosen = [] if first is None else [f"{key}={value:.6g}" for key, value in _values(first, place).items()]
        failed = recorded[number - 1].failed if number <= len(recorded) else None
        try:
            if failed is None:
                result = finetune(init_from, tasks, out=run.path, overrides=[*as_list(overrides), *chosen], **options)
                result.raise_if_interrupted()
                trials[place], results[place] = _trial(run, result), result
                metric = metric or _metric(result)
        except TrainingError as error:
            if first is None:
                raise
            failed = str(error)
        except Interrupted:
            progress.notice(f"trial {number} is interrupted; the same command with --resume goes on with it")
            raise
        if failed is not None:
            assert first is not None, "the first trial raises"
            values = _values(first, place)
            trials[place] = Trial(str(run.path), values["optim.lr"], values["train.epochs"], None, 0.0, failed)
        first = first or trials[place]
        _report(number, n, trials[place], metric)
        _write(folder, trials)
    best = _best(trials)
    kept = results[best]
    return SearchResult(
        list(trials.values()), trials[best], metric, kept.valid, kept.test, kept.warnings, _next(trials) is None
    )


def _recorded(folder: Path, n: int, *, resumes: bool, restarts: bool) -> list[Trial]:
    """Return the trials of a search that goes on, after checking that it may."""
    file = folder / SEARCH
    if not file.exists():
        return []
    if not (resumes or restarts):
        raise UsageError("already exists", where=file, fix="Choose another --out, or add --resume.")
    found = read_json_object(file).get("trials")
    if restarts or not isinstance(found, list):
        return []
    if len(found) > n:
        raise UsageError(
            f"has {len(found)} trials already",
            where=file,
            found=f"--search {n}",
            fix=f"Set --search {len(found)} or more.",
        )
    return [Trial(**{f.name: trial.get(f.name) for f in fields(Trial)}) for trial in found]


def _check_free(init_from: str | Path, overrides: Sequence[str]) -> None:
    """Check that what the search chooses is not given."""
    given = set(flatten(parse_overrides(overrides)))
    in_file = flatten(read_toml(Path(init_from))) if Path(init_from).suffix == ".toml" else {}
    for key in _CHOSEN:
        if key in given:
            raise UsageError("is chosen by the search", where=key, fix="Leave it out, or leave out --search.")
    for key in _LENGTHS:
        if key in given or in_file.get(key) not in (None, "auto", 0):
            fix = "Leave it out, or leave out --search."
            raise UsageError("limits the updates, whose number the search chooses by epochs", where=key, fix=fix)


def _next(trials: Mapping[_Place, Trial]) -> _Place | None:
    """Return the next place to try, in steps of rate and epochs from the first trial; None where none is left."""
    if not trials:
        return 0, 0
    best = _best(trials)
    neighbours = ((best[0] + rate, best[1] + epochs) for rate, epochs in _NEIGHBOURS)
    return next((p for p in neighbours if p not in trials and abs(p[1]) <= _MAX_EPOCH_STEPS), None)


def _best(trials: Mapping[_Place, Trial]) -> _Place:
    return max(trials, key=lambda place: trials[place].score)  # the first of equals


def _values(first: Trial, place: _Place) -> dict[str, float]:
    """Return the settings of a trial."""
    rate, epochs = place
    return {"optim.lr": first.lr * _RATE_STEP**rate, "train.epochs": first.epochs * _EPOCH_STEP**epochs}


def _metric(result: FinetuneResult) -> str:
    """Name what chooses: the metrics of the tasks that have one, as they choose the checkpoint of a run."""
    names = dict.fromkeys(m["metric"] for m in result.valid.values() if m["metric"] != "loss")
    return " and ".join(names) or "loss"


def _trial(run: RunDirectory, result: FinetuneResult) -> Trial:
    settings = read_toml(run.settings_file)
    values = [m["value"] for m in result.valid.values() if m["metric"] != "loss"]
    values = values or [-m["value"] for m in result.valid.values()]
    epochs = settings["train"]["epochs"]
    return Trial(str(run.path), settings["optim"]["lr"], epochs, sum(values) / len(values), result.seconds)


def _report(done: int, n: int, trial: Trial, metric: str) -> None:
    says = f"trial {done} of at most {n}: learning rate {trial.lr:.3g}, {trial.epochs:g} epochs"
    if trial.valid is None:
        progress.notice(f"{says}: failed: {trial.failed}", level="warning")
        return
    left = ""
    if done == 1 and n > 1:
        shortest, longest = (trial.seconds * _EPOCH_STEP**steps for steps in (-_MAX_EPOCH_STEPS, _MAX_EPOCH_STEPS))
        left = f"; at most {n - 1} more, of about {shortest:.0f} to {longest:.0f} s"
    says = f"{says}: {metric} {abs(trial.valid) if metric == 'loss' else trial.valid:.4f} on the validation rows"
    progress.notice(f"{says}, {trial.seconds:.0f} s{left}")


def _write(folder: Path, trials: Mapping[_Place, Trial]) -> None:
    write_json(folder / SEARCH, {"trials": [asdict(t) for t in trials.values()], "best": trials[_best(trials)].run})
