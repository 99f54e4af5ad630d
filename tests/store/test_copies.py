"""Copies of a document on both sides of a split by position: found, named, and in the manifest."""

from pathlib import Path

import pytest
from made_text import Texts, make

from firstlight import progress

LONG, SHORT = "Once upon a time there was a garden. " * 40, "Another text of its own. " * 5


def warnings_of(path: Path, documents: list[str]) -> tuple[list[str], object]:
    heard: list[str] = []

    def listener(event: progress.Event) -> None:
        if event.level == "warning":
            heard.append(event.text or "")

    with progress.listen(listener):
        store = make(path, Texts(documents, "books"))
    return heard, store.manifest["sources"][0].get("copies")


@pytest.mark.parametrize(
    ("documents", "pair"),
    [
        ([LONG, SHORT, LONG], ("books:3", "books:1")),  # the copy is cut by the split
        ([LONG, SHORT * 9, SHORT, LONG[:600], SHORT], ("books:5", "books:3")),  # the copy is in valid
        ([SHORT, LONG, "x" + LONG], None),
        ([SHORT, LONG, LONG[:-1] + "x"], None),  # of equal length
        ([LONG * 20, SHORT, SHORT], None),  # both are in valid
    ],
)
def test_copies_on_both_sides(tmp_path: Path, documents: list[str], pair: tuple[str, str] | None) -> None:
    heard, copies = warnings_of(tmp_path / "store", documents)
    assert copies == (None if pair is None else [list(pair)])
    assert len(heard) == (pair is not None)
    if pair is not None:
        assert f"{pair[0]}: is the same document as {pair[1]}" in heard[0]
        assert "corpus.dedup=exact" in heard[0]


def test_many_documents_have_their_copies_on_one_side(tmp_path: Path) -> None:
    documents = [f"{SHORT} {i % 40}" for i in range(80)]
    heard, copies = warnings_of(tmp_path / "store", documents)
    assert (heard, copies) == ([], None)
