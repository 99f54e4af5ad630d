"""The report of a run that trains: there from the first evaluation on, in 1 % of the time, and never its end."""

import time
from pathlib import Path

import pytest
from small_run import make_context

from firstlight import progress
from firstlight.errors import StorageError
from firstlight.store import TokenStore
from firstlight.train import LiveReport, fit


class Clock:
    """A clock that writing a report moves forward."""

    def __init__(self, run: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.run, self.written = 0.0, seconds, run, list[float]()
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def write(self, run: Path) -> None:
        assert run == self.run
        (run / "report.html").write_text("a report")
        self.written.append(self.now)
        self.now += self.seconds


def test_reports_take_one_percent_of_the_time_after_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path, monkeypatch, seconds=0.2)
    report = LiveReport(tmp_path, clock.write)
    for elapsed in range(1, 201):
        clock.now = float(elapsed)
        report.update(clock.now)
    assert clock.written[:2] == [1.0, 40.0]  # two take 1 % of 40 seconds
    assert len(clock.written) * clock.seconds <= 0.01 * 200


def test_a_run_that_goes_on_guesses_what_a_report_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path, monkeypatch, seconds=0.1)
    clock.write(tmp_path)
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(100_000_000)  # half a second for the page, and ten for the metrics
    report = LiveReport(tmp_path, clock.write)
    for elapsed in (1.0, 100.0, 1000.0, 1100.0):
        clock.now = elapsed
        report.update(elapsed)
    assert clock.written[1:] == [1100.0]


@pytest.mark.parametrize("validates", [True, False])
def test_a_report_is_there_from_the_first_evaluation_on(tmp_path: Path, store: TokenStore, validates: bool) -> None:
    ctx = make_context(tmp_path, store, steps=4, eval_every=2, **({} if validates else {"evaluate": None}))
    seen: list[int] = []
    ctx.report = LiveReport(tmp_path, lambda run: seen.append(ctx.counters.step))
    fit(ctx)
    assert seen[0] == 0


def test_a_report_that_fails_is_said_once_and_training_goes_on(tmp_path: Path, store: TokenStore) -> None:
    def fail(run: Path) -> None:
        raise StorageError("no space left on the disk", where=run / "report.html")

    ctx = make_context(tmp_path, store, steps=6, eval_every=1)
    ctx.report = LiveReport(tmp_path, fail)
    ctx.report._expected = lambda: -1e9  # type: ignore[method-assign]  # at every evaluation
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        result = fit(ctx)
    assert result.finished and result.step == 6
    assert [text for text in said if "report" in text] == [
        "the report cannot be written, and training goes on without it: "
        f"{tmp_path / 'report.html'}: no space left on the disk"
    ]
