"""The examples of docs/howto/extend.md: the page quotes their files, and its command lines run.

``python tests/contracts/test_extend_page.py`` copies the files into the page.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.cli.app import run

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "extend.md"
EXAMPLES = PAGE.parent / "examples"
# A link to an example, and the code block that quotes it.
QUOTED = re.compile(r"(\]\(examples/([\w-]+\.\w+)\)(?:(?!```).)*?\n```\w+\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TINY_RUN = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=32",
    "train.batch_tokens=64",
    "train.steps=2",
    "train.eval_every=2",
    "train.eval_windows=4",
    "train.sample_every=0",
    "hardware.threads=1",
    "hardware.compile=off",
]
TINY_FINETUNE = ["train.epochs=0.5", "finetune.batch_size=8", "hardware.threads=1", "hardware.compile=off"]


def sections() -> dict[str, list[str]]:
    """Return the command lines of every section of the page that has an example."""
    found = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title = section.partition("\n")[0]
        lines = "".join(COMMANDS.findall(section)).replace("\\\n", " ").splitlines()
        if QUOTED.search(section):
            found[title] = [line for line in lines if line.strip()]
    return found


def write_text(folder: Path) -> None:
    """Write a corpus of text, a corpus of subtitles and a table of labelled rows."""
    words = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "bird", "there")
    lines = [" ".join(words[(n * k + k * k) % len(words)] for k in range(1, 8)) for n in range(120)]
    (folder / "mybooks").mkdir()
    (folder / "mybooks" / "cats.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "subtitles").mkdir()
    cues = [f"{n}\n00:00:{n % 60:02},000 --> 00:00:{n % 60:02},900\n{line}\n" for n, line in enumerate(lines, 1)]
    (folder / "subtitles" / "cats.srt").write_text("\n".join(cues), encoding="utf-8")
    (folder / "mytasks").mkdir()
    labels = ("cat", "cat bird", "", "bird")
    rows = [f"{line}\t{labels[n % len(labels)]}" for n, line in enumerate(lines[:40])]
    (folder / "mytasks" / "train.tsv").write_text("text\tlabels\n" + "\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, their inputs, and ``runs/mine``."""
    folder = tmp_path_factory.mktemp("extend")
    write_text(folder)
    assert run(["pretrain", str(folder / "mybooks"), "--out", str(folder / "runs/mine"), *TINY_RUN]) == 0
    for example in EXAMPLES.iterdir():
        if example.is_file():
            shutil.copy(example, folder)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the prepared folder as the current folder, on the path as ``PYTHONPATH=.`` puts it there."""
    copy = shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(str(copy))
    yield copy
    for name in {path.stem for path in EXAMPLES.glob("*.py")} & set(sys.modules):
        del sys.modules[name]


def execute(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line of the page in this process, with a tiny model and few steps."""
    words = shlex.split(line, comments=True)
    words = words[words[0] == "PYTHONPATH=." :]
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", [*words[1:], *TINY_RUN])
        runpy.run_path(words[1], run_name="__main__")
        return
    assert words[0] == "firstlight", line
    tiny = {"pretrain": TINY_RUN, "finetune": TINY_FINETUNE}.get(words[1], [])
    assert run([*words[1:], *tiny]) == 0, line


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize(("title", "lines"), sections().items(), ids=lambda value: str(value)[:20])
def test_the_command_lines_run(
    title: str, lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert lines, f"{title} has no command line"
    for line in lines:
        execute(line, monkeypatch)
        assert "internal error" not in capfd.readouterr().err


@pytest.mark.slow
def test_pythonpath_is_all_that_an_example_needs(prepared: Path) -> None:
    words = ["pretrain", "mybooks", "--out", "runs/lion", "optim.name=lion:Lion", *TINY_RUN]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", *words], cwd=prepared, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'name = "lion:Lion"' in (prepared / "runs/lion/run.toml").read_text()


def test_the_page_quotes_the_examples() -> None:
    quoted = {name: block for _, name, block, _ in QUOTED.findall(PAGE.read_text(encoding="utf-8"))}
    files = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.iterdir() if path.is_file()}
    assert quoted == files, "run python tests/contracts/test_extend_page.py"


def copy_examples_into_page() -> None:
    """Replace every quotation by the content of its file."""

    def replaced(match: re.Match[str]) -> str:
        return match[1] + (EXAMPLES / match[2]).read_text(encoding="utf-8") + match[4]

    PAGE.write_text(QUOTED.sub(replaced, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    copy_examples_into_page()
