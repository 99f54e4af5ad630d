"""Text of any encoding: byte order marks, files that are not text, guesses, bad bytes, lines."""

import bz2
import gzip
import io
import lzma
import pickle
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.errors import CorpusError, StoreError
from firstlight.files.encodings import guess_encoding, guess_wide
from firstlight.files.file_types import identify_binary
from firstlight.files.text_decoder import Decoding, iconv_command
from firstlight.files.text_lines import iter_lines, iter_text

PATH = Path("t.txt")
# Sentences in the languages that each encoding is used for.
SENTENCES = {
    "gb18030": "图书馆提前放假，报纸用半页写了这件事。",
    "gbk": "深圳市腾讯计算机系统有限公司",
    "big5": "漁船早晨開門，人們都很高興。",
    "cp932": "吾輩は猫である。名前はまだ無い。",
    "euc_jp": "吾輩は猫である。名前はまだ無い。",
    "cp949": "안녕하세요 저는 학생입니다. 오늘은 날씨가 좋습니다.",
    "cp1251": "Привет, мир! Как дела? Это русский текст.",
    "koi8_r": "Привет, мир! Как дела? Это русский текст.",
    "cp866": "Привет, мир! Как дела? Это русский текст.",
    "cp1252": "L'été à la façade – “naïve”",
    "cp1250": "Zażółć gęślą jaźń, příliš žluťoučký kůň",
    "cp1254": "İstanbul’da ışık güzel şey",
    "cp850": "été à la façade",
    "mac_roman": "été à la façade “x”",
    "cp1253": "Καλημέρα κόσμε",
    "cp1255": "שלום עולם",
    "cp1256": "مرحبا بالعالم",
    "cp874": "สวัสดีชาวโลก",
    "utf_16_le": "中文文本没有空格，只有标点。",
    "utf_16_be": "中文文本没有空格，只有标点。",
}


def text(data: bytes, **how: object) -> str:
    return "".join(iter_text(io.BytesIO(data), PATH, Decoding(**how)))  # type: ignore[arg-type]


def lines(data: bytes, **how: object) -> list[str]:
    return list(iter_lines(io.BytesIO(data), PATH, Decoding(by_line=True, **how)))  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", SENTENCES)
def test_the_encoding_of_a_sentence_is_recognised(codec: str) -> None:
    data = SENTENCES[codec].encode(codec)
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode()
    guess = guess_encoding(data, caught.value.start)
    assert guess is not None
    assert data.decode(guess.codec) == SENTENCES[codec]
    with pytest.raises(CorpusError) as refused:
        text(data, setting="corpus.encoding={}")
    assert f"set corpus.encoding={guess.codec}".casefold() in str(refused.value).casefold()
    assert SENTENCES[codec][:6] in str(refused.value)


@pytest.mark.parametrize("private", ["\ue5e5", "\ue420"])  # a space of web pages; a picture of telephones
def test_a_few_private_characters_do_not_hide_gb18030(private: str) -> None:
    data = ("味道不错，下次还来。" * 20 + private).encode("gb18030")
    guess = guess_encoding(data)
    assert guess is not None and guess.codec == "gb18030"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_refused_and_named(codec: str) -> None:
    data = "It is text.\n中文。\n".encode(codec)
    with pytest.raises(CorpusError, match=f"looks like {codec[:6].upper()}.*reads as .*It is text"):
        text(data)
    assert text(data, encoding=codec) == "It is text.\n中文。\n"
    assert text(data, encoding=codec[:6]) == "It is text.\n中文。\n"


def test_text_with_a_few_nuls_is_not_wide() -> None:
    assert guess_wide(b"columns of ancient databases are padded\0\0 with zeros") is None
    assert text(b"columns\0 of text, many of them") == "columns\0 of text, many of them"


@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_wide_text_is_read_by_its_mark_whatever_is_set(codec: str) -> None:
    notes: list[str] = []
    data = "é1\nĊ2\r\nlast\u2028x".encode(codec)
    assert lines(data, encoding="gb18030", note=notes.append) == ["é1\n", "Ċ2\r\n", "last\u2028x"]
    assert "although the encoding is set to gb18030" in notes[0]
    assert codec.upper() in notes[0]
    assert lines(data, note=notes.append) == ["é1\n", "Ċ2\r\n", "last\u2028x"]
    assert "although" not in notes[1]


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "cp1252", "latin-1", "utf-16-le", "ascii"])
def test_utf_8_wins_over_another_encoding(encoding: str) -> None:
    notes: list[str] = []
    data = ("ASCII first. " * 100 + "图书馆提前放假，报纸用半页写了这件事。\n").encode()
    assert text(data, encoding=encoding, note=notes.append) == data.decode()
    assert notes[0].startswith("read as UTF-8, which it is, although the encoding is set to ")


@pytest.mark.parametrize("codec", [c for c in SENTENCES if not c.startswith("utf")])
def test_an_encoding_that_is_right_is_obeyed(codec: str) -> None:
    data = SENTENCES[codec].encode(codec)
    assert text(data, encoding=codec) == SENTENCES[codec]
    # Two letters of GB18030 that are valid UTF-8 by chance.
    assert text("模模".encode("gbk"), encoding="gb18030") == "模模"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), max_size=50))
def test_a_text_in_gb18030_is_read_so_unless_it_is_utf_8(sample: str) -> None:
    data = sample.encode("gb18030")
    try:
        expected = {sample, data.decode()}
    except UnicodeDecodeError:
        expected = {sample}
    assert text(data, encoding="gb18030") in expected


def test_marks_at_the_starts_of_lines_are_left_out() -> None:
    notes: list[str] = []
    assert lines(b"\xef\xbb\xbf\xef\xbb\xbfa\n\xef\xbb\xbfb\xef\xbb\xbf\n", note=notes.append) == ["a\n", "b\ufeff\n"]
    assert notes == ["read without 1 byte order marks within its text"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "utf-32-be", "gb18030"])
def test_only_a_line_feed_ends_a_line(encoding: str) -> None:
    odd = "a\x0bb\x0cc\x1cd\x85e\rf" + ("" if encoding == "latin-1" else "\u2028g\u2029h")
    sample = f"{odd}\n\n{odd}\r\nlast"
    assert lines(sample.encode(encoding), encoding=encoding) == [f"{odd}\n", "\n", f"{odd}\r\n", "last"]


def test_a_bad_byte_is_named_by_its_line() -> None:
    with pytest.raises(StoreError, match=r"t.txt:2: is not UTF-8 \(found ff"):
        lines(b"a\n\xffb\n", error=StoreError)
    with pytest.raises(StoreError, match="t.txt:1: is not UTF-16"):
        lines(b"\xff\xfea", encoding="utf-16", error=StoreError)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "ascii"])
def test_a_few_bad_bytes_are_replaced_and_many_are_refused(encoding: str) -> None:
    places: list[tuple[int, str]] = []
    few = b"word \xff\xff word " * 2 + b"text " * 400
    found = text(few, encoding=encoding, on_bad="skip", count_bad=lambda n, where: places.append((n, where)))
    assert found == few.replace(b"\xff", b"").decode()
    assert sum(n for n, _ in places) == 4
    with pytest.raises(CorpusError, match=r"too many bytes are bad to be replaced \(found \d+ of"):
        text(b"word \xff\xff word " * 20, encoding=encoding, on_bad="replace")


def test_what_a_message_advises_for_bad_bytes() -> None:
    settings = {"setting": "corpus.encoding={}", "on_bad_setting": "corpus.on_bad_bytes=replace"}
    with pytest.raises(CorpusError, match=r"Continue with corpus.on_bad_bytes=replace$"):
        text("图书馆".encode() * 1000 + b"\xff", **settings)
    with pytest.raises(CorpusError) as refused:
        text("图书馆提前放假，报纸".encode("gb18030") * 1000, **settings)
    assert "on_bad_bytes" not in str(refused.value)


def packed_zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 100)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "fix"),
    [
        (gzip.compress(b"text " * 50), "a gzip file", "mv {folder}/a file.txt' {folder}/a file.txt.gz'"),
        (bz2.compress(b"text " * 50), "a bzip2 file", "mv {folder}/a file.txt' {folder}/a file.txt.bz2'"),
        (lzma.compress(b"text " * 50), "an xz file", "mv {folder}/a file.txt' {folder}/a file.txt.xz'"),
        (packed_zip("a.txt"), "a zip archive", "Unpack it"),
        (packed_zip("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"), "an Excel workbook", "CSV UTF-8"),
        (packed_zip("[Content_Types].xml", "word/document.xml"), "a Word document", "plain text"),
        (packed_zip("archive/data.pkl"), "a PyTorch file", "plain text"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF file", "pdftotext {folder}/a file.txt' "),
        (b"SQLite format 3\0" + bytes(100), "an SQLite database", "CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old Office file", "CSV"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "an image", ""),
        (b"PAR1\x15\x04", "a Parquet file", ".parquet"),
        (bytes(257) + b"ustar\0", "a tar archive", "Unpack"),
        (pickle.dumps({"text": ["a"]}), "a pickle", ""),
        (bytes(range(256)) * 4, "binary data", ""),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,  # archives contain the time
)
def test_files_that_are_not_text_are_named(tmp_path: Path, data: bytes, name: str, fix: str) -> None:
    found = identify_binary(data, "a file.txt")
    assert found is not None
    assert name in found.name
    assert fix.format(folder=f"'{Path.cwd()}") in found.fix
    (tmp_path / "a.txt").write_bytes(data)
    for on_bad in ("error", "replace"):
        with (tmp_path / "a.txt").open("rb") as file, pytest.raises(CorpusError, match=f"is {name}") as refused:
            list(iter_text(file, tmp_path / "a.txt", Decoding(on_bad=on_bad, on_bad_setting="corpus.on_bad_bytes=")))
        assert "on_bad_bytes" not in str(refused.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [["a" * 50], {"a": 1}, "hello", {}, (1, 2), None, b"x"])
def test_pickles_are_recognised(protocol: int, value: object) -> None:
    assert identify_binary(pickle.dumps(value, protocol), "a") is not None


@pytest.mark.parametrize(
    "sample", ["BZh is bzip2's magic", "PK", "ID3 tags", "MZ stands for", "GGUF is", "PAR1 or", "GIF8"]
)
def test_texts_about_files_are_texts(sample: str) -> None:
    assert identify_binary(sample.encode() * 20, "a") is None


@pytest.mark.parametrize("name", ["a.txt", "it's; $HOME.txt", "-rf.txt", "新闻 1.csv", "b.txt.gz", "none"])
def test_the_advised_conversion_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = SENTENCES["gb18030"].encode("gb18030")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    monkeypatch.chdir(tmp_path)
    command = iconv_command(name, "GB18030")
    subprocess.run(["bash", "-c", command], cwd="/", check=True)
    out = shlex.split(command)[-1]
    assert (tmp_path / out).read_text(encoding="utf-8") == SENTENCES["gb18030"]
    assert (tmp_path / out).suffix == (Path(name.removesuffix(".gz")).suffix or ".txt")


@pytest.mark.parametrize(
    ("codec", "sentence"),
    [
        ("iso2022_jp", "吾輩は猫である。"),
        ("iso2022_jp_2", "日本語と한국어"),
        ("iso2022_jp_ext", "ｱｲｳと日本"),
        ("iso2022_kr", "안녕하세요 저는 학생입니다."),
        ("hz", "图书馆提前放假，报纸用半页写了这件事。"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
@pytest.mark.parametrize("before", [0, 200_000])
def test_letters_written_as_ascii_characters_are_refused(codec: str, sentence: str, encoding: str, before: int) -> None:
    data = ("Hello world\n" * before + f"a {sentence}\n").encode(codec)
    with pytest.raises(CorpusError, match=f"looks like .*encoding={codec}"):
        text(data, encoding=encoding, setting="corpus.encoding={}")
    assert text(data, encoding=codec).endswith(f"a {sentence}\n")


def test_terminal_colours_tildes_and_braces_are_text() -> None:
    data = b"\x1b[31mred\x1b[0m \x1b(B if s =~{ab} or ~{name~} then ~{}\n" * 30
    assert text(data) == data.decode()
    assert text("a 猫\n".encode("iso2022_jp"), encoding="ascii") == "a \x1b$BG-\x1b(B\n"


@pytest.mark.parametrize("codec", ["gb18030", "cp1251", "cp932"])
@pytest.mark.parametrize("times", [2, 30_000])
def test_a_file_of_two_encodings_is_not_to_be_read_in_one_of_them(codec: str, times: int) -> None:
    part = f"{SENTENCES[codec]}\n" * times
    with pytest.raises(CorpusError, match="is not UTF-8, as the text before it is.*Separate the parts") as caught:
        text(part.encode() + part.encode(codec), setting="corpus.encoding={}")
    assert "corpus.encoding" not in str(caught.value)


@pytest.mark.parametrize(("utf8_first", "times"), [(True, 2), (False, 2), (False, 30_000)])
def test_a_part_in_utf_8_is_named_where_every_byte_is_a_letter(utf8_first: bool, times: int) -> None:
    part = f"{SENTENCES['cp1251']}\n" * times
    both = [part.encode(), part.encode("cp1251")]
    notes: list[str] = []
    text(b"".join(both if utf8_first else both[::-1]), encoding="cp1251", note=notes.append)
    place = 0 if utf8_first else len(both[1])
    assert [note for note in notes if note.startswith(f"byte {place}: read as CP1251") and "UTF-8: Привет" in note]


@pytest.mark.parametrize("codec", ["koi8_r", "cp1251", "cp1252", "cp866", "cp1253", "cp874", "gb18030", "cp932"])
def test_no_part_of_a_text_in_its_encoding_is_called_utf_8(codec: str) -> None:
    notes: list[str] = []
    words = {"cp866": "рабыватель", "cp874": "ะกะกะกะกะกะกะก"}.get(codec, "")
    text((f"{SENTENCES[codec]} {words}" * 50).encode(codec), encoding=codec, note=notes.append)
    assert notes == []
