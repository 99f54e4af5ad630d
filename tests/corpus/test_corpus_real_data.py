"""Texts as people have them."""

import lzma
import re
from pathlib import Path

import pytest

from firstlight.corpus import Corpus, CorpusSettings, open_corpus
from firstlight.errors import CorpusError

pytestmark = pytest.mark.data


def whole(corpus: Corpus) -> list[str]:
    texts, held = [], []
    for document in corpus:
        held.append(str(document.content))
        if not document.continues:
            texts.append("".join(held))
            held = []
    return texts


def test_english_novels_lose_their_mark_and_crlf(shared_data: Path):
    corpus = open_corpus([str(shared_data / "english-novels" / "*.txt.xz")], CorpusSettings(max_bytes=12_000_000))
    texts = whole(corpus)
    first = lzma.decompress((shared_data / "english-novels" / "Anon_Clara_1864.txt.xz").read_bytes())
    assert first.startswith(b"\xef\xbb\xbfCLARA VAUGHAN\r\n")
    assert texts[0] == first.decode("utf-8-sig").replace("\r\n", "\n")
    assert len(texts) > 10
    assert not any("\r" in text or text.startswith("\ufeff") for text in texts)
    assert corpus.tally.n_bad == 0


@pytest.mark.slow
def test_all_english_novels(shared_data: Path):
    folder = shared_data / "english-novels"
    corpus = open_corpus([str(folder / "*.xz")])
    texts = whole(corpus)
    assert len(texts) == corpus.tally.documents == len(list(folder.glob("*.xz"))) > 80
    size = sum(len(text.encode()) for text in texts)
    assert 60e6 < size < 75e6
    assert corpus.sources[0].n_bytes == pytest.approx(size, rel=0.15)


def test_chinese_novels(shared_data: Path):
    texts = whole(open_corpus([str(shared_data / "zh-novels")]))
    assert len(texts) == 4
    assert sum("\u4e00" <= c <= "\u9fff" for c in texts[0]) > len(texts[0]) * 0.7
    assert not any("\r" in text for text in texts)


def test_chinese_poems_are_documents_between_blank_lines(shared_data: Path):
    corpus = open_corpus([str(shared_data / "zh-poetry")], CorpusSettings(text_split="blank-lines"))
    assert len(whole(corpus)) == corpus.tally.documents > 20_000


def test_a_dump_of_wikipedia_is_read_as_text(shared_data: Path):
    [text] = whole(open_corpus([str(shared_data / "enwiki-sample.xml.bz2")]))
    assert text.startswith("<mediawiki")
    assert text.count("<page>") == 206


@pytest.mark.parametrize("split", ["blank-lines", "lines"])
def test_tinystories_split_at_blank_lines_or_lines(shared_data: Path, split: str):
    [path] = (shared_data / "tinystories").glob("*.xz")
    corpus = open_corpus([str(path)], CorpusSettings.model_validate({"text_split": split}))
    texts = whole(corpus)
    text = lzma.decompress(path.read_bytes()).decode()
    parts = re.split(r"\n" if split == "lines" else r"\n\s*\n", text)
    assert texts == [p.strip("\n") for p in parts if p.strip()]
    assert len(texts) > 1000


def test_wikitext(shared_data: Path):
    [text] = whole(open_corpus([str(shared_data / "wikitext-2" / "wiki.valid.tokens.xz")]))
    assert " = Homarus gammarus = \n" in text


@pytest.mark.parametrize(
    ("file", "field", "n"),
    [
        ("rte/dev.tsv", "sentence1", 277),
        ("sst2/train.tsv", "sentence", 6920),
        ("zh-sentiment/waimai_10k.csv.gz", "review", 11987),
        ("zh-tnews/dev_few_all.json", "sentence", None),
        ("zh-ocnli/test_public.json", "sentence1", None),
    ],
)
def test_tables_and_records(shared_data: Path, file: str, field: str, n: int | None):
    path = shared_data / "tasks" / file
    corpus = open_corpus([str(path)], CorpusSettings(text_field=field))
    texts = whole(corpus)
    # Raw quotes in rte swallow lines where TSV is read as CSV; the two .json are JSON lines.
    n = n or len(path.read_text(encoding="utf-8").splitlines())
    assert len(texts) + corpus.tally.dropped.get("empty", 0) == n
    assert not any("\n" in text for text in texts)


def test_the_cut_last_row_of_ag_news_is_named(shared_data: Path):
    path = shared_data / "tasks" / "ag_news" / "train.csv.gz"
    text_field = "Wall St. Bears Claw Back Into the Black (Reuters)"
    with pytest.raises(CorpusError, match=r"train.csv.gz:\d+: opens a quoted field that is never closed"):
        whole(open_corpus([str(path)], CorpusSettings(text_field=text_field)))


def test_an_archive_given_as_a_corpus_is_refused(shared_data: Path):
    with pytest.raises(CorpusError, match="brown.zip: is a zip archive, not text. Unpack it"):
        whole(open_corpus([str(shared_data / "brown.zip")]))
