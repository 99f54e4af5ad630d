"""The hash of our own source."""

import shutil
from pathlib import Path

import firstlight
from firstlight.files import code_hash


def test_the_code_hash_follows_the_sources(tmp_path: Path) -> None:
    package = tmp_path / "firstlight"
    shutil.copytree(
        Path(firstlight.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "cli", "report")
    )

    def now() -> str:
        code_hash.cache_clear()
        return code_hash(package)

    first = now()
    assert first == code_hash(), "the same files anywhere are the same code"
    step = package / "train" / "step.py"
    step.write_text(step.read_text() + "\n# A remark.\n")
    second = now()
    assert second != first
    (package / "model" / "new.py").write_text("")
    third = now()
    assert third not in (first, second)
    (package / "model" / "new.py").rename(package / "model" / "other.py")
    assert now() not in (first, second, third)
    (package / "stages" / "new.py").write_text("")
    unchanged = now()
    (package / "stages" / "new.py").unlink()
    assert now() == unchanged, "rooms that cannot change weights do not count"
