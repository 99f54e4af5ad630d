"""The options of every command, in any position; a log file has everything, and survives the process."""

import json
import re
from pathlib import Path

import pytest
from small_world import RUN_SETTINGS, Call

from firstlight.cli.common_options import CommonOptions, take_common_options

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


def lines_of(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(STAMP, "", line, count=1) for line in lines]


@pytest.mark.parametrize(
    ("line", "rest", "options"),
    [
        ("-q data stats x", "data stats x", CommonOptions(quiet=True)),
        ("data --verbose stats x -v", "data stats x", CommonOptions(verbose=True)),
        ("data stats x --log-file a.log y", "data stats x y", CommonOptions(log_file="a.log")),
        ("--log-file=a=b.log data stats", "data stats", CommonOptions(log_file="a=b.log")),
        ("data stats --log-file", "data stats", CommonOptions(log_file="")),
        ("--debug data --trust", "data", CommonOptions(debug=True, trust=True)),
        ("generate run -- -q --log-file x", "generate run -- -q --log-file x", CommonOptions()),
    ],
)
def test_positions(line: str, rest: str, options: CommonOptions):
    assert take_common_options(line.split()) == (rest.split(), options)


def test_quiet_leaves_results_warnings_and_errors(world: Path, call: Call):
    loud = call("data", "prepare", "text.txt", "--out", "loud", "tokenizer.kind=byte")
    assert "for training" in loud.err
    quiet = call("data", "-q", "prepare", "text.txt", "--out", "still", "tokenizer.kind=byte")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.replace("still", "loud") == loud.out
    assert call("--quiet", "data", "verify", "nothere").err.startswith("error: nothere: no such folder")


def test_a_log_has_what_is_shown_and_more(world: Path, call: Call):
    plain = call("pretrain", "text.txt", "--out", "one", *RUN_SETTINGS)
    answer = call("pretrain", "text.txt", "--out", "two", *RUN_SETTINGS, "--quiet", "--log-file", "run.log")
    assert answer.code == 0
    assert all(line.startswith("warning: ") for line in answer.err.splitlines())
    lines = lines_of(world / "run.log")
    assert "pretrain text.txt --out two" in lines[0]
    assert lines[-1] == "exit code 0"
    assert "step 4: train loss" in "\n".join(lines)
    assert any(line.startswith("chosen automatically: ") for line in lines)
    assert any(line.startswith("train: 1 of 4 steps  ETA ") for line in lines)
    for shown in answer.out.splitlines():
        assert shown in lines
    for shown in plain.err.splitlines():
        if shown.startswith("step "):
            assert shown in lines


def test_a_log_is_continued_and_keeps_errors(world: Path, call: Call):
    call("data", "stats", "store", "--log-file", "x.log")
    failed = call("data", "stats", "nothere", "--log-file", "x.log")
    lines = lines_of(world / "x.log")
    assert lines[-2:] == [failed.err.rstrip(), "exit code 2"]
    assert lines.count("exit code 0") == 1
    table = call("data", "stats", "store", "--json", "--log-file", "x.log").out
    assert json.loads(table)
    assert table.rstrip() in lines_of(world / "x.log")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--log-file", "text.txt"), "error: --log-file: exists, and is not a log of Firstlight"),
        (("--log-file", "store"), "error: --log-file: is a folder (found store; expected a file)"),
        (("--log-file", "no/where.log"), "error: --log-file: no such folder (found no)"),
        (("--log-file",), "error: --log-file: needs a file"),
        (("-q", "-v"), "error: --quiet --verbose: exclude each other"),
    ],
)
def test_a_log_file_that_cannot_be_is_refused(words: tuple[str, ...], expected: str, world: Path, call: Call):
    before = (world / "text.txt").read_bytes()
    answer = call("data", "stats", "store", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(expected)
    assert len(answer.err.splitlines()) == 1
    assert (world / "text.txt").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_is_said_once_and_ends_nothing(world: Path, call: Call):
    answer = call("data", "stats", "store", "--log-file", "/dev/full")
    assert answer.code == 0
    assert answer.out == call("data", "stats", "store").out
    assert len(answer.err.splitlines()) == 1
    assert answer.err == "warning: /dev/full: no space left on the disk; lines are missing in the log file\n"
