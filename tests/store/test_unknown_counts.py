"""The unknown tokens of each split, and the bytes that they stand for, are in the manifest of a store."""

import contextlib
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from made_text import Texts, make

from firstlight.store import TokenStore, adopt
from firstlight.tokenizer import Tokenizer, build_char_level, train
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.types import Document, UnknownText

MODULE = sys.modules["firstlight.store.prepare"]


def texts(stop_at: int | None = None) -> list[Texts]:
    """Many documents, and few long ones whose end moves to valid."""
    rng = random.Random(0)

    def text(n: int) -> str:
        return "".join(rng.choice("ab ab ab é中😀") for _ in range(n))

    class Stopping(Texts):
        def documents(self) -> Any:
            for n, document in enumerate(super().documents()):
                if n == stop_at:
                    raise KeyboardInterrupt
                yield document

    return [
        Texts([text(rng.randrange(5, 90)) for _ in range(60)], "many"),
        Stopping([[text(150), text(80)], text(400), [text(90)] * 4], "few"),
        Texts(["a" * 300 + "中" * 60], "end"),
        Texts([text(40) for _ in range(30)], "last"),
    ]


@pytest.fixture
def chars() -> Tokenizer:
    return build_char_level("ab ")


def check_totals(store: TokenStore, tokenizer: Tokenizer) -> None:
    """Tokens and bytes of both splits are those of the whole text."""
    whole = ["".join(d if isinstance(d, str) else "".join(d)) for source in texts() for d in source._documents]
    expected = tokenizer.count_unknown(whole)
    for split in (store.train, store.valid):
        assert split.unknown is not None
        assert split.unknown.tokens == int((split.tokens == tokenizer.unknown_id).sum())
    assert store.train.unknown is not None
    assert store.valid.unknown is not None
    both = store.train.unknown + store.valid.unknown
    assert (both.tokens, both.n_bytes) == (expected.tokens, expected.n_bytes)
    assert store.train.n_bytes + store.valid.n_bytes == len("".join(whole).encode())


def test_the_bytes_of_unknown_tokens_are_exact_in_each_split(tmp_path: Path, chars: Tokenizer) -> None:
    store = make(tmp_path / "s", *texts(), encoder=chars)
    check_totals(store, chars)
    (end,) = [source for source in store.manifest["sources"] if source["name"] == "end"]
    assert (end["valid"]["unk_tokens"], end["valid"]["unk_bytes"]) == (36, 108), "all of it in the moved end is 中"
    assert (end["train"]["unk_tokens"], end["train"]["unk_bytes"]) == (24, 72)
    assert end["train"]["bytes"] == 300 + 72
    assert not (tmp_path / "s" / "progress").exists()


def test_an_interrupted_preparation_counts_the_same(
    tmp_path: Path, chars: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(MODULE, "_BATCH_CHARACTERS", 300)
    whole = make(tmp_path / "whole", *texts(), encoder=chars)
    for stop_at in (1, 4, 6):
        out = tmp_path / f"s{stop_at}"
        with contextlib.suppress(KeyboardInterrupt):
            make(out, *texts(stop_at), encoder=chars)
        store = make(out, *texts(), encoder=chars)
        assert (out / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()
        assert store.valid.unknown == whole.valid.unknown


def test_a_tokenizer_that_knows_all_text_has_zeros(tmp_path: Path) -> None:
    tokenizer = train([Document("ab 中", "x")], TokenizerSettings(kind="char"))
    store = make(tmp_path / "s", *texts(), encoder=tokenizer)
    assert (store.train.unknown, store.valid.unknown) == (UnknownText(), UnknownText())


def test_the_text_of_another_programs_store_is_not_there(tmp_path: Path, chars: Tokenizer) -> None:
    made = make(tmp_path / "s", *texts(), encoder=chars)
    n = made.train.unknown.tokens if made.train.unknown else 0
    for name in ("manifest.json", "documents.safetensors"):
        (tmp_path / "s" / name).unlink()
    store = adopt(tmp_path / "s", chars)
    assert store.train.unknown == UnknownText(n, None)
