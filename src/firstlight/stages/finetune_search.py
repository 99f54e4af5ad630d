"""``finetune --search``: try learning rates and numbers of passes, and choose among them on the validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import flatten, read_toml
from firstlight.errors import UsageError
from firstlight.runs import RunDirectory, write_json
from firstlight.stages.finetune import FinetuneResult, finetune
from firstlight.types import Paths, as_list

_FILE = "search.json"
_RATE_STEP, _EPOCH_STEP = 3.0, 2.0  # factors between neighbouring trials
_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1))  # in the order in which they are tried
_CHOSEN = ("optim.lr", "train.epochs")
# Other limits, beside which a run has no number of epochs.
_LENGTHS = ("train.steps", "train.tokens", "train.minutes", "train.convergence.evaluations")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        run: its run directory.
        lr: learning rate.
        epochs: passes over the rows.
        valid: mean of the tasks' metrics on the validation rows, of the best checkpoint.
        seconds: that it took.
    """

    run: str
    lr: float
    epochs: float
    valid: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All trials, and the best of them.

    Attributes:
        trials: in the order in which they ran.
        best: the one with the highest metric on the validation rows; the first of equals.
        valid: metrics of the best on the validation rows, which are a little too good, since they chose it.
        test: metrics of the best on the test rows.
        warnings: by task, what should be known about the metrics of the best.
        complete: every neighbour of the best was tried.
    """

    trials: list[Trial]
    best: Trial
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

    The first trial has the default settings. Then, from the best trial so far, the learning rate goes up and down by
    factors of 3, and the number of passes by factors of 2, until no neighbour is better. Test rows choose nothing.
    Trials are also written to ``out``/search.json; a search that was interrupted goes on with ``resume``.

    Raises:
        UsageError: search.json exists; or rate or passes are given, which it chooses.
        FirstlightError: as ``finetune``.
        Interrupted: a signal ended one of the runs.
    """
    folder = Path(out)
    _check_free(init_from, as_list(overrides))
    resumes = options.get("resume") or options.get("restart")
    if (folder / _FILE).exists() and not resumes:
        raise UsageError("already exists", where=folder / _FILE, fix="Choose another --out, or add --resume.")
    trials: dict[tuple[int, int], Trial] = {}
    results: dict[tuple[int, int], FinetuneResult] = {}
    first: Trial | None = None
    while len(trials) < n and (place := _next(trials)) is not None:
        run = RunDirectory(folder / f"trial-{len(trials) + 1}")
        chosen = [] if first is None else [f"{key}={value:.6g}" for key, value in _values(first, place).items()]
        result = finetune(init_from, tasks, out=run.path, overrides=[*as_list(overrides), *chosen], **options)
        result.raise_if_interrupted()
        trials[place], results[place] = _trial(run, result), result
        first = first or trials[place]
        _report(len(trials), n, trials[place])
        _write(folder, trials)
    best = _best(trials)
    kept = results[best]
    return SearchResult(
        list(trials.values()), trials[best], kept.valid, kept.test, kept.warnings, _next(trials) is None
    )


def _check_free(init_from: str | Path, overrides: Sequence[str]) -> None:
    """Check that what the search chooses is not given."""
    given = {override.partition("=")[0] for override in overrides}
    in_file = flatten(read_toml(Path(init_from))) if Path(init_from).suffix == ".toml" else {}
    for key in _CHOSEN:
        if key in given:
            raise UsageError("is chosen by the search", where=key, fix="Leave it out, or leave out --search.")
    for key in _LENGTHS:
        if key in given or in_file.get(key) not in (None, "auto", 0):
            fix = "Leave it out, or leave out --search."
            raise UsageError("limits the updates, whose number the search chooses by epochs", where=key, fix=fix)


def _next(trials: Mapping[tuple[int, int], Trial]) -> tuple[int, int] | None:
    """Return the next place to try, in steps of rate and passes from the first trial; None where none is left."""
    if not trials:
        return 0, 0
    best = _best(trials)
    neighbours = ((best[0] + rate, best[1] + passes) for rate, passes in _NEIGHBOURS)
    return next((place for place in neighbours if place not in trials), None)


def _best(trials: Mapping[tuple[int, int], Trial]) -> tuple[int, int]:
    return max(trials, key=lambda place: trials[place].valid)  # the first of equals


def _values(first: Trial, place: tuple[int, int]) -> dict[str, float]:
    """Return the settings of a trial."""
    rate, passes = place
    return {"optim.lr": first.lr * _RATE_STEP**rate, "train.epochs": first.epochs * _EPOCH_STEP**passes}


def _trial(run: RunDirectory, result: FinetuneResult) -> Trial:
    settings = read_toml(run.settings_file)
    values = [-m["value"] if m["metric"] == "loss" else m["value"] for m in result.valid.values()]
    epochs = settings["train"]["epochs"]
    return Trial(str(run.path), settings["optim"]["lr"], epochs, sum(values) / len(values), result.seconds)


def _report(done: int, n: int, trial: Trial) -> None:
    left = f"; at most {n - done} more, of about as long" if done == 1 and n > 1 else ""
    progress.notice(
        f"trial {done} of {n}: learning rate {trial.lr:.3g}, {trial.epochs:g} passes: {trial.valid:.4f} on the "
        f"validation rows, {trial.seconds:.0f} s{left}"
    )


def _write(folder: Path, trials: Mapping[tuple[int, int], Trial]) -> None:
    write_json(folder / _FILE, {"trials": [asdict(t) for t in trials.values()], "best": trials[_best(trials)].run})
