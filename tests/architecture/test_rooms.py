"""A room imports only from lower floors; its tests lie in a folder of its name."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "firstlight"
TESTS = ROOT / "tests"
# Tests of more than one room.
ACROSS = {"architecture", "contracts", "golden", "journeys", "references"}


def rooms() -> list[str]:
    """Return the packages directly below ours."""
    return sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def modules() -> list[str]:
    """Return the modules directly below ours, but for the package's own."""
    return sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def test_import_contract():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("import-linter is not installed beside this Python")
    answer = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout
    assert "0 broken" in answer.stdout


@pytest.mark.parametrize("room", rooms())
def test_every_room_has_tests(room: str):
    assert list((TESTS / room).glob("test_*.py")), f"no tests/{room}/test_*.py"


@pytest.mark.parametrize("module", modules())
def test_every_module_of_the_ground_floor_has_tests(module: str):
    assert (TESTS / f"test_{module}.py").is_file()


def test_every_folder_of_tests_is_a_room():
    folders = {p.name for p in TESTS.iterdir() if p.is_dir() and list(p.rglob("*.py"))}
    assert folders - ACROSS <= set(rooms())


def test_names_of_test_files_are_unique():
    # Without __init__.py, pytest and the helpers' imports know a file by its bare name.
    assert not list(TESTS.rglob("__init__.py"))
    names = Counter(p.name for p in TESTS.rglob("*.py") if p.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_rooms_are_two_folders_deep_at_most():
    deep = [p for p in PACKAGE.rglob("*.py") if len(p.relative_to(PACKAGE).parts) > 3]
    assert deep == []


def test_every_room_begins_with_its_charter():
    for room in rooms():
        first = (PACKAGE / room / "__init__.py").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith('"""'), room
        assert first.rstrip('"').rstrip()[-1] in ".:", f"{room}: {first}"
