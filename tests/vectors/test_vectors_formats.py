"""Word vectors in every format, whole, gzipped, cut, damaged and hostile."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from vector_files import WORDS, same, some

from firstlight.errors import FirstlightError, TokenizerError, UnknownName, UsageError
from firstlight.vectors import WRITERS, WordVectors, read_vectors, write_vectors


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_what_is_written_is_read_again_bit_for_bit(suffix: str, packed: str, tmp_path: Path) -> None:
    made = some()
    write_vectors(made, tmp_path / f"v{suffix}{packed}")
    found = read_vectors(tmp_path / f"v{suffix}{packed}")
    assert same(found, made)
    assert (found.width, len(found)) == (4, 9)


def test_glove_has_no_first_line_with_counts(tmp_path: Path) -> None:
    lines = [f"{word} {' '.join(f'{x:.9g}' for x in row)}" for word, row in zip(WORDS, some().matrix, strict=True)]
    for name, text in (("a.txt", "\n".join(lines) + "\n"), ("b.txt", " \r\n".join(lines))):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert same(read_vectors(tmp_path / name), some())


def test_words_with_spaces_as_gloves_largest_set_has_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the 1 2\n. . . 3 4\nat name@domain.com 5 6\n")
    assert read_vectors(tmp_path / "a.txt").words == ["the", ". . .", "at name@domain.com"]


def test_only_what_is_wanted_is_kept_in_every_format(tmp_path: Path) -> None:
    for suffix in WRITERS:
        write_vectors(some(), tmp_path / suffix / f"v{suffix}")
        found = read_vectors(tmp_path / suffix / f"v{suffix}", frozenset({"mat", "cat", "dog"}))
        assert found.words == ["cat", "mat"]
        np.testing.assert_array_equal(found.matrix, some().matrix[[1, 5]])


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_existing_files_are_kept_unless_asked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    write_vectors(some(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="already exists"):
        write_vectors(some(3), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    write_vectors(some(3), path, overwrite=True)
    assert read_vectors(path).width == 3


def test_a_word_that_stands_there_twice_has_its_first_vector(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a 1 2\nb 3 4\na 5 6\n")
    found = read_vectors(tmp_path / "a.txt")
    assert found.words == ["a", "b"]
    assert found.matrix.tolist() == [[1, 2], [3, 4]]


def test_a_word_is_looked_for_as_it_is_written_and_then_in_lower_case() -> None:
    made = some(words=["the", "US", "us"])
    assert [made.find(w) for w in ("the", "The", "US", "Us", "no")] == [
        (0, True),
        (0, False),
        (1, True),
        (2, False),
        None,
    ]


def test_arrays_of_other_types_and_orders(tmp_path: Path) -> None:
    matrix = some().matrix
    (tmp_path / "v.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    for array in (matrix.astype(np.float64), np.asfortranarray(matrix), matrix.astype(">f4")):
        np.save(tmp_path / "v.npy", array)
        assert same(read_vectors(tmp_path / "v.npy"), some())
    np.save(tmp_path / "v.npy", matrix.astype(np.float16))
    assert read_vectors(tmp_path / "v.npy").matrix.dtype == np.float32


def test_safetensors_with_several_tensors(tmp_path: Path) -> None:
    (tmp_path / "v.vocab").write_text("\n".join(WORDS), encoding="utf-8")
    save_file({"embeddings": some().matrix, "other": np.zeros((2, 2), np.float32)}, tmp_path / "v.safetensors")
    assert same(read_vectors(tmp_path / "v.safetensors"), some())
    save_file({"a": some().matrix, "b": some().matrix}, tmp_path / "v.safetensors")
    with pytest.raises(TokenizerError, match="no matrix of word vectors"):
        read_vectors(tmp_path / "v.safetensors")


def test_word2vec_with_line_breaks_behind_rows_and_without(tmp_path: Path) -> None:
    made = some()
    for end in (b"", b"\n"):
        rows = [w.encode() + b" " + row.tobytes() + end for w, row in zip(WORDS, made.matrix, strict=True)]
        (tmp_path / "v.bin").write_bytes(b"9 4\n" + b"".join(rows))
        assert same(read_vectors(tmp_path / "v.bin"), made)


NPY = b"\x93NUMPY\x01\x00"


def npy(header: str, data: bytes = b"") -> bytes:
    padded = header.encode().ljust(118) + b"\n"
    return NPY + struct.pack("<H", len(padded)) + padded + data


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", "is empty"),
    "words.txt": (b"just some text\nof words\n", "words.txt:1: is not a file of word vectors"),
    "short.txt": (b"a 1 2\nb 1\n", "short.txt:2: has too few numbers (found 1; expected 2)"),
    "long.txt": (b"a 1 2\nb 1 2 3\n", "long.txt:2: has more numbers"),
    "letters.txt": (b"a 1 2\nb 1 x\n", "letters.txt:2: is not a number (found 'x')"),
    "nan.txt": (b"a 1 2\nb nan 2\n", "nan.txt:2: has numbers that are not finite"),
    "huge.txt": (b"a 1 2\nb 1e300 2\n", "has numbers that are not finite (found in 'b')"),
    "latin.txt": (b"a 1 2\n\xe9t\xe9 1 2\n", "latin.txt:2: has a word that is not UTF-8"),
    "fewer.txt": (b"3 2\nabc 1 2\nbcd 1 2\nc", "fewer.txt:4: has too few numbers"),
    "cut.txt": (b"3 2\nabcdef 1 2\nb 1 2\n", "cut.txt:3: the number of words differs"),
    "count.txt": (b"999999999 50\na 1 2\n", "not enough bytes for"),
    "wide.txt": (b"2 99999999\na 1 2\n", "has an invalid header line"),
    "none.txt": (b"0 5\n", "has an invalid header line"),
    "line.txt": (b"a" * (3 << 20), "line.txt:1: line too long"),
    "cut.bin": (b"2 4\nab " + b"\x01\x02\x03\x99" * 4 + b"cd \x00\x01", "not enough bytes for"),
    "count.bin": (b"9999999999 300\nab " + b"\x01\x02\x03\x99" * 300, "not enough bytes for"),
    "noend.bin": (b"1 1\nab \x99\x99\x99\x3f" + b"x" * 3000, "has data after its last word"),
    "noword.bin": (b"2 1\nab \x99\x99\x99\x3f" + b"x" * 3000, "a word has no end"),
    "magic.npy": (b"\x93NUMPY\x09\x00" + b"\0" * 80, "is not an .npy file of version 1 or 2"),
    "huge.npy": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 300)}"), "not enough bytes for"),
    "minus.npy": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}"), "invalid shape"),
    "object.npy": (
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 3)}", b"x" * 24),
        "no numbers of an",
    ),
    "code.npy": (npy("__import__('os').system('true')"), "invalid .npy header"),
    "flat.npy": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", b"\0" * 12), "is not a matrix"),
    "alone.npy": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}", b"\0" * 12), "no vocabulary file"),
    "head.safetensors": (struct.pack("<Q", 1 << 60) + b"{}", "not enough bytes for"),
    "body.safetensors": (
        struct.pack("<Q", 67) + b'{"a":{"dtype":"F32","shape":[9,9],"data_offsets":[0,9999999999]}}  ',
        "not enough bytes for",
    ),
    "odd.safetensors": (struct.pack("<Q", 2) + b"[]", "not a readable safetensors"),
    "fasttext.bin": (b"\xba\x16\x4f\x2f" + b"\0" * 40, "Use its .vec file"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_for_a_file_that_is_no_vectors(name: str, packed: bool, tmp_path: Path) -> None:
    data, says = HOSTILE[name]
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(TokenizerError) as caught:
        read_vectors(file)
    sentence = caught.value.message
    assert "\n" not in sentence
    assert str(file) in sentence
    if not packed:
        assert says in sentence
    # Of a packed file the real size is only known at its end, so some are told later, with another message.
    elif "not enough bytes for" not in says:
        assert says.replace(name, f"{name}.gz") in sentence


def test_a_gzip_that_is_cut(tmp_path: Path) -> None:
    write_vectors(some(50, [f"w{i}" for i in range(500)]), tmp_path / "v.txt.gz")
    data = (tmp_path / "v.txt.gz").read_bytes()
    (tmp_path / "v.txt.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(TokenizerError, match="cannot be decompressed"):
        read_vectors(tmp_path / "v.txt.gz")


def test_a_vocabulary_that_is_none(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", some().matrix)
    for name, text, says in (
        ("v.vocab", "a\nb\n", "number of words differs"),
        ("v.json", "{", "cannot be read"),
        ("v.json", '{"a": 1, "b": 7}', "is not a vocabulary"),
        ("v.json", "[1, 2]", "is not a vocabulary"),
    ):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(TokenizerError, match=says):
            read_vectors(tmp_path / "v.npy")
        file.unlink()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=".safetensors"):
        write_vectors(some(), tmp_path / "v.pkl")
    with pytest.raises(TokenizerError, match="white space"):
        write_vectors(some(words=["a b", "c"]), tmp_path / "v.txt")
    write_vectors(some(words=["a b", "c"]), tmp_path / "v.npy")
    assert read_vectors(tmp_path / "v.npy").words == ["a b", "c"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_byte_gives_vectors_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    suffix = data.draw(st.sampled_from([*WRITERS, ".txt.gz", ".bin.gz"]))
    write_vectors(some(), folder / f"v{suffix}")
    held = bytearray((folder / f"v{suffix}").read_bytes())
    held[data.draw(st.integers(0, len(held) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(held)))
    (folder / f"v{suffix}").write_bytes(held[: cut if data.draw(st.booleans()) else len(held)])
    try:
        assert isinstance(read_vectors(folder / f"v{suffix}"), WordVectors)
    except FirstlightError as error:
        assert "\n" not in error.message


@pytest.mark.data
def test_real_files(shared_data: Path) -> None:
    glove = read_vectors(shared_data / "vectors" / "glove.6B.50d.top30k.txt.gz")
    assert (len(glove), glove.width, glove.words[:3]) == (30_000, 50, ["the", ",", "."])
    binary = read_vectors(shared_data / "vectors" / "euclidean_vectors.bin")
    assert (len(binary), binary.width, binary.words[:2]) == (2747, 10, ["the", "to"])
    text = read_vectors(shared_data / "vectors" / "test_glove.txt")
    assert (len(text), text.width, text.words[1]) == (76, 50, "ö")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_counts_of_a_vocabulary_are_left_out(tmp_path: Path, end: str) -> None:
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "v.vocab").write_bytes(f"</s> 7{end}the 5{end}of 3{end}".encode())
    assert read_vectors(tmp_path / "v.npy").words == ["</s>", "the", "of"]
    (tmp_path / "v.vocab").write_bytes(f"the 5{end}of{end}a 3{end}".encode())
    assert read_vectors(tmp_path / "v.npy").words == ["the 5", "of", "a 3"]
