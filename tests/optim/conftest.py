"""A package that is not Firstlight's."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.optim.schedule import schedule_function

EXAMPLES = Path(__file__).parents[2] / "docs" / "howto" / "examples"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust_files: None) -> Iterator[Path]:
    """A package named ``outside`` of two examples, as if it had never been imported."""
    (tmp_path / "outside").mkdir()
    for name in ("lion.py", "inverse_sqrt.py"):
        shutil.copy(EXAMPLES / name, tmp_path / "outside" / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "outside"
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside"]:
        del sys.modules[name]
    schedule_function.cache_clear()
