"""Token stores from token files of nanoGPT, llm.c and Megatron-LM."""

import numpy as np
import pytest

from firstlight.convert.token_files import import_token_files
from firstlight.errors import StoreError, UsageError
from firstlight.store import TokenStore, write_index
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

EOT = 256


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    made = train([Document("x", "x")], TokenizerSettings(kind="byte"))
    assert made.eot_id == EOT
    return made


def ids(*lengths: int) -> np.ndarray:
    """Documents of these lengths, each ended by end-of-text, which counts."""
    return np.concatenate([np.append(np.arange(n - 1) % 256, EOT) for n in lengths]).astype("<u2")


def lengths_of(store: TokenStore, side: str) -> list[int]:
    split = getattr(store, side)
    return np.diff(split.bounds).tolist()


def test_nanogpt_token_files(tmp_path, encoder):
    (tmp_path / "data").mkdir()
    ids(5, 9, 3).tofile(tmp_path / "data" / "train.bin")
    ids(4, 2).tofile(tmp_path / "data" / "val.bin")
    (tmp_path / "data" / "train.bin.bak").write_bytes(b"")
    store = import_token_files(tmp_path / "data", tmp_path / "store", encoder, 0.1)
    assert np.array_equal(store.train.tokens, ids(5, 9, 3)) and np.array_equal(store.valid.tokens, ids(4, 2))
    assert (lengths_of(store, "train"), lengths_of(store, "valid")) == ([5, 9, 3], [4, 2])
    assert store.valid.n_bytes == 4 and store.tokenizer_hash == encoder.hash


def test_tokens_after_the_last_end_of_text_are_a_document(tmp_path, encoder):
    (np.concatenate([ids(5), [1, 2, 3]])).astype("<u2").tofile(tmp_path / "train.bin")
    ids(4).tofile(tmp_path / "val.bin")
    store = import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [5, 3]


def test_llmc_shards(tmp_path, encoder):
    for name, part in (("x_train_000002", ids(3)), ("x_train_000001", ids(5, 9)), ("x_val_000000", ids(4))):
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(part)
        (tmp_path / f"{name}.bin").write_bytes(header.tobytes() + part.tobytes())
    store = import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [5, 9, 3] and lengths_of(store, "valid") == [4]
    path = tmp_path / "x_val_000000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(StoreError, match="does not match its header"):
        import_token_files(tmp_path, tmp_path / "other", encoder, 0.1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("named", ["all.bin", "all.idx", "all"])
def test_megatron_pair_for_both_splits(tmp_path, encoder, named):
    lengths = [7] * 20
    ids(*lengths).astype("<i4").tofile(tmp_path / "all.bin")
    write_index(tmp_path / "all.idx", np.array(lengths), np.dtype("<i4"))
    store = import_token_files(tmp_path / named, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [7] * 18 and lengths_of(store, "valid") == [7] * 2
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), ids(*lengths))


@pytest.mark.parametrize(("lengths", "ratio"), [([100], 0.2), ([3, 50], 0.1), ([9, 1, 1], 0.5), ([4, 4], 0.9)])
def test_split_keeps_every_token(tmp_path, encoder, lengths, ratio):
    ids(*lengths).tofile(tmp_path / "train.bin")
    store = import_token_files(tmp_path / "train.bin", tmp_path / "store", encoder, ratio)
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), ids(*lengths))
    assert len(store.train.tokens) > 1 and len(store.valid.tokens) > 1


def test_damaged_token_files(tmp_path, encoder):
    with pytest.raises(UsageError, match="no token files for training"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(StoreError, match="whole number of ids"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    np.array([1, 2, 300], "<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(StoreError, match="ids that the tokenizer does not have.*300"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(StoreError, match="holds too little text"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert not (tmp_path / "store").exists()
