"""Pieces joined are the whole text, whatever the bytes and wherever the borders fall."""

import io
import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.file_types import identify_binary

CRUMBS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"a",
    "ä".encode(),
    "中".encode(),
    "🙂".encode(),
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xe4\xb8",
]
any_bytes = st.lists(st.sampled_from(CRUMBS), max_size=30).map(b"".join) | st.binary(max_size=60)
sizes = st.integers(1, 9)


def cut(data: bytes, size: int, tally: Tally | None = None, **settings: str) -> list[str]:
    return list(
        decode_chunks(io.BytesIO(data), "f", CorpusSettings.model_validate(settings), tally or Tally(), size=size)
    )


def clean(text: str) -> str:
    return re.sub("(^|\n)\ufeff+", r"\1", text.replace("\r\n", "\n").replace("\r", "\n"))


def is_utf8_but_for_a_few_bytes(data: bytes) -> bool:
    """Whether these bytes are not taken for another encoding, or for no text at all."""
    n_bad = len(data) - len(data.decode("utf-8", "ignore").encode())
    has_controls = any(c in data for c in [*range(9), *range(14, 27), *range(28, 32), 127])
    return (
        identify_binary(data, "f") is None
        and data[:2] not in (b"\xff\xfe", b"\xfe\xff")
        and n_bad <= 8
        and not has_controls
    )


@given(any_bytes, sizes, st.sampled_from(["replace", "skip"]), st.sampled_from(["lf", "keep"]))
@example(b"\xef\xbb\xbf", 1, "replace", "lf")
@example(b"a\r", 2, "replace", "lf")
@example(b"\r\xe4", 1, "skip", "lf")
@example("a\r\n\ufeffb\r\ufeff\ufeffc".encode(), 1, "skip", "lf")
def test_pieces_are_the_whole_text(data: bytes, size: int, on_bad: str, newlines: str):
    assume(is_utf8_but_for_a_few_bytes(data))
    whole = data.decode("utf-8", "ignore" if on_bad == "skip" else on_bad)
    found = cut(data, size, on_bad_bytes=on_bad, newlines=newlines)
    assert "".join(found) == (clean(whole) if newlines == "lf" else whole)
    assert "" not in found


@given(any_bytes, sizes)
def test_the_first_bad_byte_is_named_wherever_the_border_is(data: bytes, size: int):
    assume(is_utf8_but_for_a_few_bytes(data))
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(CorpusError) as caught:
            cut(data, size)
        assert caught.value.where == f"f: byte {error.start}"
    else:
        assert "".join(cut(data, size)) == clean(whole)


@given(any_bytes, sizes)
def test_the_count_of_bad_bytes_does_not_hang_on_borders(data: bytes, size: int):
    assume(is_utf8_but_for_a_few_bytes(data))
    ours, whole = Tally(), Tally()
    cut(data, size, ours, on_bad_bytes="skip", newlines="keep")
    cut(data, 1000, whole, on_bad_bytes="skip", newlines="keep")
    assert ours == whole
    assert ours.n_bad == len(data) - len(data.decode("utf-8", "ignore").encode())


def test_runs_of_bad_bytes_are_listed_by_their_beginning():
    tally = Tally()
    cut(b"ab\xff\xff\xffc\xe9" + b"." * 20 + b"\xe9.", 4, tally, on_bad_bytes="skip")
    assert (tally.n_bad, tally.bad_bytes) == (5, ["f: byte 2", "f: byte 6", "f: byte 27"])


def test_a_mark_within_a_line_is_text_and_one_before_a_line_is_left_from_joining_files():
    assert "".join(cut("a\ufeffb".encode(), 2)) == "a\ufeffb"
    tally = Tally()
    assert "".join(cut("\ufeff\ufeffa\n\ufeffb\r\n\ufeffc\n".encode(), 2, tally)) == "a\nb\nc\n"
    assert tally.notes == {"read without byte order marks within the text": ["f"]}
    assert "".join(cut("\ufeffa\n\ufeffb".encode(), 2, newlines="keep")) == "\ufeffa\n\ufeffb"


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("size", [1, 100])
def test_wide_text_is_read_by_its_mark(code: str, size: int):
    text, tally = "\ufeffhello 中文🙂\n", Tally()
    assert "".join(cut(text.encode(code), size, tally)) == text[1:]
    [note] = tally.notes
    assert code[:6].upper() in note and "byte order mark" in note
    assert "".join(cut(text.encode(code), size, newlines="keep")) == text[1:]


def test_a_file_of_another_encoding_is_not_slow():
    """Each bad byte once cost a copy of the piece: a megabyte of GBK would have taken minutes."""
    data = ("床前明月光，疑是地上霜。" * 90_000).encode("gbk")
    before = time.process_time()
    with pytest.raises(CorpusError, match="too many bytes are bad to be replaced.*reads as GB18030: 床前明月光"):
        cut(data, 1 << 20, on_bad_bytes="replace")
    assert "".join(cut(data, 1 << 20, encoding="gb18030")) == data.decode("gbk")
    assert time.process_time() - before < 10


crumbs = st.lists(st.sampled_from(["a", "b", "ab", "aba|", "|", "\n"]), max_size=12).map("".join)


@given(crumbs, st.integers(1, 5), st.sampled_from(["\n", "|", "ab", "aba|"]))
def test_parts_are_those_of_the_whole_text(text: str, size: int, separator: str):
    stream = [text[i : i + size] for i in range(0, len(text), size)]
    whole = text.split(separator)
    assert list(split_stream(iter(stream), separator)) == (whole if whole[-1] else whole[:-1])


@pytest.mark.parametrize("separator", ["\n", "<|endoftext|>"])
def test_one_long_part_costs_linear_time(separator: str):
    def seconds(n: int) -> float:
        before = time.process_time()
        [whole] = split_stream(iter(["x" * 1000] * n), separator)
        assert len(whole) == 1000 * n
        return time.process_time() - before

    # 100 MB; a quadratic way copies 5 TB here.
    assert seconds(100_000) < 10
