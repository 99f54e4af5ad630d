"""Documents that are ids already: separated as texts are, or all of one length and dealt out one a row."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.errors import StoreError
from firstlight.store import Batches, DataSettings, TokenStore, Windows, prepare, verify_store
from firstlight.types import Document


class Codec:
    """Ids below 1,000; with a length each document has it, and nothing stands between them."""

    vocab_size = 1001

    def __init__(self, sequence_length: int | None = None) -> None:
        self.sequence_length, self.eot_id, self.hash = (
            sequence_length,
            1000 if sequence_length is None else -1,
            "codec" * 8,
        )

    def byte_lengths(self) -> np.ndarray:
        return np.zeros(self.vocab_size, dtype=np.int32)


class Rows:
    """A source of arrays, each a document, or a list of pieces of one."""

    def __init__(self, documents: Sequence[Sequence[int] | list[list[int]]], name: str = "rows") -> None:
        self._documents, self.name, self.n_bytes = documents, name, 0

    def documents(self) -> Iterator[Document]:
        for number, document in enumerate(self._documents):
            pieces = document if isinstance(document[0], list) else [document]
            for i, piece in enumerate(pieces):
                yield Document(np.array(piece, dtype=np.int32), f"{self.name}:{number}", continues=i + 1 < len(pieces))

    def fingerprint(self) -> str:
        return self.name


def make(folder: Path, *sources: Rows, sequence_length: int | None = None, **data: object) -> TokenStore:
    return prepare(folder, sources, Codec(sequence_length), DataSettings.model_validate(data), seed=1)


def images(n: int, length: int = 9) -> Rows:
    return Rows([[900 + i % 3, *((i * length + k) % 900 for k in range(length - 1))] for i in range(n)])


def test_an_id_ends_each_document(tmp_path: Path):
    store = make(tmp_path / "s", Rows([[i, i + 1, i + 2] for i in range(60)]), valid_ratio=0.2)
    assert store.sequence_length is None
    assert "sequence" not in store.manifest
    for split in (store.train, store.valid):
        assert np.array_equal(split.tokens.reshape(-1, 4)[:, 3], np.full(split.n_documents, 1000))
        assert split.n_bytes == 0
    assert store.train.n_documents + store.valid.n_documents == 60
    assert store.valid.n_documents > 0
    assert verify_store(store.directory) == []


def test_a_long_document_in_pieces_is_one(tmp_path: Path):
    pieces = [list(range(100)), list(range(100, 300)), [300]]
    store = make(tmp_path / "s", Rows([pieces]), valid_ratio=0.1)
    assert store.train.tokens.tolist() + store.valid.tokens.tolist() == [*range(301), 1000]


@pytest.mark.parametrize("n", [2, 5, 19, 20, 200])
def test_documents_of_one_length_stay_whole_on_either_side(tmp_path: Path, n: int):
    store = make(tmp_path / "s", images(n), sequence_length=9)
    assert store.sequence_length == 9
    for split in (store.train, store.valid):
        assert split.n_tokens % 9 == 0
        assert np.all(split.tokens.reshape(-1, 9)[:, 0] >= 900)
        assert np.array_equal(np.diff(split.bounds), np.full(split.n_documents, 9))
        assert split.n_documents > 0
    assert store.train.n_documents + store.valid.n_documents == n
    assert verify_store(store.directory) == []


def test_one_image_is_too_few(tmp_path: Path):
    with pytest.raises(StoreError, match="too little"):
        make(tmp_path / "s", images(1), sequence_length=9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6))
def test_a_row_is_a_document_and_each_comes_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, seed: int, epoch: int
):
    folder = tmp_path_factory.getbasetemp() / "one-a-row"
    store = make(folder, images(150), sequence_length=9)
    batches = Batches(store, block_size=8, seed=seed)
    n = batches.windows_per_epoch
    assert n == store.train.n_documents
    batch = batches.batch(epoch * n, n)
    whole = torch.cat([batch.inputs, batch.targets[:, -1:]], 1).tolist()
    assert sorted(whole) == sorted(store.train.tokens.reshape(-1, 9).tolist())
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_sources_keep_their_shares_and_names(tmp_path: Path):
    two = Rows([[950, *[i % 900] * 8] for i in range(40)], "two")
    store = make(tmp_path / "s", images(100), two, sequence_length=9)
    batches = Batches(store, block_size=8, seed=1, weights=[1, 3])
    inputs = batches.batch(0, 1024).inputs
    assert int((inputs[:, 0] == 950).sum()) == 768
    for row in range(5):
        (name,) = batches.sources(row, 1)
        assert name.startswith("two:" if int(inputs[row, 0]) == 950 else "rows:")


def test_some_rows_hide_their_first_id_as_a_function_of_the_place(tmp_path: Path):
    store = make(tmp_path / "s", images(300), sequence_length=9)
    plain = Batches(store, block_size=8, seed=1).batch(40, 2000)
    hidden = Batches(store, block_size=8, seed=1, class_dropout=(0.25, 999)).batch(40, 2000)
    marked = hidden.inputs[:, 0] == 999
    assert 400 < int(marked.sum()) < 600
    assert torch.equal(hidden.inputs[~marked], plain.inputs[~marked])
    assert torch.equal(hidden.inputs[:, 1:], plain.inputs[:, 1:])
    assert torch.equal(hidden.targets, plain.targets)
    again = Batches(store, block_size=8, seed=1, class_dropout=(0.25, 999))
    assert torch.equal(torch.cat([again.batch(40 + k, 1).inputs for k in range(50)]), hidden.inputs[:50])
    assert all(
        (Batches(store, block_size=8, seed=1, class_dropout=(1.0, 999)).batch(0, 50).inputs[:, 0] == 999).tolist()
    )


def test_windows_are_the_valid_documents(tmp_path: Path):
    store = make(tmp_path / "s", images(200), sequence_length=9)
    windows = Windows(store.valid, block_size=8, sequence_length=9)
    assert windows.n_windows == store.valid.n_documents
    assert windows.n_targets == 8 * store.valid.n_documents
    batch = windows.batch(0, 1000)
    assert batch.weights is None
    whole = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    assert torch.equal(whole, torch.from_numpy(store.valid.tokens.reshape(-1, 9).astype(np.int64)))


def test_texts_and_ids_do_not_mix(tmp_path: Path):
    class Texts(Rows):
        def documents(self) -> Iterator[Document]:
            yield Document("text", "a.txt")

    with pytest.raises(StoreError, match="a.txt: a document is text, expected ids"):
        make(tmp_path / "s", Texts([]))


def test_an_id_outside_the_vocabulary(tmp_path: Path):
    with pytest.raises(StoreError, match="outside its vocabulary .found 1001; expected 0 to 1000"):
        make(tmp_path / "s", Rows([[1001]] * 30))
