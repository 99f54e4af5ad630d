"""README and the pages of docs/ run, block by block, in one folder per page: what a reader pastes works.

docs/howto/extend.md has its own tests (tests/contracts/test_extend_page.py); docs/benchmarks.md takes hours.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import PAGES, REASONS, ROOT, Block, blocks, outline

SCRIPTS = Path(sys.executable).parent
QUICK = ["train.steps=6", "train.batch_tokens=512", "train.eval_windows=2", "train.sample_tokens=8"]


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    # A command that would load something is refused, so that a page that needs the network fails everywhere.
    environment |= {"HF_HUB_OFFLINE": "1", "FIRSTLIGHT_CACHE": str(folder.parent / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the set-up commands leave it: the files of the repository, and a short quickstart."""
    folder = tmp_path_factory.mktemp("set-up") / "firstlight"
    folder.mkdir()
    for name in ("examples", "docs", "src", "Makefile", "README.md", "README.zh-CN.md"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    done = execute(["firstlight", "quickstart", *QUICK], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not (SCRIPTS / "firstlight").is_file(), reason="firstlight is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs(page: Path, set_up: Path, tmp_path: Path) -> None:
    folder = tmp_path / "firstlight"
    subprocess.run(["cp", "-a", str(set_up), str(folder)], check=True)
    if page.parent != ROOT:  # a reader of the other pages has a run and a folder of texts, as README makes them
        shutil.copytree(folder / "runs" / "quickstart", folder / "runs" / "mine")
        shutil.copytree(ROOT / "examples" / "books", folder / "mybooks")
    for block in blocks(page):
        if block.mark in ("set-up", "checked"):
            continue
        if block.mark == "file":
            (folder / block.rest).write_text(block.code, encoding="utf-8")
            continue
        if block.language == "python":
            done = execute([sys.executable, "-c", block.code], folder)
        else:
            done = execute(["bash", "-e", "-c", block.limited], folder)
        where = f"{page.name}:{block.line}"
        assert done.returncode == 0, f"{where}\n{block.limited}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "internal error" not in done.stderr, where


def test_readme_runs_as_a_whole() -> None:
    for page in ROOT.glob("README*.md"):
        assert not [block for block in blocks(page) if block.mark == "checked"], page.name
        assert sum(block.mark == "set-up" for block in blocks(page)) == 1, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    for block in blocks(page):
        if block.mark == "checked":
            assert block.rest in REASONS, f"{page.name}:{block.line}: {block.rest!r}"
            for path in re.findall(r"\b(?:examples|docs|benchmarks)/[\w./-]+", block.code):
                assert (ROOT / path).exists(), f"{page.name}:{block.line}: no such file: {path}"


def pairs() -> list[tuple[Path, Path]]:
    """The pages in two languages."""
    pages = [(ROOT / "docs" / page.name, page) for page in sorted(ROOT.glob("docs/zh/*.md"))]
    return [(ROOT / "README.md", ROOT / "README.zh-CN.md"), *(pair for pair in pages if pair[0].is_file())]


@pytest.mark.parametrize(("english", "chinese"), pairs(), ids=lambda page: page.name)
def test_both_languages_have_the_same_commands(english: Path, chinese: Path) -> None:
    assert [(b.language, b.mark) for b in blocks(english)] == [(b.language, b.mark) for b in blocks(chinese)]
    for block, ours, theirs in zip(blocks(english), outline(english), outline(chinese), strict=True):
        assert ours == theirs, f"{chinese.name}, {english.name}:{block.line}"


def test_limits_are_added_to_long_commands_only() -> None:
    code = "ls\nfirstlight pretrain a --out b train.steps=900 # c\nfirstlight pretrain b --resume\n"
    long = Block("sh", code, "long", "", 1).limited.splitlines()
    assert long[1].startswith("firstlight pretrain train.steps=3 ") and "900" not in long[1]
    assert (long[0], long[2]) == ("ls", "firstlight pretrain b --resume")
    assert Block("sh", code, "", "", 1).limited == code
    assert Block("sh", code, "long", "train.steps=1", 1).limited.splitlines()[1].count("=") == 1
