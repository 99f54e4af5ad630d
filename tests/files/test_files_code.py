"""The hash of our own source."""

import shutil
from pathlib import Path

import firstlight
from firstlight.files import source_hash

PACKAGES = ("train", "model", "stages.pretrain_setup")


def test_the_code_hash_follows_the_sources(tmp_path: Path) -> None:
    package = tmp_path / "firstlight"
    shutil.copytree(
        Path(firstlight.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "cli", "report")
    )

    def now() -> str:
        source_hash.cache_clear()
        return source_hash(PACKAGES, package)

    first = now()
    assert first == source_hash(PACKAGES), "the same files anywhere are the same code"
    step = package / "train" / "step.py"
    step.write_text(step.read_text() + "\n# A remark.\n")
    second = now()
    assert second != first
    (package / "model" / "new.py").write_text("")
    third = now()
    assert third not in (first, second)
    (package / "model" / "new.py").rename(package / "model" / "other.py")
    assert now() not in (first, second, third)
    before = now()
    (package / "stages" / "new.py").write_text("")
    assert now() == before, "modules that are not named do not count"
    (package / "stages" / "pretrain_setup.py").write_text("")
    assert now() != before
