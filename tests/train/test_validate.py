"""The valid loss against a direct computation in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import CPU, Letters, T, make_model

from firstlight.model import GPT
from firstlight.store import TokenStore, Windows
from firstlight.train import ValidationResult, validate

LENGTHS = np.array([1, 2, 3, 1, 1, 1, 2, 1, 1, 1, 4, 0], dtype=np.int32)


def direct(model: GPT, store: TokenStore) -> dict[str, float]:
    """Score each target of the validation split once, one window at a time, in float64."""
    exact = make_model().double()
    exact.load_state_dict(model.state_dict())
    ids = torch.from_numpy(np.array(store.valid.tokens).astype(np.int64))
    nats, targets = [], []
    for first in range(0, len(ids) - 1, T):
        inputs, wanted = ids[first : min(first + T, len(ids) - 1)], ids[first + 1 : first + T + 1]
        nats.append(F.cross_entropy(exact(inputs[None])[0], wanted, reduction="none").detach())
        targets.append(wanted)
    loss, target = torch.cat(nats), torch.cat(targets)
    lengths = torch.from_numpy(LENGTHS)[target]
    text = lengths > 0
    return {
        "loss": loss.mean().item(),
        "targets": len(target),
        "text_bytes": int(lengths.sum()),
        "bits": loss[text].sum().item() / math.log(2) / int(lengths.sum()),
    }


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_equals_a_direct_computation(store: TokenStore, rows: int) -> None:
    model = make_model()
    expected = direct(model, store)
    result = validate(model, Windows(store.valid, block_size=T), LENGTHS, CPU, rows)
    assert result.loss == pytest.approx(expected["loss"], rel=1e-6)
    assert result.bits_per_byte == pytest.approx(expected["bits"], rel=1e-6)
    assert result.targets == expected["targets"] == store.valid.n_tokens - 1
    assert result.text_bytes == expected["text_bytes"]
    assert result.perplexity == pytest.approx(math.exp(expected["loss"]), rel=1e-6)


def test_the_last_window_is_not_full(store: TokenStore) -> None:
    assert (store.valid.n_tokens - 1) % T, "or the case above shows nothing about padding"
    assert (np.array(store.valid.tokens) == Letters.eot_id).any(), "nor about end-of-text"


def test_padding_counts_nowhere(store: TokenStore) -> None:
    result = validate(make_model(), Windows(store.valid, block_size=T), np.ones(12), CPU, 4)
    assert result.text_bytes == result.targets == store.valid.n_tokens - 1


def test_end_of_text_counts_in_the_loss_only(store: TokenStore) -> None:
    """A model that is sure of everything but end-of-text writes the text in almost no bits."""
    model = make_model()

    def sure(inputs: torch.Tensor, targets: torch.Tensor, starts: object = None) -> torch.Tensor:
        return torch.where(targets == Letters.eot_id, 50.0, 0.0)

    model.token_nll = sure  # type: ignore[method-assign]
    result = validate(model, Windows(store.valid, block_size=T), LENGTHS, CPU, 4)
    assert result.loss > 0.5
    assert result.bits_per_byte == 0


def test_what_does_not_count_may_be_anything(store: TokenStore) -> None:
    model = make_model()
    end = store.valid.n_tokens - 1

    def wild(inputs: torch.Tensor, targets: torch.Tensor, starts: object = None) -> torch.Tensor:
        nats = torch.ones(targets.shape)
        nats[-1, end % T :] = math.inf  # the padding of the last window
        return nats

    model.token_nll = wild  # type: ignore[method-assign]
    assert validate(model, Windows(store.valid, block_size=T), None, CPU, 1000).loss == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(store: TokenStore, training: bool) -> None:
    windows = Windows(store.valid, block_size=T)
    model = make_model(dropout=0.5).train(training)
    random = torch.get_rng_state()
    one = validate(model, windows, LENGTHS, CPU, 8)
    assert torch.equal(torch.get_rng_state(), random), "no random number is drawn"
    assert model.training is training
    assert one == validate(make_model(dropout=0.0), windows, LENGTHS, CPU, 8)


def test_the_mode_comes_back_after_an_error(store: TokenStore) -> None:
    model = make_model().train()

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no")

    model.token_nll = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError, match="no"):
        validate(model, Windows(store.valid, block_size=T), None, CPU, 8)
    assert model.training


def test_no_text_has_no_bits_a_byte(store: TokenStore) -> None:
    windows = Windows(store.valid, block_size=T)
    assert validate(make_model(), windows, None, CPU, 8).bits_per_byte is None
    assert validate(make_model(), windows, np.zeros(12), CPU, 8).bits_per_byte is None


def test_processes_share_the_windows_whatever_their_rows(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(store.valid, block_size=T)
    seen: list[int] = []
    real = Windows.batch

    def spy(self: Windows, index: int, rows: int) -> object:
        seen.extend(range(index, index + rows))
        return real(self, index, rows)

    monkeypatch.setattr(Windows, "batch", spy)
    monkeypatch.setattr("firstlight.parallel.all_reduce_sum", lambda tensor, device_context: tensor)
    for rank, rows in enumerate((4, 7, 2)):
        validate(make_model(), windows, None, replace(CPU, rank=rank, world_size=3), rows)
    assert sorted(seen) == list(range(windows.n_windows))


def test_precision_of_the_place_is_used(store: TokenStore) -> None:
    windows = Windows(store.valid, block_size=T)
    exact = validate(make_model(), windows, None, CPU, 8).loss
    low = validate(make_model(), windows, None, replace(CPU, precision="bf16"), 8).loss
    assert low != exact
    assert low == pytest.approx(exact, rel=0.01)


def test_perplexity_overflows_to_infinity_and_keeps_nan() -> None:
    assert ValidationResult(800.0, None, 1, 0).perplexity == math.inf
    assert math.isnan(ValidationResult(math.nan, None, 1, 0).perplexity)
