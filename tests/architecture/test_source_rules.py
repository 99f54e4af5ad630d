"""Rules that a reader of the sources may rely on."""

import ast
import importlib
import io
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "firstlight"
FILES = sorted(PACKAGE.rglob("*.py"))
CODE_LOADERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for names and attributes, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def test_only_the_command_line_prints():
    found = [
        f"{name}:{call.lineno} {what}"
        for name, tree in trees()
        if not name.startswith("cli/")
        for what, call in calls(tree)
        if what in ("print", "pprint", "sys.stdout.write", "sys.stderr.write")
    ]
    assert found == []


# Formats of other programs that are pickles: written when they are asked for; the reader can make plain values alone.
PICKLES = {"convert/megatron.py torch.save", "convert/nanogpt.py torch.save", "convert/nanogpt.py imports pickle"}


def test_nothing_that_is_read_can_run_code():
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            imported = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            found += [f"{name} imports {m}" for m in imported if m.split(".")[0] in CODE_LOADERS]
        for what, call in calls(tree):
            given = {k.arg: k.value for k in call.keywords}
            only_weights = isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True  # type: ignore[attr-defined]
            pickles = isinstance(given.get("allow_pickle"), ast.Constant) and given["allow_pickle"].value  # type: ignore[attr-defined]
            if (what == "torch.load" and not only_weights) or what in ("torch.save", "eval", "exec") or pickles:
                found.append(f"{name} {what}")
    assert set(found) == PICKLES


def test_nothing_is_left_to_be_written():
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            words = token.string.replace(":", " ").split()
            if token.type == tokenize.COMMENT and {"TODO", "FIXME", "XXX", "HACK"} & set(words):
                found.append(f"{path.name}:{token.start[0]} {token.string}")
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.dump(node.exc):
                found.append(f"{name}:{node.lineno} raises NotImplementedError")
    assert found == []


def test_public_names_are_sorted_and_there():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is not None:
        words = [ruff, "check", "--isolated", "--select", "RUF022", "--no-cache", "src"]
        answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert answer.returncode == 0, answer.stdout
    listed = 0
    for path in PACKAGE.rglob("__init__.py"):
        name = ".".join(["firstlight", *path.parent.relative_to(PACKAGE).parts])
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            listed += 1
            assert getattr(module, public, None) is not None, f"{name} has no {public}"
    assert listed > 50
