"""Matrices in eight bits against float64: products, lookups, whole models, and sizes that the kernel cannot take."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig, new_cache
from firstlight.model.quantized import Int8Embedding, Int8Linear, to_int8


@given(
    rows=st.integers(1, 40), columns=st.sampled_from([1, 17, 32, 100, 768]), x=st.sampled_from([(1,), (3, 1), (2, 20)])
)
@settings(max_examples=40, deadline=None)
def test_a_product_is_that_of_the_matrix_in_eight_bits(rows: int, columns: int, x: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(rows)
    layer = torch.nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(rows, columns, generator=generator))
        inputs = torch.randn(*x, columns, generator=generator)
        matrix = Int8Linear(layer)
        found = matrix(inputs)
        few = inputs.numel() // columns <= 16  # which torch's kernel takes, whose numbers are bf16
        read = inputs.bfloat16().double() if few else inputs.double()
        exact = read @ matrix.weight.double().T
        # The kernel cuts the sum to bf16, up to a unit of its eight digits; the rest is adding up in fp32.
        bound = (2**-8 if few else 0) * exact.abs() + 5e-5 * (read.abs() @ matrix.weight.double().abs().T) + 1e-6
        step = layer.weight.abs().amax(1, keepdim=True) / 127
        assert ((matrix.weight - layer.weight).abs() <= step / 2 + 1e-6).all()
    assert found.shape == exact.shape and found.dtype == torch.float32
    assert ((found.double() - layer.bias.double() - exact).abs() <= bound).all()


def test_each_number_is_at_most_half_a_step_away_and_a_row_of_zeros_stays() -> None:
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    matrix = Int8Embedding(torch.nn.Parameter(weight))
    assert matrix.quantized.dtype == torch.int8
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((matrix.weight - weight).abs() <= step / 2 + 1e-7).all()
    assert torch.equal(matrix.weight[2], torch.zeros(9))
    assert torch.equal(matrix(torch.tensor([[1, 4], [2, 2]])), matrix.weight[torch.tensor([[1, 4], [2, 2]])])


def model_of(family: str) -> GPT:
    config = ModelConfig(family=family, n_layer=2, n_head=2, n_embd=40, vocab_size=77, block_size=32)
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialised projections would hide what goes through them
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return model.eval()


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3", "llama", "modern"])
def test_a_model_writes_nearly_the_same_logits(family: str) -> None:
    model = model_of(family)
    ids = torch.randint(77, (3, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact = model(ids)
        to_int8(model)
        assert not any(
            isinstance(m, torch.nn.Linear | torch.nn.Embedding) and m.weight.shape[0] == 77 for m in model.modules()
        )
        whole = model(ids)
        cache = new_cache(model.config, 3, 20, torch.device("cpu"), torch.float32)
        steps = [model.hidden(ids[:, :16], cache=cache)]
        steps += [model.hidden(ids[:, t : t + 1], cache=cache) for t in range(16, 20)]
        stepwise = model.logits(torch.cat(steps, 1))
    size = exact.std()
    assert (whole - exact).abs().max() < 0.1 * size
    assert (stepwise - exact).abs().max() < 0.1 * size
    assert not torch.equal(whole, exact)


def test_it_takes_a_quarter_of_the_memory() -> None:
    model = GPT(ModelConfig(family="gpt2", n_layer=2, n_head=2, n_embd=64, vocab_size=512, block_size=8))
    model.init_weights()
    before = sum(p.numel() * 4 for p in model.parameters())
    to_int8(model)
    after = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    assert after < 0.35 * before


def test_the_loss_is_that_of_the_rounded_matrices() -> None:
    model = model_of("gpt2")
    ids = torch.randint(77, (2, 24), generator=torch.Generator().manual_seed(6))
    exact = model.token_nll(ids, ids.roll(1))
    to_int8(model)
    rounded = model.token_nll(ids, ids.roll(1))
    assert 0 < (rounded - exact).abs().max() < 0.1
