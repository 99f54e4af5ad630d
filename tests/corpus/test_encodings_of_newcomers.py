"""The files that newcomers bring, in their encodings: refused with the right advice, then read as it says."""

from pathlib import Path

import pytest

from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import CorpusError


def whole(path: Path, **settings: str) -> str:
    documents = open_corpus([str(path)], CorpusSettings.model_validate({"text_field": "标题", **settings}))
    return "".join(str(document.content) for document in documents)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("newcomer/gb18030.txt", "gb18030"),
        ("newcomer/big5.txt", "big5"),
        ("newcomer/excel_gb.csv", "gb18030"),
        ("corpus/utf16nb.txt", "utf-16-le"),
    ],
)
def test_the_encoding_is_named_and_works(shared_cases: Path, name: str, encoding: str):
    for on_bad in ("error", "replace", "skip"):
        with pytest.raises(CorpusError, match=f"[Ss]et corpus.encoding={encoding}, or convert it: iconv -f "):
            whole(shared_cases / name, on_bad_bytes=on_bad)
    data = (shared_cases / name).read_bytes().decode(encoding)
    if name.endswith(".txt"):
        assert whole(shared_cases / name, encoding=encoding) == data.replace("\r\n", "\n")
    else:
        assert whole(shared_cases / name, encoding=encoding).startswith("图书馆提前放假")


def test_a_few_bad_bytes(shared_cases: Path):
    path = shared_cases / "newcomer/few_bad_bytes.txt"
    with pytest.raises(CorpusError, match=r"byte 3000: is not UTF-8 .*corpus.on_bad_bytes=replace \(or skip\)$"):
        whole(path)
    assert whole(path, on_bad_bytes="skip") == path.read_bytes().decode("utf-8", "ignore")


def test_utf_8_wins_and_utf_16_is_read_by_its_mark(shared_cases: Path):
    path = shared_cases / "newcomer/utf8_that_gb_accepts.txt"
    assert whole(path, encoding="gb18030") == path.read_text(encoding="utf-8")
    path = shared_cases / "newcomer/excel_unicode.txt"
    assert whole(path) == path.read_bytes().decode("utf-16").replace("\r\n", "\n")


def test_line_separators_are_letters(shared_cases: Path):
    path = shared_cases / "corpus/ls.txt"
    assert "\u2028" in whole(path, text_split="lines")
    assert whole(path) == path.read_bytes().decode().replace("\r\n", "\n")
