"""Commands that are shown can be pasted: quoted, with this Python, and with the requirements of the extras."""

import ast
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import firstlight
from firstlight import shell
from firstlight.shell import (
    command_in_folder,
    command_line,
    install_command,
    install_extra,
    model_argument,
    python_command,
    quote_argument,
    requirements,
    resume_command,
    unused_path,
)
from firstlight.stages.doctor import _EXTRAS

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
REAL = sorted(set(EXTRAS) - {"all", "dev"})


def paste(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_a_path_is_absolute_and_a_word_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert quote_argument(Path("-rf")) == f"{tmp_path}/-rf"
    assert quote_argument("--resume") == "--resume"
    assert command_in_folder("generate", ".", "a b") == "firstlight generate . 'a b'"


def test_the_name_is_used_where_the_shell_finds_this_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "firstlight"
    script.touch(mode=0o755)
    module = f"{quote_argument(sys.executable)} -m firstlight"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["x.py"])
    assert command_line("runs") == f"{module} runs", "that of another environment"
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert command_line("runs") == "firstlight runs"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["x.py"])
    assert command_line("runs") == "firstlight runs"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/a b/python")
    assert command_line("runs") == "'/a b/python' -m firstlight runs"


def test_a_command_without_the_script_on_the_path_runs(tmp_path: Path) -> None:
    """It is called by this Python, from a folder with a space in its name."""
    python = tmp_path / "my env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    show = "from firstlight.shell import *; print(command_line('--version'))"
    code, place = f"import sys; sys.executable = {str(python)!r}; {show}", "/usr/bin:/bin"
    command = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": place},
    ).stdout
    assert "-m firstlight" in command
    assert paste(command, PATH=place).stdout.startswith("firstlight ")


def test_a_run_is_resumed_with_as_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert resume_command("pretrain", tmp_path) == command_line("pretrain", tmp_path, "--resume")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    many = resume_command("pretrain", tmp_path)
    assert many.endswith(f" --nproc-per-node 4 -m firstlight pretrain {tmp_path} --resume")
    monkeypatch.setenv("PATH", "/nowhere")
    assert resume_command("pretrain", tmp_path).startswith(
        f"{sys.executable} -m torch.distributed.run --nproc-per-node 4 -m firstlight pretrain "
    )


@pytest.mark.parametrize("extra", REAL)
def test_an_extra_is_installed_by_its_own_requirements(extra: str) -> None:
    def name(requirement: str) -> str:
        return re.split(r"[<>=]", requirement)[0]

    assert sorted(map(name, requirements(extra))) == sorted(map(name, EXTRAS[extra]))
    assert sorted(requirements(extra)) == sorted(EXTRAS[extra])
    assert "firstlight" not in install_extra(extra).replace(sys.executable, "")
    assert extra in _EXTRAS, "doctor looks for it"


def test_every_extra_of_an_error_exists() -> None:
    for file in Path(firstlight.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtra":
                extra = node.args[1]
                assert not isinstance(extra, ast.Constant) or extra.value in EXTRAS, file


def test_requirements_of_the_package_itself() -> None:
    assert [r.startswith("torch") for r in requirements(package="torch")] == [True]
    assert requirements(package="fastokens") == ["fastokens>=0.3.5"]


@pytest.mark.skipif(importlib.machinery.PathFinder.find_spec("pip") is None, reason="no pip here")
def test_the_command_that_installs_can_be_pasted() -> None:
    """Nothing is fetched: what it asks for is here."""
    found = paste(install_command(*requirements("zstd")), PIP_NO_INDEX="1", PIP_NO_DEPS="1", PIP_DRY_RUN="1")
    assert found.returncode == 0, found.stderr
    assert "already satisfied: zstandard" in found.stdout


def test_an_environment_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    python = quote_argument(sys.executable)
    monkeypatch.setattr(shell, "_has_pip", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/uv")
    assert install_command("a>=1") == f"uv pip install --python {python} 'a>=1'"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert install_command("a>=1") == f"{python} -m ensurepip && {python} -m pip install 'a>=1'"


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="no setuptools here")
def test_a_search_for_pip_leaves_setuptools_importable() -> None:
    """torch.compile imports it."""
    code = "from firstlight.shell import install_command; install_command('a'); import setuptools"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_PACKAGE", "no-such-package")
    assert install_extra("zstd") == "Install the packages of the extra 'zstd', which pyproject.toml lists"


def test_code_for_this_python() -> None:
    assert paste(python_command("print('a b', \"$HOME\")")).stdout == "a b $HOME\n"


def test_new_names_and_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books.txt").touch()
    (tmp_path / "runs").mkdir()
    assert unused_path(Path("books.txt")) == Path("books-2.txt")
    assert unused_path(Path("new")) == Path("new")
    assert model_argument("owner/name") == "owner/name"
    assert model_argument("runs/mine@5") == Path("runs/mine@5")
