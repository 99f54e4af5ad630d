"""Fixtures of the training room."""

from collections.abc import Iterator

import pytest
import torch
from small_run import make_store

from firstlight import progress
from firstlight.progress import Event
from firstlight.store import TokenStore


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("letters") / "data")


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """All progress events of a test."""
    seen: list[Event] = []
    with progress.listen(seen.append):
        yield seen


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
