"""Packages import only from lower layers; tests mirror packages; what every file and docstring looks like."""

import ast
import io
import shutil
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "firstlight"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = ROOT / "tests"
# Folders of tests that cover several packages.
ACROSS = {"architecture", "contracts", "faults", "golden", "journeys", "references"}
MAX_FORMATTER_EXCEPTIONS = 10


def packages() -> list[str]:
    """Return the packages directly below ours."""
    return sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def modules() -> list[str]:
    """Return the modules directly below ours, without the package's own."""
    return sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def test_import_contract():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("import-linter is not installed next to this Python")
    result = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("package", packages())
def test_every_package_has_tests(package: str):
    assert list((TESTS / package).glob("test_*.py")), f"no tests/{package}/test_*.py"


@pytest.mark.parametrize("module", modules())
def test_every_module_of_the_lowest_layer_has_tests(module: str):
    assert (TESTS / f"test_{module}.py").is_file()


def test_every_folder_of_tests_is_of_a_package():
    folders = {p.name for p in TESTS.iterdir() if p.is_dir() and list(p.rglob("*.py"))}
    assert folders - ACROSS <= set(packages())


def test_names_of_test_files_are_unique():
    # Without __init__.py, pytest and the imports of helpers know a file by its bare name.
    assert not list(TESTS.rglob("__init__.py"))
    names = Counter(p.name for p in TESTS.rglob("*.py") if p.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_packages_are_two_folders_deep_at_most():
    deep = [p for p in FILES if len(p.relative_to(PACKAGE).parts) > 3]
    assert deep == []


def test_no_module_name_starts_with_an_underscore():
    private = [p.relative_to(PACKAGE).as_posix() for p in FILES if p.name.startswith("_")]
    assert [name for name in private if not name.endswith(("__init__.py", "__main__.py"))] == []


def test_the_formatter_has_few_exceptions():
    found = [
        f"{path.relative_to(PACKAGE)}:{token.start[0]}"
        for path in FILES
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT and ("fmt: skip" in token.string or "fmt: off" in token.string)
    ]
    assert len(found) <= MAX_FORMATTER_EXCEPTIONS, found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_has_a_summary_line(path: Path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring"
    assert docstring.splitlines()[0].rstrip().endswith((".", ":")), docstring.splitlines()[0]
