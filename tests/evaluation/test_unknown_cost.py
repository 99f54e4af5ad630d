"""Bits per byte are the length of a code for the whole text, also of what the tokenizer does not know."""

import math

import numpy as np
import pytest
import torch

from firstlight.evaluation import Likelihood, baseline_likelihoods, encode_text, text_likelihood
from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig
from firstlight.parallel import DeviceContext
from firstlight.store import DataSettings, Windows, prepare
from firstlight.tokenizer import Tokenizer, build_char_level
from firstlight.train import validate
from firstlight.types import Document

CPU = DeviceContext(torch.device("cpu"), "fp32", False, 1, 0, 1, {})
TEXT = "abab é中ba 😀 ab" * 20


def model(tokenizer: Tokenizer) -> LM:
    config = ModelConfig(family="gpt2", vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_embd=8, block_size=16)
    gpt = GPT(config)
    gpt.init_weights(torch.Generator().manual_seed(0))
    return LM(gpt.eval(), tokenizer)


def test_unknown_text_costs_its_loss_and_its_bytes() -> None:
    lm = model(build_char_level("ab "))
    text = encode_text("x", [Document(TEXT, "x")], lm.tokenizer)
    found, _ = text_likelihood(lm, text, stride=16)
    ids = torch.from_numpy(text.ids.astype(np.int64))
    nats = torch.cat(
        [lm.model.token_nll(ids[None, i : i + 16], ids[None, i + 1 : i + 17])[0] for i in range(0, len(ids) - 17, 16)]
    )
    n = len(ids) - 1 - len(nats)
    nats = torch.cat([nats, lm.model.token_nll(ids[None, -1 - n : -1], ids[None, -n:])[0]]).double()
    code = float(nats[:-1].sum()) / math.log(2) + 8 * 20 * len("é中😀".encode())
    assert text.unknown.n_bytes == 20 * 9
    assert found.bits_per_byte == pytest.approx(code / len(TEXT.encode()), rel=1e-5)


def test_a_text_that_is_all_unknown_costs_at_least_its_bytes() -> None:
    lm = model(build_char_level("ab "))
    found, _ = text_likelihood(lm, encode_text("x", [Document("中文" * 99, "x")], lm.tokenizer), stride=16)
    assert found.bits_per_byte is not None
    assert found.bits_per_byte > 8


def test_baselines_pay_the_same() -> None:
    tokenizer = build_char_level("ab ")
    text = encode_text("x", [Document(TEXT, "x")], tokenizer)
    found = tokenizer.text_bytes(text.unknown, len(text.ids) - 1)
    assert found is not None
    counts = np.bincount(text.ids[1:])
    uniform = baseline_likelihoods(tokenizer.vocab_size, None, counts, found.lengths, more_nats=found.nats)["uniform"]
    code = len(TEXT) * math.log2(tokenizer.vocab_size) + 8 * 20 * 9
    assert uniform.bits_per_byte == pytest.approx(code / len(TEXT.encode()), rel=1e-5)


@pytest.mark.parametrize("max_windows", [None, 4])
def test_a_part_of_the_validation_windows_gives_an_estimate(tmp_path, max_windows) -> None:
    class Source:
        name, n_bytes = "x", 0

        def documents(self):
            yield Document(TEXT * 20, "x")

        def fingerprint(self) -> str:
            return "x"

    lm = model(build_char_level("ab "))
    assert lm.tokenizer is not None
    store = prepare(tmp_path / "s", [Source()], lm.tokenizer, DataSettings(), seed=0)
    assert store.valid.unknown is not None
    found = lm.tokenizer.text_bytes(store.valid.unknown, store.valid.n_tokens)
    assert found is not None
    windows = Windows(store.valid, block_size=16, max_windows=max_windows)
    part = validate(lm.model, windows, found.lengths, CPU, 8, more_nats=found.nats)
    whole, _ = text_likelihood(lm, encode_text("x", [Document(TEXT * 2, "x")], lm.tokenizer), stride=16)
    assert part.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.01 if max_windows is None else 0.2)
    assert part.bits_per_byte > 8 * 9 / len("abab é中ba 😀 ab".encode())


def test_bits_per_token_are_never_shown_as_bits_per_byte() -> None:
    found = Likelihood.from_loss(2.0, 0.0, 0)
    assert found.metrics("byte").keys() == {"loss", "perplexity", "bits_per_token"}
