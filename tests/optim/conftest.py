"""A package that is not Firstlight's."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.optim.schedule import schedule_function

LION = Path(__file__).parents[2] / "examples" / "extensions" / "lion.py"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package named ``outside`` with one module, ``outside.lion``; as if none of it had ever been imported."""
    (tmp_path / "outside").mkdir()
    shutil.copy(LION, tmp_path / "outside" / "lion.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "outside"
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside"]:
        del sys.modules[name]
    schedule_function.cache_clear()
