"""Words as files of vectors have them: cut letters, spaces, byte order marks, empty words; compared with gensim."""

import gzip
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from firstlight.cli.app import run
from firstlight.errors import MissingExtra, TokenizerError
from firstlight.types import Document
from firstlight.vectors import VectorSettings, WordVectors, read_vectors
from firstlight.vectors.corpus_words import read_corpus_words

CUT = "ж" * 51  # word2vec.c cuts at 100 bytes, with a one-byte word before it within a letter
MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def binary(words: list[bytes], end: bytes = b"\n", dtype: str = "<f4") -> bytes:
    rows = [word + b" " + row.astype(dtype).tobytes() + end for word, row in zip(words, MATRIX, strict=False)]
    return f"{len(words)} 5\n".encode() + b"".join(rows)


def text(words: list[bytes], end: bytes = b"\n", header: bytes = b"", separator: bytes = b" ") -> bytes:
    rows = [
        word + separator + separator.join(b"%.9g" % x for x in row.tolist())
        for word, row in zip(words, MATRIX, strict=False)
    ]
    return header + end.join(rows) + end


def read(folder: Path, name: str, data: bytes, **options: str) -> WordVectors:
    (folder / name).write_bytes(data)
    return read_vectors(folder / name, **options)


def same(found: WordVectors, words: list[str]) -> None:
    assert found.words == words
    np.testing.assert_array_equal(found.matrix, MATRIX[: len(words)])


BAD = [b"the", b"x" + CUT.encode()[:99], "été".encode("latin-1"), "naïve".encode()]


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize(("choice", "in_gensim"), [("replace", "replace"), ("skip", "ignore")])
def test_words_that_are_not_utf8_as_in_gensim(tmp_path, choice, in_gensim, end, caplog) -> None:
    models = pytest.importorskip("gensim.models")
    for name, data in (("v.bin", binary(BAD, end)), ("v.txt", text(BAD, header=b"4 5\n"))):
        with caplog.at_level(logging.WARNING, "firstlight"):
            found = read(tmp_path, name, data, on_bad_bytes=choice)
        theirs = models.KeyedVectors.load_word2vec_format(
            tmp_path / name, binary=name == "v.bin", unicode_errors=in_gensim
        )
        same(found, theirs.index_to_key)
        assert "words that are not UTF-8: 2; their bad bytes" in caplog.text
        with pytest.raises(TokenizerError, match=r"not UTF-8 .*at byte 99 of 99|not UTF-8 .*--on-bad-bytes"):
            read_vectors(tmp_path / name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("header", [b"", b"4 5\n", b"4 5\r\n"])
def test_a_byte_order_mark_is_not_a_part_of_the_first_word(tmp_path, header, packed) -> None:
    data = b"\xef\xbb\xbf" + text([b"the", b"of", b"a", b"b"], header=header)
    same(
        read(tmp_path, "v.txt.gz" if packed else "v.txt", gzip.compress(data) if packed else data),
        ["the", "of", "a", "b"],
    )
    same(read(tmp_path, "v.bin", b"\xef\xbb\xbf" + binary([b"the", b"of"])), ["the", "of"])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("header", [b"", b"5 5\n"])
@pytest.mark.parametrize("separator", [b" ", b"\t"])
def test_spaces_that_do_not_end_a_word(tmp_path, end, header, separator) -> None:
    words = ["the", "New York", "a\u00a0b", "\u00a0", "x\u3000\u2028\u0085y"]
    same(read(tmp_path, "v.txt", text([w.encode() for w in words], end, header, separator)), words)


def test_empty_words_are_left_out_and_counted(tmp_path, caplog) -> None:
    data = text([b"the", b"", b"of"])
    for name, content in (("v.txt", data), ("v2.txt", b"3 5\n" + data), ("v.bin", binary([b"the", b"", b"of"]))):
        with caplog.at_level(logging.WARNING, "firstlight"):
            found = read(tmp_path, name, content)
        assert found.words == ["the", "of"] and f"{name}: empty words: 1, left out" in caplog.text
        np.testing.assert_array_equal(found.matrix, MATRIX[[0, 2]])


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("v.bin", binary([b"a", b"b"], dtype=">f4"), "its numbers are big endian"),
        ("v.bin", binary([b"a", b"b"], dtype="<f2"), "not enough bytes|no end|not UTF-8"),
        ("v.bin", binary([b"a", b"b"], dtype="<f8"), "no end|not UTF-8|has data after"),
        ("v.bin", binary([b"a", b"b"]).replace(b"2 5", b"1 5", 1), "has data after its last word"),
        ("v.bin", binary([b"a", b"b"]).replace(b"2 5", b"3 5", 1), "not enough bytes"),
        ("v.bin", binary([b"a", b"b", b"New York", b"b"]), "not UTF-8|a word with a space"),
        ("v.bin", binary([b"a"]).replace(MATRIX[0, 2].tobytes(), b"\0\0\xc0\x7f"), "not finite .*in 'a'"),
        ("v.txt", text([b"a", b"b"], b"\r"), "carriage return"),
        ("v.txt", text([b"a", b"b"], header=b"3 5\n"), "number of words differs"),
        ("v.txt", text([b"a", b"b"], header=b"1 5\n"), "number of words differs"),
        ("v.txt", text([b"a", b"b"], header=b"2 4\n"), "more numbers"),
        ("v.txt", text([b"a", b"b"], header=b"2 6\n"), "too few numbers"),
        ("v.txt", text([b"a", b"b"]).decode().encode("utf-16"), "is in UTF-16"),
        ("v.zip", b"PK\x03\x04" + bytes(99), "is a zip file"),
        ("v.txt", b"a 0,5 1\nb 1 2\n", "too few numbers|more numbers|not a number"),
    ],
)
def test_what_is_refused(tmp_path, name, data, says) -> None:
    for choice in ("error", "replace"):
        with pytest.raises(TokenizerError, match=says):
            read(tmp_path, name, data, on_bad_bytes=choice)


def test_binary_numbers_that_look_like_letters(tmp_path) -> None:
    word, number = "\u2028\u3000", np.frombuffer("踾p".encode(), "<f4")
    found = read(tmp_path, "v.bin", b"1 1\n" + word.encode() + b" " + number.tobytes() + b"\n")
    assert found.words == [word] and found.matrix.tolist() == [number.tolist()]


def test_the_handed_files(tmp_path, shared_data: Path, capsys) -> None:
    folder = shared_data.parent / "cases" / "vectors"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    assert read_vectors(folder / "bom.txt").words[0] == "the"
    words = read_vectors(folder / "cut.bin", on_bad_bytes="replace").words
    assert len(words) == 13 and sum("\ufffd" in word for word in words) == 1
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the\tred\t1\nred\tthe\t2\nthe\tthe\t3\n")
    command = ["tokenizer", "vectors", "eval", str(folder / "cut.bin"), "--similarity", str(pairs)]
    assert run(command) == 1 and "--on-bad-bytes" in capsys.readouterr().err
    assert run([*command, "--on-bad-bytes", "replace"]) == 0
    assert "words that are not UTF-8: 1; their bad bytes are replaced" in capsys.readouterr().err
    assert run([*command, "--on-bad-bytes", "sometimes"]) == 2


def test_chinese_words_are_those_that_jieba_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs of Chinese characters; everything else is split as without it."""
    runs: list[str] = []

    def cut(run: str) -> list[str]:
        runs.append(run)
        return [run[i : i + 2] for i in range(0, len(run), 2)]

    fake = types.SimpleNamespace(cut=cut, setLogLevel=lambda _: None)
    monkeypatch.setitem(sys.modules, "jieba", fake)
    document = Document("我们去海边 小船，the sea's 海", "x")
    settings = VectorSettings(min_count=1, segmenter="jieba")
    found = read_corpus_words([document], settings, None)
    words = [found.words[i] for i in found.ids]
    assert words == ["我们", "去海", "边", "小船", "，", "the", "sea", "'", "s", "海"]
    assert [run for run in runs if run] == ["我们去海边", "小船", "海"]
    plain = read_corpus_words([document], VectorSettings(min_count=1), None)
    assert [plain.words[i] for i in plain.ids][:5] == list("我们去海边")


def test_without_jieba_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(MissingExtra, match="zh|jieba"):
        read_corpus_words([Document("我们", "x")], VectorSettings(segmenter="jieba"), None)
