"""Ids that another program wrote in Megatron-LM's format become a store."""

import struct
from pathlib import Path

import numpy as np
import pytest
from made_text import EOT, Bytes, make

from firstlight import progress
from firstlight.errors import CompatibilityError, StoreError
from firstlight.store import Batches, TokenStore, adopt, verify_store


def _written_elsewhere(prefix: Path, documents: list[list[int]], dtype: str = "<i4") -> None:
    """Write .bin and .idx as Megatron-LM's IndexedDatasetBuilder does, a document a sequence."""
    code = {"<i4": 4, "<u2": 8, "<i2": 3, "<i8": 5}[dtype]
    size = np.dtype(dtype).itemsize
    prefix.with_suffix(".bin").write_bytes(b"".join(np.array(d, dtype).tobytes() for d in documents))
    sizes = [len(d) for d in documents]
    pointers = [sum(sizes[:i]) * size for i in range(len(sizes))]
    with prefix.with_suffix(".idx").open("wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sizes), len(sizes) + 1))
        file.write(struct.pack(f"<{len(sizes)}i", *sizes))
        file.write(struct.pack(f"<{len(sizes)}q", *pointers))
        file.write(struct.pack(f"<{len(sizes) + 1}q", *range(len(sizes) + 1)))


@pytest.mark.parametrize("dtype", ["<i4", "<u2", "<i2", "<i8"])
def test_what_another_program_wrote_trains_here(tmp_path: Path, dtype: str) -> None:
    documents = [[*b"some text", EOT], [*b"more", EOT], [*b"and the end of it", EOT]]
    _written_elsewhere(tmp_path / "train", documents, dtype)
    _written_elsewhere(tmp_path / "valid", [[*b"held out", EOT]], dtype)
    store = adopt(tmp_path, Bytes())
    assert verify_store(tmp_path, tokenizer_hash=Bytes().hash) == []
    assert (store.train.n_documents, store.train.n_tokens, store.train.n_bytes) == (3, 33, 30)
    assert (store.valid.n_documents, store.valid.n_bytes) == (1, 8)
    rows = Batches(store, block_size=8, seed=1, weights=[1.0]).batch(0, 4)
    assert rows.inputs.shape == (4, 8)
    assert store.train.document_name(1) == "train document 1"
    assert adopt(tmp_path, Bytes()).fingerprint == store.fingerprint
    with pytest.raises(CompatibilityError, match="another tokenizer"):
        adopt(tmp_path, Bytes(name="other"))


def test_our_own_files_without_their_manifest(tmp_path: Path) -> None:
    wanted = make(tmp_path / "s", [f"text {i}" for i in range(70)])
    (tmp_path / "s" / "manifest.json").unlink()
    store = adopt(tmp_path / "s", Bytes())
    for key in ("train_tokens", "train_bytes", "train_documents", "valid_tokens", "valid_bytes", "dtype", "eot_id"):
        assert store.manifest[key] == wanted.manifest[key]
    assert verify_store(tmp_path / "s") == []


def test_ids_of_another_tokenizer(tmp_path: Path) -> None:
    for side in ("train", "valid"):
        _written_elsewhere(tmp_path / side, [[1, 2, 5000, 3]])
    with pytest.raises(StoreError, match=r"train.bin: has ids that the tokenizer does not have .found 1 to 5000"):
        adopt(tmp_path, Bytes())
    with pytest.raises(StoreError, match="not a complete token store"):
        TokenStore.open(tmp_path)


def test_documents_without_an_end(tmp_path: Path) -> None:
    for side in ("train", "valid"):
        _written_elsewhere(tmp_path / side, [[1, 2, 3]])
    heard: list[progress.Event] = []
    with progress.listen(heard.append):
        adopt(tmp_path, Bytes())
    assert [(event.level, "no end-of-text" in event.text) for event in heard] == [("warning", True)]


def test_missing_and_empty_files(tmp_path: Path) -> None:
    _written_elsewhere(tmp_path / "train", [[1, 2, 3]])
    with pytest.raises(StoreError, match="valid.idx: missing"):
        adopt(tmp_path, Bytes())
    _written_elsewhere(tmp_path / "valid", [])
    with pytest.raises(StoreError, match="valid.bin: holds too little text"):
        adopt(tmp_path, Bytes())
