"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora; tests that need it skip where it is absent."""
    here = Path(__file__).resolve()
    candidates = [Path(os.environ["FIRSTLIGHT_TEST_DATA"])] if "FIRSTLIGHT_TEST_DATA" in os.environ else []
    candidates += [here.parents[2] / "shared" / "data", here.parents[1] / "shared" / "data"]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    pytest.skip("no corpora: set FIRSTLIGHT_TEST_DATA to a folder like ../shared/data")


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """For tests that call commands here: they set threads and determinism of their process, which is that of all."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(autouse=True)
def _no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of messages are compared, so no terminal styling."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
