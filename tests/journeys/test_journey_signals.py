"""What ends or disturbs a command from outside: signals, launchers, streams that are gone, files that are gone."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from test_journey_finetune import write_task

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
ENDLESS = ["train.steps=1000000"]
ANSWERED = 5.0  # seconds for a signal, two of which are ours; the rest for a busy machine and the end of the process
ENDING = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGXCPU", "SIGTERM", "SIGINT")]

pytestmark = pytest.mark.slow


@pytest.fixture
def begin(start) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command; one that a failed test has left is killed, with the processes that it has started."""
    processes: list[subprocess.Popen] = []

    def _begin(*words: object, **options: object) -> subprocess.Popen:
        processes.append(start(*words, **options))
        return processes[-1]

    yield _begin
    for process in processes:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.communicate()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Four megabytes."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the day was fine and the film was dull\n" * 100_000, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tiny, run, tmp_path_factory) -> Path:
    """A folder with a run and a task."""
    folder = tmp_path_factory.mktemp("base")
    run("pretrain", *tiny, "train.steps=20", "--out", folder / "run")
    write_task(folder, "mood", 96)
    return folder


@pytest.fixture(params=["pretrain", "finetune"])
def words(request, tiny, base) -> list[object]:
    """The words of a run that does not end."""
    if request.param == "pretrain":
        return ["pretrain", *tiny, *ENDLESS]
    quick = ["train.trackers=[]", "hardware.threads=1", "finetune.batch_size=8", "train.log_every=1"]
    return ["finetune", base / "run", base / "mood.toml", *quick, *ENDLESS, "finetune.replay_fraction=0.5"]


def _steps(out: Path) -> int:
    with contextlib.suppress(OSError):
        return len((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return 0


def _wait(process: subprocess.Popen, ready: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _wait_for_steps(process: subprocess.Popen, out: Path, n: int = 10) -> None:
    _wait(process, lambda: _steps(out) >= n)


def _state(out: Path) -> dict:
    return json.loads((out / "state.json").read_text(encoding="utf-8"))


def _error(text: str) -> str:
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
def test_every_signal_saves_and_has_its_exit_code(number, words, begin, run, tmp_path):
    out = tmp_path / "run"
    process = begin(*words, "--out", out)
    _wait_for_steps(process, out)
    process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told
    assert f"{number.name}: stopping after this step and saving" in told and number.name in printed
    state = _state(out)
    assert (state["status"], state["stopped_by"]) == ("interrupted", number.name)
    assert (out / "latest").read_text().strip() == f"step-{state['step']:08d}"
    assert "interrupted" in run("runs", tmp_path).stdout
    assert f"Training was interrupted ({number.name})" in (out / "report.html").read_text(encoding="utf-8")
    run(words[0], out, "--resume", f"train.steps={state['step'] + 2}")
    assert _state(out)["status"] == "finished"


@pytest.mark.parametrize(
    ("slow", "step"),
    [
        (["data.valid_ratio=0.5", "train.eval_windows=1000000", "train.eval_every=10"], 0),
        # When the model has learnt that the text, one document, does not end.
        (["train.sample_tokens=1000000", "train.sample_every=300", "train.eval_every=0"], 300),
    ],
    ids=["evaluation", "sample"],
)
def test_a_long_evaluation_or_sample_is_cut_short(slow, step, tiny, text, begin, tmp_path):
    out = tmp_path / "run"
    process = begin("pretrain", text, *tiny[1:], "corpus.max_bytes=4000000", *slow, *ENDLESS, "--out", out)
    _wait(process, (out / "run.toml").is_file if step == 0 else lambda: _steps(out) >= step)
    time.sleep(1)
    assert _steps(out) == step
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert time.monotonic() - sent < ANSWERED
    assert (_state(out)["status"], _state(out)["step"]) == ("interrupted", step)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_a_signal_before_training_is_one_line(seconds, tiny, text, begin, run, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", text, *tiny[1:], "corpus.max_bytes=4000000", "tokenizer.kind=bpe", "train.steps=3"]
    process = begin(*words, "--out", out)
    time.sleep(seconds)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - sent < ANSWERED
    if (
        process.returncode == -signal.SIGTERM
    ):  # before Python was ready, in a library that holds its lock, or at the end
        assert "Traceback" not in told
    elif process.returncode == 143:
        assert told.splitlines()[-1] == "interrupted (SIGTERM)" or "and saving" in told
    else:
        pytest.skip("the run ended before the signal")
    run(*words, "--out", out, "--resume")
    assert not [p for p in out.rglob("*") if ".part-" in p.name]


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
def test_other_commands_end_with_one_line(number, base, text, begin, tmp_path):
    commands = {
        "prepare": ["data", "prepare", "-", "--out", tmp_path / "store", "tokenizer.kind=byte"],
        "evaluate": ["evaluate", base / "run", "--text", text],
        "generate": ["generate", base / "run", "the", "--max-new-tokens", "100000000", "--temperature", "0"],
    }
    for name, words in commands.items():
        reader, writer = os.pipe()
        process = begin(*words, popen={"stdin": reader})
        os.write(writer, b"some text\n" * 1000)
        time.sleep(4)
        sent = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        os.close(reader)
        os.close(writer)
        assert process.returncode == 128 + number, (name, told)
        assert time.monotonic() - sent < ANSWERED
        expected = "interrupted" if number == signal.SIGINT else f"interrupted ({number.name})"
        assert told.splitlines()[-1] == expected, (name, told)
    assert list(tmp_path.iterdir()) == []


def test_nohup_survives_the_terminal(tiny, begin, tmp_path):
    out = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the process, as from nohup
    try:
        process = begin("pretrain", *tiny, *ENDLESS, "--out", out)
    finally:
        signal.signal(signal.SIGHUP, before)
    _wait_for_steps(process, out)
    process.send_signal(signal.SIGHUP)
    n = _steps(out)
    _wait_for_steps(process, out, n + 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.parametrize("color", ["", "1"], ids=["lines", "bars"])
@pytest.mark.parametrize("how", ["closed pipe", "closed descriptor", "full"])
def test_a_run_goes_on_without_its_stderr(how, color, words, begin, run, tmp_path):
    out = tmp_path / "run"
    options: dict = {}
    if how == "full":
        options = {"stderr": os.open("/dev/full", os.O_WRONLY)}
    if how == "closed descriptor":
        options = {"stderr": None, "preexec_fn": lambda: os.close(2)}
    process = begin(
        *words, "train.steps=30", "train.checkpoint_every=10", "--out", out, popen=options, FORCE_COLOR=color
    )
    if how == "closed pipe":
        process.stderr.close()
        process.stderr = None
    printed, _ = process.communicate(timeout=120)
    if how == "full":
        os.close(options["stderr"])
    assert process.returncode == 0
    assert "finished at step 30" in printed
    assert _state(out)["status"] == "finished"
    run("data", "verify", out)


@pytest.mark.parametrize("controlling", [True, False])
def test_a_terminal_that_is_closed_loses_nothing(controlling, tiny, tmp_path):
    """A shell's terminal sends SIGHUP: the run saves. Without that, the run goes on to its end."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "firstlight", "pretrain", *tiny, "train.steps=300", "--out", str(out)]
    master, slave = pty.openpty()
    if controlling:
        words = ["setsid", "--ctty", "--wait", *words] if shutil.which("setsid") else pytest.skip("no setsid")
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, start_new_session=not controlling, env={**os.environ}
    )
    os.close(slave)
    os.set_blocking(master, False)

    def read_some() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(master, 4096)
        return _steps(out) >= 10

    _wait(process, read_some)
    os.close(master)
    code = process.wait(60)
    state = _state(out)
    if controlling:
        assert (code, state["status"], state["stopped_by"]) == (129, "interrupted", "SIGHUP")
    else:
        assert (code, state["status"]) == (0, "finished")


def test_a_reader_that_goes_away_does_not_make_a_run_fail(tiny, tmp_path):
    command = [sys.executable, "-m", "firstlight", "pretrain", *tiny, "train.steps=30", "--out", str(tmp_path / "run")]
    for unbuffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert _state(tmp_path / "run")["status"] == "finished"
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_run_directory_that_is_gone_is_one_clear_line(how, words, begin, tmp_path):
    out = tmp_path / "run"
    process = begin(*words, "train.checkpoint_every=50", "--out", out)
    _wait_for_steps(process, out)
    out.rename(tmp_path / "moved")
    if how == "deleted":
        shutil.rmtree(tmp_path / "moved")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{out}: the run directory was deleted or moved" in _error(told)
    assert not out.exists()


def test_a_store_that_is_cut_is_one_clear_line(words, begin, run, tmp_path, base):
    out = tmp_path / "run"
    process = begin(*words, "--out", out)
    _wait_for_steps(process, out)
    file = (out if words[0] == "pretrain" else base / "run") / "data/train.bin"
    data = file.read_bytes()
    os.truncate(file, 1000)
    _, told = process.communicate(timeout=60)
    file.write_bytes(data)
    assert process.returncode == 1
    assert "train.bin: was cut while it was in use" in _error(told)
    state = _state(out)
    assert state["status"] == "failed" and state["step"] >= 10
    assert (out / "latest").read_text().strip() == f"step-{state['step']:08d}", "nothing is lost"
    run(words[0], out, "--resume", f"train.steps={state['step'] + 2}")


def _ranks(process: subprocess.Popen) -> list[psutil.Process]:
    found = [p for p in psutil.Process(process.pid).children(recursive=True) if "firstlight" in p.cmdline()]
    return sorted(found, key=lambda p: int(p.environ()["RANK"]))


@pytest.mark.parametrize("whom", ["launcher", "rank 0", "rank 1"])
def test_all_processes_save_together_on_sigterm(whom, tiny, begin, run, tmp_path):
    out = tmp_path / "run"
    process = begin("pretrain", *tiny, *ENDLESS, "--out", out, launcher=TORCHRUN)
    _wait_for_steps(process, out)
    ranks = _ranks(process)
    (process if whom == "launcher" else ranks[int(whom[-1])]).send_signal(signal.SIGTERM)
    printed, told = process.communicate(timeout=60)
    assert process.returncode != 0
    state = _state(out)
    assert (state["status"], state["stopped_by"]) == ("interrupted", "SIGTERM")
    assert printed.count("interrupted, checkpoint saved") == 1
    assert (out / "report.html").is_file(), "no process exits before all are done"
    run("pretrain", out, "--resume", f"train.steps={state['step'] + 2}", launcher=TORCHRUN)


def test_all_processes_cut_an_evaluation_short(tiny, text, begin, tmp_path):
    out = tmp_path / "run"
    words = ["data.valid_ratio=0.5", "train.eval_windows=1000000", "train.eval_every=10", "corpus.max_bytes=4000000"]
    process = begin("pretrain", text, *tiny[1:], *words, *ENDLESS, "--out", out, launcher=TORCHRUN)
    _wait_for_steps(process, out)
    time.sleep(1)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert time.monotonic() - sent < 2 * ANSWERED
    assert (_state(out)["status"], _state(out)["step"]) == ("interrupted", 10)


@pytest.mark.parametrize("killed", [0, 1])
def test_the_survivor_of_a_killed_rank_says_one_line(killed, tiny, begin, tmp_path):
    out = tmp_path / "run"
    process = begin("pretrain", *tiny, *ENDLESS, "--out", out, launcher=TORCHRUN)
    _wait_for_steps(process, out)
    _ranks(process)[killed].kill()
    _, told = process.communicate(timeout=60)
    told = told.partition("Traceback")[0]  # which is the launcher's own, at its end
    assert f"process {1 - killed} of 2: another process of this run has ended" in _error(told)
    if killed == 1:
        assert _state(out)["status"] == "failed"


def test_processes_end_with_their_launcher(tiny, begin, tmp_path):
    out = tmp_path / "run"
    process = begin("pretrain", *tiny, *ENDLESS, "--out", out, launcher=TORCHRUN)
    _wait_for_steps(process, out)
    ranks = _ranks(process)
    process.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=30)
    for rank in alive:
        rank.kill()
    process.communicate(timeout=60)
    assert len(gone) == 2
    assert _state(out)["status"] == "interrupted"
