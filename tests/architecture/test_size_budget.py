"""Size is a quality: files, functions, and what pre-training loads of our own code stay small."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "firstlight"
FILES = sorted(PACKAGE.rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions() -> dict[str, int]:
    """Return the lines of every function, nested ones too."""
    return {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_files():
    sizes = {str(path.relative_to(PACKAGE)): lines_of(path) for path in FILES}
    assert {name: n for name, n in sizes.items() if n > 600} == {}
    long = {name: n for name, n in sizes.items() if n > 400}
    assert len(long) <= 0.05 * len(sizes), long


def test_functions():
    sizes = functions()
    assert len(sizes) > 100
    assert {name: n for name, n in sizes.items() if n > 100} == {}
    long = {name: n for name, n in sizes.items() if n > 60}
    assert len(long) <= 0.02 * len(sizes), long
