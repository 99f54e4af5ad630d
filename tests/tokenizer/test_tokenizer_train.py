"""Training: determinism, vocabularies, limits, what the pieces of a long text may not change."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from firstlight import progress
from firstlight.corpus import open_corpus
from firstlight.errors import CorpusError, TokenizerError
from firstlight.tokenizer import PATTERNS, TokenizerSettings, auto_vocab_size, train
from firstlight.types import Document
from messy_text import messy_text


@pytest.mark.parametrize("kind", ["bpe", "word", "char", "byte"])
def test_the_same_text_gives_the_same_tokenizer(kind: str) -> None:
    documents = [Document(messy_text(seed, 3000), "x") for seed in range(5)]
    settings = TokenizerSettings(kind=kind, vocab_size=900 if kind == "bpe" else "auto")  # type: ignore[arg-type]
    first, *others = [train(documents, settings).hash for _ in range(4)]
    assert all(other == first for other in others)


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_pieces_of_a_document_make_no_difference(kind: str) -> None:
    text = "alphabet soup and words " * 40 + "tail"
    settings = TokenizerSettings(kind=kind, vocab_size=275 if kind == "bpe" else "auto")  # type: ignore[arg-type]
    whole = train([Document(text, "x")], settings)
    pieces = [Document(text[i : i + 37], "x", continues=i + 37 < len(text)) for i in range(0, len(text), 37)]
    assert train(pieces, settings).hash == whole.hash


def test_a_long_document_is_not_cut_inside_a_word() -> None:
    text = "singular " * 20_000
    tokenizer = train([Document(text, "x")], TokenizerSettings(kind="word"))
    assert tokenizer.vocab_size == 3


def test_documents_are_not_joined() -> None:
    tokenizer = train([Document("over", "a"), Document("all", "b")], TokenizerSettings(kind="word"))
    assert "overall" not in tokenizer.tokens()
    assert {"over", "all"} <= set(tokenizer.tokens())


@pytest.mark.parametrize("value", [0, 256, 200_001, "many"])
def test_vocabularies_that_cannot_be(value: object) -> None:
    with pytest.raises(ValidationError):
        TokenizerSettings(vocab_size=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [257, 200_000, "auto"])
def test_vocabularies_that_can_be(value: object) -> None:
    assert TokenizerSettings(vocab_size=value).vocab_size == value  # type: ignore[arg-type]


def test_an_unknown_pattern() -> None:
    with pytest.raises(ValidationError, match="gpt2"):
        TokenizerSettings(pattern="gpt7")


def test_the_smallest_bpe_is_bytes_and_end_of_text() -> None:
    tokenizer = train([Document("some text", "x")], TokenizerSettings(vocab_size=257))
    assert tokenizer.vocab_size == 257
    assert tokenizer.decode(tokenizer.encode("any \x00 тext")) == "any \x00 тext"
    assert len(tokenizer.encode("any")) == 3


def test_a_vocabulary_that_the_text_does_not_allow() -> None:
    with pytest.raises(TokenizerError, match="found 5000; expected at most ") as caught:
        train([Document("a little text", "x")], TokenizerSettings(vocab_size=5000))
    assert caught.value.where == "tokenizer.vocab_size"
    with pytest.raises(TokenizerError, match="expected at most 5"):
        train([Document("a little text", "x")], TokenizerSettings(kind="word", vocab_size=300))


def test_an_automatic_vocabulary_takes_what_the_text_allows() -> None:
    assert 257 < train([Document("a little text", "x")], TokenizerSettings()).vocab_size < 512


@pytest.mark.parametrize(
    ("n_bytes", "characters", "size"),
    [
        *((0, 0, 512), (200_000, 90, 512), (1_115_394, 0, 4096), (10**7, 0, 32_768), (10**12, 0, 32_768)),
        *((90_000, 2038, 4096), (10**6, 10**6, 32_768), (0, 255, 512), (0, 256, 1024)),
    ],
)
def test_automatic_vocabularies(n_bytes: int, characters: int, size: int) -> None:
    assert auto_vocab_size(n_bytes, characters) == size


def test_an_automatic_vocabulary_counts_the_text_and_not_its_compressed_file() -> None:
    text = messy_text(0, 120_000)
    sizes = [train([Document(text, "x")], TokenizerSettings(), n_bytes=told).vocab_size for told in (None, 1000, 10**8)]
    assert sizes == [auto_vocab_size(len(text.encode()))] * 3
    assert sizes[0] > 512


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
@pytest.mark.parametrize("documents", [[], [Document("", "x")]])
def test_no_text(kind: str, documents: list[Document]) -> None:
    with pytest.raises(TokenizerError, match="no text to train"):
        train(documents, TokenizerSettings(kind=kind, vocab_size=300))  # type: ignore[arg-type]


def test_what_is_no_text() -> None:
    import numpy as np

    with pytest.raises(TokenizerError, match="pixels.npy: a document is not text"):
        train([Document(np.zeros(3), "pixels.npy")], TokenizerSettings())


def test_an_error_of_the_corpus_passes_through() -> None:
    def broken() -> Iterator[Document]:
        yield Document("fine " * 30_000, "x")
        raise CorpusError("is not UTF-8", where="x: byte 7")

    for kind in ("bpe", "word", "char"):
        with pytest.raises(CorpusError, match="byte 7"):
            train(broken(), TokenizerSettings(kind=kind))  # type: ignore[arg-type]


def test_training_stops_after_the_sample() -> None:
    heard: list[str] = []
    documents = [Document("abc abd ", "x")] * 3 + [Document("zzzz", "x")]
    with progress.listen(lambda event: heard.append(event.text)):
        tokenizer = train(documents, TokenizerSettings(kind="char", sample_bytes=20))
    assert "z" not in tokenizer.tokens()
    assert any("MB of text" in text for text in heard)


def test_rare_words_are_left_out() -> None:
    settings = TokenizerSettings(kind="word", min_frequency=2)
    tokens = train([Document("one two two three three three", "x")], settings).tokens()
    assert tokens[2:] == ["three", "two"]


@pytest.mark.data
@pytest.mark.parametrize(
    "pattern", ["qwen2", *(pytest.param(p, marks=pytest.mark.slow) for p in PATTERNS if p != "qwen2")]
)
def test_chinese_costs_little_more_than_a_token_a_character(shared_data: Path, pattern: str) -> None:
    corpus = open_corpus([str(path) for path in sorted((shared_data / "zh-novels").glob("*.txt.xz"))])
    text = "".join(itertools.islice((str(document.content) for document in corpus), 2))
    for size in (8192, "auto"):
        settings = TokenizerSettings(vocab_size=size, pattern=pattern)  # type: ignore[arg-type]
        tokenizer = train([Document(text[: 400_000 if size == 8192 else 60_000], "zh")], settings)
        held_out = text[400_000:500_000]
        assert len(held_out) == 100_000
        assert len(tokenizer.encode(held_out)) <= 1.1 * len(held_out)


@pytest.mark.parametrize(
    ("text", "told"), [("我们在海边 看见 小船。" * 20, True), ("the sea, the boats and the sand: 海 " * 20, False)]
)
def test_words_are_characters_in_chinese_which_is_said(text: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = train([Document(text, "x")], TokenizerSettings(kind="word"))
    assert ("tokenizer.kind=bpe" in caplog.text) is told
    assert all(len(token) == 1 for token in tokenizer.tokens() if "\u4e00" <= token[0] <= "\u9fff")
