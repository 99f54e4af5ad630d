"""The command line as processes: started in several ways, interrupted, piped away, on a full disk, in any locale."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from firstlight import __version__

FIRSTLIGHT = [sys.executable, "-m", "firstlight"]


def execute(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*FIRSTLIGHT, *words], capture_output=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def writing(world: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process amid writing a long text."""
    words = ["generate", "run", "the", "--max-new-tokens", "1000000", "--temperature", "0"]
    with subprocess.Popen([*FIRSTLIGHT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4).startswith(b"the")
        yield process
        process.kill()


def test_python_m_firstlight_and_the_installed_command_are_the_same():
    assert execute("--version").stdout.decode().splitlines() == [f"firstlight {__version__}"]
    installed = Path(sys.executable).with_name("firstlight")
    if not installed.exists():
        pytest.skip("not installed beside this Python")
    answer = subprocess.run([installed, "--version"], capture_output=True, timeout=60, check=True)
    assert answer.stdout == execute("--version").stdout


def test_exit_codes_of_processes(world: Path):
    good = execute("data", "verify", "store")
    assert (good.returncode, good.stderr) == (0, b"")
    usage = execute("data", "verify", "nothere")
    assert usage.returncode == 2
    assert usage.stderr.decode().splitlines() == [
        "error: nothere: no such folder (expected a token store or a run directory)"
    ]
    (world / "store" / "train.bin").unlink()
    failed = execute("data", "verify", "store")
    assert failed.returncode == 1
    assert failed.stderr.decode().splitlines() == ["error: store/train.bin: missing"]


def test_debug_shows_where_an_error_came_from(world: Path):
    answer = execute("data", "verify", "nothere", "--debug")
    assert answer.returncode == 2
    lines = answer.stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("error: nothere: no such folder")
    by_variable = execute("data", "verify", "nothere", env={**os.environ, "FIRSTLIGHT_DEBUG": "1"})
    assert by_variable.stderr == answer.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_control_c_ends_at_once(writing: subprocess.Popen[bytes]):
    writing.send_signal(signal.SIGINT)
    _, told = writing.communicate(timeout=60)
    assert writing.returncode == 130
    assert told.decode().splitlines()[-1] == "interrupted"
    assert b"Traceback" not in told


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_goes_away_is_no_error(writing: subprocess.Popen[bytes]):
    assert writing.stdout is not None
    assert writing.stderr is not None
    writing.stdout.close()
    told = writing.stderr.read()
    assert writing.wait(60) == 0  # also with pipefail
    assert b"error" not in told
    assert b"Traceback" not in told


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_table_whose_reader_has_gone_is_no_error(world: Path):
    reader, writer = os.pipe()
    os.close(reader)
    words = [*FIRSTLIGHT, "data", "stats", "store"]
    answer = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (answer.returncode, answer.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["data", "inspect", "store", "--tokens", "9000"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_cannot_be_written_is_told_once(words: Sequence[str], buffered: bool, world: Path):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("wb") as full:
        answer = subprocess.run([*FIRSTLIGHT, *words], stdout=full, stderr=subprocess.PIPE, timeout=60, env=environment)
    assert answer.returncode == 1
    lines = answer.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "no space left" in lines[0].lower()
    assert "standard output" in lines[0] or not buffered


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(name, marks=pytest.mark.slow) for name in ("utf-8", "cp1252"))]
)
def test_what_is_piped_is_utf_8_whatever_the_locale(encoding: str, world: Path):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    encoded = execute("tokenizer", "encode", "store", "-", input="猫 né".encode(), env=environment)
    assert encoded.returncode == 0, encoded.stderr
    decoded = execute("tokenizer", "decode", "store", "-", input=encoded.stdout, env=environment)
    assert decoded.stdout.decode("utf-8").splitlines() == ["猫 né"]


def test_among_several_processes_only_the_first_speaks(world: Path):
    for rank, speaks in (("0", True), ("1", False)):
        answer = execute("data", "stats", "store", env={**os.environ, "RANK": rank})
        assert bool(answer.stdout) is speaks
        assert answer.returncode == 0


def _close(*descriptors: int) -> Callable[[], None]:
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


@pytest.mark.skipif(os.name != "posix", reason="descriptors")
@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_closed_standard_streams_are_not_used_for_other_files(closed: tuple[int, ...], world: Path):
    """``2>&-``: without descriptor 2, a file of the store would get it, and receive what is printed."""
    words = [*FIRSTLIGHT, "data", "prepare", "text.txt", "--out", "again", "tokenizer.kind=byte"]
    answer = subprocess.run(words, stdout=subprocess.PIPE, timeout=60, preexec_fn=_close(*closed), check=False)  # noqa: PLW1509
    assert answer.returncode == 0
    assert bool(answer.stdout) is (1 not in closed)
    for name in ("train.bin", "valid.bin"):
        assert (world / "again" / name).read_bytes() == (world / "store" / name).read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("color", ["", "1"], ids=["lines", "bars"])
def test_messages_that_cannot_be_written_change_nothing(color: str, world: Path):
    """One of the error, and the others of progress."""
    environment = {**os.environ, "FORCE_COLOR": color}
    with Path("/dev/full").open("wb") as full:
        failed = subprocess.run([*FIRSTLIGHT, "data", "verify", "nothere"], stderr=full, timeout=60, env=environment)
        words = ["data", "prepare", "text.txt", "--out", "again", "tokenizer.kind=byte"]
        made = subprocess.run([*FIRSTLIGHT, *words], stderr=full, timeout=60, env=environment)
    assert (failed.returncode, made.returncode) == (2, 0)
