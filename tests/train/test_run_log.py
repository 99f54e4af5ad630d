"""What a run writes about itself, and those who follow it."""

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from firstlight.errors import ConfigError, MissingExtra, StorageError, UnknownName
from firstlight.files import json_lines
from firstlight.files.json_lines import JsonLines
from firstlight.progress import Event
from firstlight.train import TRACKERS, RunLog, TrainSettings
from firstlight.train import log as log_module
from firstlight.train.trackers import TensorBoard

pytestmark = pytest.mark.usefixtures("trust_files")


def open_log(run: Path, **kw: Any) -> RunLog:
    return RunLog(run, **{"active": True, "trackers": [], **kw})


def test_figures_that_are_not_finite_become_words(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.metrics(step=1, loss=math.nan, up=math.inf, down=-math.inf, lr=0.1, n=3)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"step": 1, "loss": "NaN", "up": "Infinity", "down": "-Infinity", "lr": 0.1, "n": 3}


def test_floats_come_back_as_they_were(tmp_path: Path) -> None:
    open_log(tmp_path).metrics(step=1, loss=0.1 + 0.2)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 0.1 + 0.2


def test_samples_and_events_are_plain_lines(tmp_path: Path, events: list[Event]) -> None:
    log = open_log(tmp_path)
    log.sample(step=3, prompt="", text="你好\u2028\nworld")
    log.event(4, "rollback", "back")
    log.event(5, "resume", "on", warn=False)
    assert json.loads((tmp_path / "samples.jsonl").read_bytes())["text"] == "你好\u2028\nworld"
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(e["step"], e["kind"], e["text"]) for e in lines] == [(4, "rollback", "back"), (5, "resume", "on")]
    assert [(e.text, e.level) for e in events] == [("step 4: back", "warning"), ("step 5: on", "info")]


def test_other_processes_write_nothing(tmp_path: Path, events: list[Event]) -> None:
    log = RunLog(tmp_path, active=False, trackers=["tensorboard", "no such"])
    log.metrics(step=1, loss=1.0)
    log.sample(step=1, text="x")
    log.event(1, "kind", "text")
    log.truncate(0)
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert events == []


def test_cut_back_drops_later_lines_and_half_written_ones(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in range(1, 6):
        log.metrics(step=step, loss=step / 2)
        log.sample(step=step, text="line\u2028or \u0085 paragraph 中")
    for name in ("metrics.jsonl", "samples.jsonl"):
        path = tmp_path / name
        whole = path.read_bytes().splitlines(keepends=True)[:3]
        with path.open("ab") as file:
            file.write('{"step": 2, "text": "中'.encode()[:-1])  # ends amid a character
        log.truncate(3)
        assert path.read_bytes() == b"".join(whole)
    log.metrics(step=4, loss=0.0)
    assert steps_in(tmp_path) == [1, 2, 3, 4]


def test_cut_back_to_the_beginning_empties(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.metrics(step=1, loss=1.0)
    log.truncate(-1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert not (tmp_path / "samples.jsonl").exists()


def steps_in(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_lines_that_the_disk_refuses_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    log = open_log(tmp_path)
    log.metrics(step=1, loss=1.0)
    real = log_module.append_line

    def full(path: Path, line: str) -> None:
        with path.open("ab") as file:
            file.write(line.encode()[:5])
        raise StorageError("no space left on the disk", where=path) from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(log_module, "append_line", full)
    log.metrics(step=2, loss=1.0)
    log.metrics(step=3, loss=1.0)
    assert len([e for e in events if e.level == "warning"]) == 1
    assert "no space left" in events[0].text
    monkeypatch.setattr(log_module, "append_line", real)
    log.metrics(step=4, loss=1.0)
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    monkeypatch.setattr(log_module, "append_line", full)
    log.metrics(step=5, loss=1.0)
    log.metrics(step=6, loss=1.0)
    monkeypatch.setattr(log_module, "append_line", real)
    log.truncate(5)
    log.metrics(step=6, loss=2.0)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_closing_writes_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]) -> None:
    log = open_log(tmp_path)

    def full(path: Path, line: str) -> None:
        raise StorageError("no space left on the disk", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "append_line", full)
        log.metrics(step=1, loss=1.0)
        log.sample(step=1, text="a")
    log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1


class Follower:
    """A tracker that remembers; as third-party code would be."""

    seen: list[Any] = []
    fails_at: int | None = None

    def __init__(self, run: Path) -> None:
        self.run = run

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server is away")
        Follower.seen.append((step, dict(figures)))

    def close(self) -> None:
        Follower.seen.append("closed")


class Broken(Follower):
    """A tracker that fails where asked."""

    at = ""

    def __init__(self, run: Path) -> None:
        if self.at == "open":
            raise RuntimeError("no key")
        super().__init__(run)

    def close(self) -> None:
        if self.at == "close":
            raise RuntimeError("no end")
        super().close()


@pytest.fixture(autouse=True)
def _trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "seen", [])
    monkeypatch.setitem(TRACKERS, "follower", Follower)
    monkeypatch.setitem(TRACKERS, "broken", Broken)


def test_trackers_get_numbers_by_step(tmp_path: Path) -> None:
    log = open_log(tmp_path, trackers=["follower"])
    log.metrics(step=1, loss=2.0, name="text", n=3)
    log.metrics(step=2, loss=math.inf)
    log.close()
    assert Follower.seen == [(1, {"loss": 2.0, "n": 3.0}), (2, {"loss": math.inf}), "closed"]
    log.close()


def test_third_party_trackers_are_named_by_module(tmp_path: Path) -> None:
    log = open_log(tmp_path, trackers=["test_run_log:Follower"])
    log.metrics(step=1, loss=2.0)
    log.close()
    assert Follower.seen == [(1, {"loss": 2.0}), "closed"]


@pytest.mark.parametrize(("at", "words"), [("open", "no key"), ("log", "the server is away"), ("close", "no end")])
def test_trackers_never_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event], at: str, words: str
) -> None:
    monkeypatch.setattr(Broken, "at", at)
    monkeypatch.setattr(Broken, "fails_at", 1 if at == "log" else None)
    log = open_log(tmp_path, trackers=["broken", "follower"])
    log.metrics(step=1, loss=1.0)
    log.metrics(step=2, loss=2.0)
    log.close()
    assert [e.text for e in events] == [f"tracker broken is off: {words}"]
    assert (2, {"loss": 2.0}) in Follower.seen
    assert Follower.seen[-1] == "closed", "the other one goes on"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_unknown_tracker_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
        open_log(tmp_path, trackers=["tensorbord"])
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
        TrainSettings(trackers=["tensorbord"])


class WithoutClose:
    def __init__(self, run: Path) -> None:
        pytest.fail("called before it was checked")

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...


class WithoutRun(Follower):
    def __init__(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WithoutClose", "lacks close"),
        ("WithoutRun", r"its constructor does not accept \(run\)"),
        ("open_log", "it is the function open_log, and lacks log, close"),
    ],
)
def test_the_interface_is_checked_with_the_settings(tmp_path: Path, name: str, words: str) -> None:
    for use in (lambda names: TrainSettings(trackers=names), lambda names: open_log(tmp_path, trackers=names)):
        with pytest.raises(ConfigError, match=words) as caught:
            use([f"{__name__}:{name}"])
        assert caught.value.where == "train.trackers"


@pytest.mark.parametrize(("trackers", "said"), [("auto", 0), (["tensorboard"], 1)])
def test_a_tracker_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event], trackers: Any, said: int
) -> None:
    def missing(self: Any, run: Path) -> None:
        raise MissingExtra("TensorBoard", "tensorboard")

    monkeypatch.setattr(TensorBoard, "__init__", missing)
    log = open_log(tmp_path, trackers=trackers)
    log.metrics(step=1, loss=1.0)
    log.close()
    assert ["-m pip install 'tensorboard" in e.text for e in events] == [True] * said


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = open_log(tmp_path, trackers="auto")
    log.metrics(step=1, loss=2.5, lr=0.1)
    log.metrics(step=2, loss=math.nan)
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    losses = [(e.step, e.value) for e in read.Scalars("loss")]
    assert losses[0] == (1, 2.5)
    assert losses[1][0] == 2
    assert math.isnan(losses[1][1])
    assert [e.value for e in read.Scalars("lr")] == [pytest.approx(0.1)]


def damaged_lines(path: Path, n: int) -> bytes:
    """Write ``n`` lines of steps 1 to ``n``, with two damaged ones after step 2, and return them."""
    lines = [json.dumps({"step": step}) for step in range(1, n + 1)]
    data = "\n".join([*lines[:2], '{"step": 3, "lo', "\0\0\0", "", *lines[2:]]).encode() + b"\n"
    path.write_bytes(data)
    return data


def test_damaged_lines_are_kept_and_said(tmp_path: Path, events: list[Event]) -> None:
    log = open_log(tmp_path)
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        whole = damaged_lines(tmp_path / name, 5)
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"step": 6, "lo')
        events.clear()
        log.truncate(5)
        assert (tmp_path / name).read_bytes() == whole
        told = [(e.level, e.text) for e in events if name in e.text]
        assert [level for level, _ in told] == ["info", "warning"]
        assert "the last line was incomplete and was removed" in told[0][1]
        assert "2 lines are not JSON objects, the first is line 3" in told[1][1]


def test_a_file_is_cut_at_the_first_later_line(tmp_path: Path, events: list[Event]) -> None:
    log = open_log(tmp_path)
    whole = damaged_lines(tmp_path / "metrics.jsonl", 9)
    log.truncate(4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole[: whole.index(b'{"step": 5')]
    log.truncate(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
    damaged_lines(tmp_path / "metrics.jsonl", 9)
    log.truncate(-1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_last_line_without_its_line_break_gets_one(tmp_path: Path, events: list[Event]) -> None:
    log = open_log(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    log.truncate(2)
    log.metrics(step=3)
    assert steps_in(tmp_path) == [1, 2, 3]
    assert events == []


def test_a_line_that_is_too_long_is_damaged_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_MAX_LINE_BYTES", 100)
    path = tmp_path / "log"
    path.write_text('{"step": 1}\n' + "x" * 1050 + "\n" + '{"step": 2}\n' + "y" * 200)
    with path.open("rb") as file:
        lines = JsonLines(file)
        assert list(lines) == [(0, {"step": 1}), (12 + 1051, {"step": 2})]
    assert (lines.n_damaged, lines.first_damaged, lines.incomplete_at) == (1, 2, 12 + 1051 + 12)


def test_an_evaluation_that_the_checkpoint_does_not_count_is_removed(tmp_path: Path) -> None:
    log = RunLog(tmp_path, active=True, trackers=[])
    for step in (1, 2):
        log.metrics(step=step, loss=1.0)
        log.metrics(step=step, valid_loss=2.0)
        log.sample(step=step, text="a")
    log.truncate(2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert log.has_sample(2) and not log.has_sample(1)
    log.truncate(2, evaluated=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 1, "valid_loss": 2.0}, {"step": 2, "loss": 1.0}]
    log.truncate(1)
    assert log.has_sample(1)
    log.truncate(-1)
    assert not log.has_sample(1)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_lines_that_are_never_written_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, line: str) -> None:
        raise StorageError("no space left on the disk", where=path)

    log = RunLog(tmp_path, active=True, trackers=[])
    log.metrics(step=1, loss=1.0)
    log.check_complete()
    monkeypatch.setattr(log_module, "append_line", full)
    log.metrics(step=2, loss=1.0)
    log.metrics(step=3, loss=1.0)
    log.close()
    with pytest.raises(StorageError, match=r"metrics.jsonl: the last 2 lines could not be written.*--resume"):
        log.check_complete()
