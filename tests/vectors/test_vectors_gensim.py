"""gensim's files are read without running what they say; what they say that vectors have no need of is refused."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import WORDS, same, some

from firstlight.errors import FirstlightError, TokenizerError
from firstlight.files.safe_pickle import UnsafePickleError, read_pickle, to_array
from firstlight.vectors import read_vectors


def keyed():
    models = pytest.importorskip("gensim.models")
    vectors = models.KeyedVectors(4)
    vectors.add_vectors(WORDS, some().matrix)
    return vectors


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_keyed_vectors_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "v.kv"), pickle_protocol=protocol)
    assert same(read_vectors(tmp_path / "v.kv"), some())


def test_keyed_vectors_with_arrays_beside_them_and_packed(tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "v.kv"), separately=["vectors"], sep_limit=0)
    assert (tmp_path / "v.kv.vectors.npy").is_file()
    assert same(read_vectors(tmp_path / "v.kv"), some())
    (tmp_path / "v.kv.vectors.npy").unlink()
    with pytest.raises(TokenizerError, match="file of its vectors is missing"):
        read_vectors(tmp_path / "v.kv")
    keyed().save(str(tmp_path / "v.kv.gz"))
    assert same(read_vectors(tmp_path / "v.kv.gz"), some())


def test_a_whole_word2vec_model(tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    made = models.Word2Vec([["a", "b", "c"] * 5] * 4, vector_size=6, min_count=1, workers=1, seed=1)
    made.save(str(tmp_path / "m.model"))
    found = read_vectors(tmp_path / "m.model")
    assert found.words == made.wv.index_to_key
    np.testing.assert_array_equal(found.matrix, made.wv.vectors)


class Evil:
    """Asks a reader of pickles to run something."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    vectors = keyed()
    for number, evil in enumerate([Evil(os.mkdir, str(trace)), Evil(eval, "1"), Evil(getattr, vectors, "save")]):
        vectors.note = evil
        file = tmp_path / f"{number}.kv"
        file.write_bytes(pickle.dumps(vectors, protocol=protocol))
        with pytest.raises(TokenizerError, match="refers to code, which is not run"):
            read_vectors(file)
    assert not trace.exists()


def thing(state: dict) -> bytes:
    """Return a pickle of gensim's class with any state, written by hand."""
    inner = pickle.dumps(state, protocol=2)[2:-1]
    return b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors\n)\x81" + inner + b"b."


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x04", "not a readable pickle"),
        (b"\x80\x04.", "not a readable pickle"),
        (b"\x80\x04K\x01.", "has no gensim KeyedVectors"),
        (b"\x80\x04]q\x00.", "has no gensim KeyedVectors"),
        (b"\x80\x02h\x05.", "not a readable pickle"),
        (b"\x80\x02(K\x01K\x02.", "no gensim KeyedVectors"),
        (b"\x80\x02u.", "not a readable pickle"),
        (b"\x80\x02R.", "its stack is empty"),
        (b"\x80\x02P1\n.", "an unsupported instruction"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc", "not a readable pickle"),
        (b"\x80\x04B" + struct.pack("<I", 1 << 31) + b"abc", "not a readable pickle"),
        (thing({}), "has no words"),
        (thing({"index_to_key": ["a", 3]}), "words that are not strings"),
        (thing({"key_to_index": {"a": 0, "b": 2}}), "whose rows are not"),
        (thing({"index_to_key": ["a"]}), "file of its vectors is missing"),
        (thing({"index_to_key": ["a", "b"], "vectors": np.ones((1, 3), np.float32)}), "fewer vectors than words"),
        (thing({"index_to_key": ["a"], "vectors": np.array([{}], object)}), "not a plain number"),
        (thing({"index_to_key": ["a"], "vectors": np.ones((1, 3), np.int64)}), "not a matrix"),
        (b"\x80\x02}(" + b")" + b"\x85" * 100_000 + b"K\x01u.", "neither a string nor a number"),
    ],
    ids=range(19),
)
def test_a_pickle_that_is_damaged_or_hostile(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "v.kv").write_bytes(data)
    with pytest.raises(TokenizerError, match=says) as caught:
        read_vectors(tmp_path / "v.kv")
    assert str(tmp_path / "v.kv") in caught.value.message
    assert "\n" not in caught.value.message


def test_an_array_is_held_to_its_bytes() -> None:
    data = pickle.dumps(np.ones((2, 3), np.float32), protocol=4)
    np.testing.assert_array_equal(to_array(read_pickle(data)), np.ones((2, 3), np.float32))
    with pytest.raises(UnsafePickleError, match="do not fit its shape"):
        to_array(read_pickle(data.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86")))


def test_vectors_of_gensim_3_have_a_table_of_words(tmp_path: Path) -> None:
    entries = b"".join(
        b"X"
        + struct.pack("<I", len(w))
        + w
        + b"cgensim.models.keyedvectors\nVocab\n)\x81}X\x05\x00\x00\x00index"
        + b"K"
        + bytes([i])
        + b"sb"
        for i, w in enumerate([b"one", b"two"])
    )
    matrix = pickle.dumps(np.eye(2, dtype=np.float32), protocol=2)[2:-1]
    table = b"}(X\x05\x00\x00\x00vocab}(" + entries + b"uX\x04\x00\x00\x00syn0" + matrix + b"u"
    (tmp_path / "old").write_bytes(b"\x80\x02cgensim.models.word2vec\nWord2Vec\n)\x81" + table + b"b.")
    found = read_vectors(tmp_path / "old")
    assert found.words == ["one", "two"]
    np.testing.assert_array_equal(found.matrix, np.eye(2))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_byte_of_a_pickle_gives_vectors_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("flipped") / "v.kv"
    held = bytearray(
        thing({"index_to_key": ["a", "b"], "vectors": np.ones((2, 3), np.float32), "more": (1, 2.5, b"x")})
    )
    held[data.draw(st.integers(0, len(held) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(held)
    try:
        read_vectors(file)
    except FirstlightError as error:
        assert "\n" not in error.message
