"""The nouns that rooms exchange are frozen, and cheap to import."""

import dataclasses
import subprocess
import sys

import pytest

from firstlight import types
from firstlight.types import Document, StepMetrics


@pytest.mark.parametrize("cls", [c for c in vars(types).values() if dataclasses.is_dataclass(c)])
def test_nouns_are_frozen_and_documented(cls: type):
    assert cls.__dataclass_params__.frozen
    assert cls.__doc__


def test_documents_do_not_share_their_meta():
    one, two = Document("a", "x"), Document("b", "y")
    assert one.meta == {}
    assert one.meta is not two.meta
    assert not one.continues


def test_a_step_report_is_applied_unless_said():
    report = StepMetrics(step=1, tokens=8, position=0, rows=2, targets=8, loss=1.0, lr=0.1, grad_norm=1.0, seconds=0.1)
    assert report.applied


def test_types_need_neither_numpy_nor_torch():
    code = "import sys, firstlight.types; sys.exit(any(m in sys.modules for m in ('numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
