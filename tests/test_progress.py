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
        (0, False, ""),
        (4, False, ""),
        (10, False, "half of it"),
        (10, True, "half of it"),
    ]
    assert {(e.task, e.total, e.unit) for e in events} == {("encode", 10, "B")}


def test_a_task_finishes_by_an_error_too():
    events: list[Event] = []
    with pytest.raises(ZeroDivisionError), progress.listen(events.append), progress.task("encode"):
        raise ZeroDivisionError
    assert [(e.finished, e.failed) for e in events] == [(False, False), (True, True)]


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
    with caplog.at_level(logging.DEBUG, logger="firstlight"):
        progress.detail("took 2 s")
        progress.notice("reused")
        progress.warn("100 % of it is odd")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.DEBUG, "took 2 s"),
        (logging.INFO, "reused"),
        (logging.WARNING, "100 % of it is odd"),
    ]


def test_control_characters_do_not_reach_a_listener():
    events: list[Event] = []
    with progress.listen(events.append), progress.task("fetch \x1b[2J\u202e") as work:
        work.advance(1, "a\rb")
        progress.warn("c\x9b\nd")
    assert [(e.task, e.text) for e in events][1:3] == [("fetch \\x1b[2J\\u202e", "a\\rb"), ("", "c\\x9b\nd")]


def test_notices_of_repeated_work_are_sent_once():
    events: list[Event] = []
    sent: set[str] = set()
    with progress.listen(events.append):
        for _ in range(3):
            with progress.each_notice_once(sent):
                progress.notice("its context slides")
        progress.notice("its context slides")
    assert [e.text for e in events] == ["its context slides"] * 2
