"""What the command line makes of errors that no room foresaw: one line, exit code 1, a traceback only on demand."""

import contextlib
import errno
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import Call

from firstlight.config import load_object, trust_references
from firstlight.errors import FirstlightError, Interrupted, UsageError
from firstlight.stages import data


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let ``data verify`` raise an error."""

    def _failing(error: BaseException) -> None:
        def verify(path: str) -> None:
            raise error

        monkeypatch.setattr(data, "verify", verify)

    return _failing


MEMORY = "error: out of memory (found {}). Use a smaller model, train.micro_batch=1, or a machine with more memory."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FirstlightError("is wrong", where="x"), "error: x: is wrong"),
        (
            ValueError("two\nlines"),
            "error: internal error: ValueError: two lines; run again with --debug and report it with the traceback",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "error: a/b: no space left on the disk. "),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "error: a/b: permission denied. "),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a/b"), "error: a/b: Invalid cross-device link"),
        (OSError("odd"), "error: odd"),
        (MemoryError(), "error: out of memory. Use a smaller model"),
        (RuntimeError("CUDA out of memory. Tried 2 GiB"), MEMORY.format("CUDA out of memory. Tried 2 GiB")),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: x"),
            MEMORY.format("DefaultCPUAllocator: not enough memory: x"),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line(error: Exception, line: str, failing: Callable[[BaseException], None], call: Call):
    failing(error)
    answer = call("data", "verify", "x")
    assert answer.code == 1
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(line)


def test_usage_errors_of_rooms_exit_with_2(failing: Callable[[BaseException], None], call: Call):
    failing(UsageError("cannot be meant"))
    assert call("data", "verify", "x").code == 2


@pytest.mark.parametrize("place", ["before", "after", "between"])
def test_debug_may_stand_anywhere(place: str, failing: Callable[[BaseException], None], call: Call):
    failing(ValueError("odd"))
    words = {"before": "--debug data verify x", "after": "data verify x --debug", "between": "data --debug verify x"}
    answer = call(*words[place].split())
    assert answer.code == 1
    assert "Traceback (most recent call last)" in answer.err
    assert answer.err.splitlines()[-1] == "error: internal error: ValueError: odd"


def test_debug_behind_two_dashes_is_a_word(call: Call):
    answer = call("tokenizer", "encode", "nothere", "--", "--debug")
    assert "Traceback" not in answer.err
    assert answer.err.startswith("error: nothere")


def test_control_c(failing: Callable[[BaseException], None], call: Call):
    failing(KeyboardInterrupt())
    answer = call("data", "verify", "x")
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_one_line(name: str, code: int, failing: Callable[[BaseException], None], call: Call):
    failing(Interrupted(name))
    answer = call("data", "verify", "x")
    assert (answer.code, answer.out, answer.err) == (code, "", f"interrupted ({name})\n")


def test_a_signal_does_not_hide_the_error_that_was_being_reported(monkeypatch: pytest.MonkeyPatch, call: Call):
    """A launcher ends the other processes of a run when one has failed."""

    def verify(path: str) -> None:
        try:
            raise FirstlightError("another process has ended")
        finally:
            raise Interrupted("SIGTERM")

    monkeypatch.setattr(data, "verify", verify)
    answer = call("data", "verify", "x")
    assert (answer.code, answer.err) == (1, "error: another process has ended\n")


def test_a_broken_pipe_is_silent(failing: Callable[[BaseException], None], call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("firstlight.cli.app.is_reader_gone", lambda: True)
    failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    answer = call("data", "verify", "x")
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_another_broken_pipe_is_an_error(failing: Callable[[BaseException], None], call: Call):
    """Such as that of a program that is called: standard output is not broken."""
    failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    answer = call("data", "verify", "x")
    assert (answer.code, answer.err) == (1, "error: [Errno 32] Broken pipe\n")


@pytest.mark.filterwarnings("default")
def test_warnings_of_libraries_are_one_line(monkeypatch: pytest.MonkeyPatch, call: Call):
    def verify(path: str) -> data.VerifyResult:
        warnings.warn("old\nstyle", UserWarning, stacklevel=1)
        return data.VerifyResult([], [])

    monkeypatch.setattr(data, "verify", verify)
    answer = call("data", "verify", "x")
    assert answer.code == 0
    assert answer.err == "note: old style\n"


def test_an_error_in_an_extension_names_its_line(
    failing: Callable[[BaseException], None], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "extension_of_a_user.py").write_text("def f():\n    return {}['inside']\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust_references("extension_of_a_user:f")
    function = load_object("extension_of_a_user:f", {}, kind="function")
    with pytest.raises(KeyError) as caught:
        function()
    failing(caught.value)
    answer = call("data", "verify", "x")
    assert answer.code == 1
    assert answer.err == (
        "error: extension_of_a_user, line 2: KeyError: 'inside'; run again with --debug for the traceback\n"
    )


@pytest.mark.parametrize("words", [["data", "verify", "nothere"], ["data", "verify", "x", "--tpo", "3"]])
def test_an_invalid_request_to_several_processes_is_reported_once(
    words: list[str], call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The launcher ends the others while they wait; one that is not ended reports what is wrong with it alone."""
    assert call(*words).err.count("error: ") == 1
    monkeypatch.setenv("RANK", "1")
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert call(*words).err.count("error: ") == 1
    assert len(waited) == 1

    def ended(seconds: float) -> None:
        raise Interrupted("SIGTERM")

    monkeypatch.setattr("time.sleep", ended)
    with contextlib.suppress(Interrupted):
        assert call(*words).code == 143
    assert capsys.readouterr().err == ""
