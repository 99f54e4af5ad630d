"""Every command that is printed, or written into a file of a run, is pasted into a shell, and works.

The folder has a name that a shell would take apart. Training is cut short by the settings of the runs.
"""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import RUN_SETTINGS, some_text

NAME = "-my $HOME 'runs' \"新\" = é"
SCRIPTS = Path(sys.executable).parent
TASK = """name = "mood"
kind = "classification"

[data]
train = "rows.tsv"

[columns]
text = "sentence"
label = "mood"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SCRIPTS / "firstlight").is_file(), reason="firstlight is not installed"),
]


def paste(command: str, folder: Path, code: int = 0, given: str = "") -> str:
    """Run a command in bash; return what it printed."""
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def printed(text: str) -> str:
    """Return the last command in what was printed: it ends the line."""
    commands = re.findall(r"(?:: )((?:firstlight|iconv|mv|gzip|\S+ -m pip|\S+ -c) .*)$", text, re.MULTILINE)
    assert commands, text
    return str(commands[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pasted") / NAME
    folder.mkdir()
    (folder / "a=b.txt").write_text(some_text(), encoding="utf-8")
    rows = [f"the cat sat {i}\tgood\na bird saw {i}\tbad" for i in range(30)]
    (folder / "rows.tsv").write_text("sentence\tmood\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (folder / "mood.toml").write_text(TASK, encoding="utf-8")
    return folder


SETTINGS = " ".join(f"'{setting}'" for setting in RUN_SETTINGS)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run that was stopped and resumed by the command that it printed."""
    text = paste(f"firstlight pretrain 'a=b.txt' --out 'r=1 $X' {SETTINGS} train.stop_after=2", folder)
    resumed = paste(printed(text), folder.parent)
    assert "at step 4" in resumed
    paste("firstlight pretrain 'r=1 $X' --resume train.stop_after=0", folder)
    return folder / "r=1 $X"


@pytest.fixture(scope="module")
def tuned(folder: Path, run: Path) -> Path:
    paste("firstlight finetune 'r=1 $X' mood.toml --out tuned train.steps=2", folder)
    return folder / "tuned"


def recipes(run: Path) -> list[str]:
    """The blocks of code in a report."""
    page = (run / "report.html").read_text(encoding="utf-8")
    found = re.findall(r'<div class="command"><pre class="copy">\n(.*?)</pre>', page, re.DOTALL)
    return [html.unescape(code) for code in found]


def check_recipes(run: Path, tmp_path: Path) -> None:
    """Paste each recipe of a report into its own copy of the run: training for longer removes checkpoints."""
    codes = recipes(run)
    assert len(codes) > 4
    for number, code in enumerate(codes):
        copy = tmp_path / str(number) / run.name
        shutil.copytree(run, copy)
        assert str(run.parent) not in code
        if code.startswith(("firstlight", "echo")):
            paste(f"set -e\n{code}", copy)
        else:
            pytest.importorskip("transformers")
            done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_the_commands_of_a_report(run: Path, tmp_path: Path) -> None:
    check_recipes(run, tmp_path)


def test_the_commands_of_a_fine_tuned_runs_report(tuned: Path, tmp_path: Path) -> None:
    check_recipes(tuned, tmp_path)
    assert any("rows.jsonl" in code for code in recipes(tuned))


def test_the_header_of_the_settings(run: Path, tuned: Path, tmp_path: Path) -> None:
    for made in (run, tuned):
        copy = tmp_path / "copies" / made.name
        shutil.copytree(made, copy)
        header = [line for line in (made / "run.toml").read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
        assert str(made.parent) not in "\n".join(header)
        assert "starts the same run again" in header[1]
        paste(header[-1].removeprefix("# "), copy)
        weights = f"checkpoints/step-0000000{4 if made == run else 2}/model.safetensors"
        again = copy.with_name(f"{made.name}-again")
        assert (again / weights).read_bytes() == (made / weights).read_bytes()


def test_an_extended_run_says_that_its_settings_do_not_repeat_it(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    paste("firstlight pretrain . --resume train.steps=6", copy)
    for command in ("firstlight pretrain . --resume", "firstlight pretrain . --resume train.log_every=2"):
        text = (copy / "run.toml").read_text(encoding="utf-8")
        assert "train.steps from 4 to 6 at step 4" in text
        assert "does not repeat the run from the start" in text
        paste(text.partition("\n\n")[0].splitlines()[-1].removeprefix("# "), copy)
        paste(command, copy)
    assert "does not repeat the run from the start" in (copy / "report.html").read_text(encoding="utf-8")


def test_a_limit_that_was_edited_in_the_file_is_a_change(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    settings = (copy / "run.toml").read_text(encoding="utf-8")
    (copy / "run.toml").write_text(settings.replace("steps = 4", "steps = 5"), encoding="utf-8")
    paste("firstlight pretrain . --resume", copy)
    assert "train.steps from 4 to 5 at step 4" in (copy / "run.toml").read_text(encoding="utf-8")
    paste("firstlight pretrain . --restart", copy)
    assert "starts the same run again" in (copy / "run.toml").read_text(encoding="utf-8")


def test_the_code_of_a_model_card(run: Path, tuned: Path) -> None:
    pytest.importorskip("transformers")
    for made in (run, tuned):
        checkpoint = next((made / "checkpoints").iterdir())
        card = (checkpoint / "README.md").read_text(encoding="utf-8")
        assert str(made.parent) not in card
        code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
        done = subprocess.run([sys.executable, "-c", code], cwd=checkpoint, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_commands_print_at_their_end(folder: Path, tmp_path: Path) -> None:
    text = paste("firstlight data prepare 'a=b.txt' --out 'a store' tokenizer.kind=byte", folder)
    paste(f"{printed(text)} {SETTINGS.replace('tokenizer.kind=byte', 'run.seed=1')}", tmp_path)
    paste("firstlight runs runs", folder)
    text = paste(f"firstlight quickstart 'a=b.txt' --out quick {SETTINGS}", folder)
    assert paste(printed(text), tmp_path)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("firstlight pretrain", 2),
        ("firstlight generate no/such/run", 2),
        ("firstlight predict 'r=1 $X' rows.tsv", 2),
        ("firstlight generate 'r=1 $X' < /dev/null", 2),
        ("firstlight finetune", 2),
        ("firstlight settings zzqqzz", 2),
        ("firstlight runs diff 'r=1 $X' mood.toml", 2),
        ("firstlight tokenizer show nowhere", 2),
        ("firstlight pretrain 'r=1 $X' --resume model.n_layer=2", 1),
        ("firstlight finetune 'r=1 $X' mood.toml --out 'r=1 $X'", 2),
        ("firstlight evaluate --nonsense", 2),
        ("firstlight pretrain gb.txt", 1),
        ("firstlight pretrain packed.txt", 1),
    ],
)
def test_what_errors_advise(folder: Path, run: Path, tmp_path: Path, command: str, code: int) -> None:
    (folder / "gb.txt").write_bytes("图书馆提前放假，报纸用半页写了这件事。".encode("gb18030"))
    subprocess.run(["gzip", "-kfS", ".gz", "a=b.txt"], cwd=folder, check=True)
    (folder / "a=b.txt.gz").replace(folder / "packed.txt")
    advised = printed(paste(command, folder, code))
    # The quickstart trains for minutes; what it prints is pasted above.
    paste(f"{advised} --help" if advised.endswith("quickstart") else advised, tmp_path)


def test_a_run_without_its_checkpoints_is_restarted(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / NAME
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    error = paste("firstlight generate . x", copy, 1)
    paste(printed(error), tmp_path)
