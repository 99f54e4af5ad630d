"""Tasks and notices reach whoever listens, and cost nothing where nobody does."""

import logging

import pytest

from firstlight import progress
from firstlight.progress import Event


def test_a_task_counts_and_finishes():
    events: list[Event] = []
    with progress.listen(events.append), progress.task("encode", 10, "B") as work:
        work.advance(4)
        work.advance(6, "half of it")
    assert [(e.done, e.finished, e.text) for e in events] == [
        (4, False, ""),
        (10, False, "half of it"),
        (10, True, "half of it"),
    ]
    assert {(e.task, e.total, e.unit) for e in events} == {("encode", 10, "B")}


def test_a_task_finishes_by_an_error_too():
    events: list[Event] = []
    with pytest.raises(ZeroDivisionError), progress.listen(events.append), progress.task("encode"):
        raise ZeroDivisionError
    assert [e.finished for e in events] == [True]


def test_every_listener_hears_and_leaves():
    one: list[Event] = []
    two: list[Event] = []
    with progress.listen(one.append):
        with progress.listen(two.append):
            progress.notice("a")
        progress.warn("b")
    progress.notice("c")
    assert [e.text for e in one] == ["a", "b"]
    assert [e.text for e in two] == ["a"]
    assert [e.level for e in one] == ["info", "warning"]


def test_a_listener_leaves_by_an_error_too():
    events: list[Event] = []
    with pytest.raises(ZeroDivisionError), progress.listen(events.append):
        raise ZeroDivisionError
    progress.notice("late")
    assert events == []


def test_notices_without_a_listener_go_to_the_logger(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="firstlight"):
        progress.notice("reused")
        progress.warn("100 % of it is odd")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.INFO, "reused"),
        (logging.WARNING, "100 % of it is odd"),
    ]


def test_control_characters_do_not_reach_a_listener():
    events: list[Event] = []
    with progress.listen(events.append), progress.task("fetch \x1b[2J\u202e") as work:
        work.advance(1, "a\rb")
        progress.warn("c\x9b\nd")
    assert [(e.task, e.text) for e in events][:2] == [("fetch \\x1b[2J\\u202e", "a\\rb"), ("", "c\\x9b\nd")]
