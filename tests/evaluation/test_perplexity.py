import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight import progress
from firstlight.errors import UsageError
from firstlight.evaluation import EncodedText, Likelihood, encode_text, text_likelihood
from firstlight.evaluation import perplexity as module
from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.tokenizer.unknown import nothing_unknown
from firstlight.types import Document, EncodedTexts

TEXT = "The sun also rises. 子曰：学而时习之！\nAll the rivers run into the sea, yet the sea isn't full. " * 6
KINDS = ("bpe", "char", "word", "byte")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    found = {kind: train([Document(TEXT, "text")], TokenizerSettings(kind=kind)) for kind in ("char", "word", "byte")}
    return {**found, "bpe": _bpe()}


def model(words: Tokenizer, block_size: int = 16) -> LM:
    gpt = GPT(
        ModelConfig(
            family="gpt2",
            vocab_size=words.vocab_size,
            n_layer=1,
            n_head=2,
            n_embd=16,
            block_size=block_size,
            init_std=0.3,
        )
    )
    gpt.init_weights(torch.Generator().manual_seed(0))
    return LM(gpt.eval(), words)


def fixed(words: Tokenizer, block_size: int = 16) -> LM:
    """A model that gives every token the same probability, whatever came before."""
    found = model(words, block_size)
    with torch.no_grad():
        found.model.norm.weight.zero_()
        found.model.norm.bias.zero_()
    return found


def documents(*texts: str) -> list[Document]:
    return [Document(text, str(i)) for i, text in enumerate(texts)]


def test_a_stream_has_end_of_text_around_each_document(tokenizers):
    words = tokenizers["byte"]
    stream = encode_text("x", documents("ab", "", "子"), words)
    assert stream.ids.tolist() == [256, 97, 98, 256, 256, *words.encode("子"), 256]
    assert stream.ids.dtype == np.int32
    assert stream.n_bytes == 5
    assert encode_text("x", [], words).ids.tolist() == [256]


@given(st.lists(st.lists(st.text("ab \n.，子1", max_size=12), min_size=1, max_size=5), max_size=5), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_a_document_in_pieces_has_the_ids_of_the_whole(texts, batch):
    words = _bpe()
    old, module._BATCH_CHARACTERS = module._BATCH_CHARACTERS, batch
    try:
        pieces = [
            Document(piece, str(i), continues=n < len(parts) - 1)
            for i, parts in enumerate(texts)
            for n, piece in enumerate(parts)
        ]
        stream = encode_text("x", pieces, words)
    finally:
        module._BATCH_CHARACTERS = old
    wanted = [words.eot_id]
    for parts in texts:
        wanted += [*words.encode("".join(parts)), words.eot_id]
    assert stream.ids.tolist() == wanted
    assert stream.n_bytes == len("".join(piece for parts in texts for piece in parts).encode())


@cache
def _bpe() -> Tokenizer:
    return train([Document(TEXT, "text")], TokenizerSettings(kind="bpe", vocab_size=300))


class _NeverSure:
    """An encoder that finds no place to cut, and counts the characters it looks at."""

    vocab_size, eot_id, hash = 2, 1, "x"

    def __init__(self) -> None:
        self.looked = 0

    unknown_id, has_unknown = None, False

    def encode_counted(self, texts: list[str]) -> EncodedTexts:
        return nothing_unknown(*self.encode_batch(texts))

    def split_point(self, text: str) -> int:
        self.looked += len(text)
        return 0

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        counts = np.array([len(t) for t in texts])
        return np.zeros(counts.sum(), np.int32), counts

    def byte_lengths(self) -> np.ndarray:
        return np.array([1, 0])


def test_a_text_that_cannot_be_cut_is_searched_a_few_times_and_not_once_a_piece():
    encoder = _NeverSure()
    pieces = [Document("a" * 100, "x", continues=i < 1999) for i in range(2000)]
    stream = encode_text("x", pieces, encoder)
    assert len(stream.ids) == 200_002
    assert encoder.looked < 3 * 200_000


def test_a_document_whose_end_is_missing_is_kept(tokenizers):
    stream = encode_text("x", [Document("abc", "x", continues=True)], tokenizers["byte"])
    assert stream.ids.tolist() == [256, 97, 98, 99, 256]


def test_pixels_are_no_text(tokenizers):
    with pytest.raises(UsageError, match=r"image.png: a document is not text"):
        encode_text("x", [Document(np.zeros(3), "image.png")], tokenizers["byte"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_figures_are_those_computed_by_hand(tokenizers, kind, stride):
    lm = model(tokenizers[kind])
    stream = encode_text("x", documents(TEXT[:150], TEXT[150:260]), lm.tokenizer)
    found, interval = text_likelihood(lm, stream, stride=stride)
    ids, T = stream.ids.tolist(), 16
    nats = []
    for target in range(len(ids) - 1):
        begin = 0 if target < T else stride * -(-(target + 1 - T) // stride)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids[begin : target + 1]]))[0, -1].double()
        nats.append(float(logits.logsumexp(-1) - logits[ids[target + 1]]))
    assert found.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)
    text = [n for n, i in zip(nats, ids[1:], strict=True) if i != lm.tokenizer.eot_id]
    n_bytes = sum(int(lm.tokenizer.byte_lengths()[i]) for i in ids)
    assert len(text) == len(ids) - 3
    if lm.tokenizer.lossless or kind == "char":
        assert n_bytes == stream.n_bytes
    unknown = sum(n for n, i in zip(nats, ids[1:], strict=True) if i == lm.tokenizer.unk_id)
    assert found.bits_per_byte == pytest.approx((sum(text) - unknown) / math.log(2) / n_bytes, rel=1e-5)
    assert interval[0] < found.loss < interval[1]


def test_bits_per_byte_of_a_fixed_probability_are_those_of_its_tokens(tokenizers):
    for kind in ("bpe", "char", "byte"):
        lm = fixed(tokenizers[kind])
        stream = encode_text("x", documents(TEXT), lm.tokenizer)
        found, _ = text_likelihood(lm, stream, stride=16)
        V, n = lm.tokenizer.vocab_size, len(stream.ids) - 2
        assert found.loss == pytest.approx(math.log(V), rel=1e-5)
        assert found.perplexity == pytest.approx(V, rel=1e-4)
        assert found.bits_per_byte == pytest.approx(n * math.log2(V) / len(TEXT.encode()), rel=1e-5)


def test_bits_per_byte_do_not_depend_on_the_tokenizer(tokenizers):
    """Each model gives a text the probability that it has byte by byte: a token has that of its bytes."""
    bits = []
    for kind in ("bpe", "byte"):
        lm = fixed(tokenizers[kind])
        lengths = torch.tensor(lm.tokenizer.byte_lengths())
        logits = -lengths * math.log(2) * 3.5  # 3.5 bits a byte, before the sum over all tokens
        with torch.no_grad():
            lm.model.embed.weight.zero_()
            lm.model.embed.weight[:, 0] = logits
            lm.model.norm.bias[0] = 1
        spare = float(logits.logsumexp(0)) / math.log(2)
        stream = encode_text("x", documents(TEXT), lm.tokenizer)
        found, _ = text_likelihood(lm, stream, stride=16)
        n = len(stream.ids) - 2
        bits.append(found.bits_per_byte - n * spare / stream.n_bytes)
    assert bits[0] == pytest.approx(3.5, rel=1e-4)
    assert bits[1] == pytest.approx(3.5, rel=1e-4)


@pytest.mark.parametrize("block_size", [1, 4, 16, 500])
def test_a_smaller_stride_covers_the_same_targets(tokenizers, block_size):
    lm = model(tokenizers["byte"], block_size)
    stream = encode_text("x", documents(TEXT), lm.tokenizer)
    events: list[progress.Event] = []
    with progress.listen(events.append):
        whole, _ = text_likelihood(lm, stream, stride=block_size)
        fine, _ = text_likelihood(lm, stream, stride=max(1, block_size // 4))
    assert (events[-1].done, events[-1].total, events[-1].unit) == (len(stream.ids) - 1, len(stream.ids) - 1, "tokens")
    assert fine.loss == pytest.approx(whole.loss, rel=0.2)


def test_a_single_window_has_no_interval(tokenizers):
    lm = model(tokenizers["byte"])
    found, interval = text_likelihood(lm, EncodedText("x", np.array([256, 97, 98]), 2), stride=16)
    assert interval is None
    assert found.loss > 0


def test_a_model_without_words_has_no_bits_per_byte():
    gpt = GPT(ModelConfig(family="gpt2", vocab_size=9, n_layer=1, n_head=1, n_embd=8, block_size=4))
    found, _ = text_likelihood(LM(gpt.eval(), None), EncodedText("x", np.arange(9), 0), stride=4)
    assert found.bits_per_byte is None
    assert math.isfinite(found.loss)


def test_what_is_not_finite_is_shown(tokenizers):
    lm = model(tokenizers["byte"])
    with torch.no_grad():
        lm.model.embed.weight[97] = math.nan
    found, interval = text_likelihood(lm, encode_text("x", documents("banana" * 20), lm.tokenizer), stride=16)
    assert math.isnan(found.loss)
    assert math.isnan(found.perplexity)
    assert math.isnan(found.bits_per_byte)
    assert all(map(math.isnan, interval))
    assert Likelihood.from_loss(800.0, 1.0, 1).perplexity == math.inf
