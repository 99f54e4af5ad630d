import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.parallel import allocator

glibc = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc has these tunables"
)
# Says what the process was given, and fails where importing the allocator loads torch.
PROGRAM = """
import os, sys
from firstlight.parallel import ensure_allocator
ensure_allocator()
assert "torch" not in sys.modules
from firstlight.parallel import allocator
print(os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), allocator.state(), sys.argv[1:], sep="|")
"""


def _environment(**more: str) -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD", "FIRSTLIGHT_ALLOCATOR")}
    return {**mine, **more}


def _start(command: list[str], cwd: Path, **more: str) -> tuple[int, list[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd, env=_environment(**more))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return process.pid, out.strip().split("|")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@glibc
@pytest.mark.parametrize(
    "how",
    [["program.py"], ["-m", "program"], ["-c", PROGRAM], ["-u", "-W", "error", "-m", "program"]],
    ids=["file", "module", "string", "interpreter-options"],
)
def test_starts_the_same_command_again_once(folder: Path, how: list[str]) -> None:
    pid, (own, tunables, state, arguments) = _start([sys.executable, *how, "a b", "--c=*", ""], folder)
    assert int(own) == pid, "the same process, so that torchrun and shells still know it"
    assert tunables == allocator.tunables(platform.libc_ver()[1])
    assert state.startswith("tuned")
    assert arguments == str(["a b", "--c=*", ""])


@glibc
def test_works_for_a_console_script(folder: Path) -> None:
    script = folder / "firstlight-like"
    script.write_text(f"#!{sys.executable}\n{PROGRAM}")
    script.chmod(0o755)
    pid, (own, tunables, _, arguments) = _start([str(script), "x"], folder)
    assert (int(own), arguments) == (pid, "['x']")
    assert "mmap_threshold" in tunables


@glibc
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"FIRSTLIGHT_ALLOCATOR": "off"}, "off"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "the user's own (GLIBC_TUNABLES)"),
        ({"LD_PRELOAD": ""}, "the system's default"),
    ],
)
def test_leaves_the_users_own_settings_alone(folder: Path, more: dict[str, str], says: str) -> None:
    _, (_, tunables, state, _) = _start([sys.executable, "program.py"], folder, **more)
    assert tunables == more.get("GLIBC_TUNABLES", "")
    assert state.startswith(says)


def test_never_restarts_a_process_that_has_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD", "FIRSTLIGHT_ALLOCATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started this test run again"))
    allocator.ensure_allocator()


def test_does_nothing_off_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD", "FIRSTLIGHT_ALLOCATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    allocator.ensure_allocator()


@pytest.mark.parametrize("version", ["2.17", "2.31", "2.34"])
def test_old_glibc_gets_the_highest_threshold_that_it_takes(version: str) -> None:
    value = allocator.tunables(version)
    assert "mmap_threshold=33554432" in value
    assert "hugetlb" not in value


@pytest.mark.parametrize("version", ["2.35", "2.36", "2.41", "3.0"])
def test_newer_glibc_gets_all(version: str) -> None:
    assert "mmap_threshold=4294967296" in allocator.tunables(version)
    assert "hugetlb=1" in allocator.tunables(version)
