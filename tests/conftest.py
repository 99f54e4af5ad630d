"""Fixtures that every room's tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from firstlight.tokenizer import Tokenizer


# Of a property; `make test-slow` takes hypothesis' own hundred.
settings.register_profile("fast", max_examples=25, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_configure() -> None:
    """Receive SIGINT: a shell that starts the suite in the background lets it ignore that, and children inherit it.

    Runs of the tests, also those of commands, are compared bit by bit: they do not choose a precision by its speed.
    """
    os.environ["FIRSTLIGHT_AUTOTUNE"] = "0"
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def shared_cases(shared_data: Path) -> Path:
    """The folder of small inputs that failed once, next to the corpora."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no cases: there is no ../shared/cases")
    return folder


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """For tests that call commands here: they set threads and determinism of their process, which is that of all."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def trust_files() -> Iterator[None]:
    """Let settings and files name code of other packages, as ``--trust`` does."""
    from firstlight.config import trust_files

    with trust_files():
        yield


@pytest.fixture(autouse=True)
def _no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of messages are compared, so no terminal styling."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session")
def trained() -> "dict[str, Tokenizer]":
    """One tokenizer of each kind, and byte-level BPE with each pattern, trained on text of many scripts."""
    from firstlight.tokenizer import PATTERNS, TokenizerSettings, train
    from firstlight.types import Document
    from messy_text import messy_text

    documents = [Document(messy_text(seed, 2000), f"text:{seed}") for seed in range(8)]
    kinds = {
        f"bpe-{pattern}": train(documents, TokenizerSettings(vocab_size=700, pattern=pattern)) for pattern in PATTERNS
    }
    for kind in ("word", "char", "byte"):
        kinds[kind] = train(documents, TokenizerSettings(kind=kind))
    kinds["char-unk"] = train(documents, TokenizerSettings(kind="char", byte_fallback=False))
    return kinds
