"""The command line and the package are there at once; torch is loaded when something computes."""

import json
import os
import subprocess
import sys
import time

import pytest

import firstlight

HEAVY = ("torch", "numpy", "tokenizers", "transformers", "rich", "jinja2")
# For slow and busy machines. On an idle one the target is 0.3 s: FIRSTLIGHT_IDLE=1 tests for that.
SECONDS = 0.3 if os.environ.get("FIRSTLIGHT_IDLE") else 2.0


def loaded_by(code: str) -> list[str]:
    """Return which heavy libraries a fresh process has loaded after running code."""
    code = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found: list[str] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["pretrain", "--help"], ["data", "stats", "--help"], ["foo"]]
)
def test_help_and_usage_load_nothing_heavy(words: list[str]):
    assert loaded_by(f"from firstlight.cli.app import run\nrun({words!r})") == []


def test_help_is_there_at_once():
    best = min(_seconds("--help") for _ in range(3))
    assert best < SECONDS, f"firstlight --help took {best:.2f} s"


def _seconds(*words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "firstlight", *words], capture_output=True, timeout=60, check=True)
    return time.perf_counter() - start


def test_the_package_loads_nothing_heavy():
    assert loaded_by("import firstlight\ndir(firstlight)\nfirstlight.__version__") == []


def test_the_package_has_the_functions_of_the_commands():
    assert dir(firstlight) == sorted(firstlight.__all__)
    for name in set(firstlight.__all__) - {"__version__", "config", "errors"}:
        assert callable(getattr(firstlight, name)), name
    assert not hasattr(firstlight, "nothing")


@pytest.mark.parametrize("name", ["config.trust_files", "errors.FirstlightError"])
def test_documented_modules_are_there_after_the_import(name: str):
    """Before a function of the package has imported them."""
    assert loaded_by(f"import firstlight\nfirstlight.{name}") == []
