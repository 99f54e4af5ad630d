"""Lazy exports are imported on first access, and listed before it."""

import sys
from pathlib import Path

import pytest


def test_a_name_is_imported_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lazypackage"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from firstlight.lazy import attach\n__getattr__, __dir__ = attach(__name__, {'heavy': ['Heavy', 'light']})\n"
        "__all__ = ['Heavy', 'light']\n"
    )
    (package / "heavy.py").write_text("Heavy, light = 1, 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lazypackage

    assert "lazypackage.heavy" not in sys.modules
    assert dir(lazypackage) == ["Heavy", "light"]
    assert lazypackage.light == 2
    assert "lazypackage.heavy" in sys.modules
    with pytest.raises(AttributeError, match="module 'lazypackage' has no attribute 'missing'"):
        _ = lazypackage.missing
