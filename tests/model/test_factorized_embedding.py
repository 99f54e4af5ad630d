"""Embeddings that begin as word vectors: what is kept, scaled, projected, folded, frozen."""

import pytest
import torch

from firstlight.model import GPT, ModelConfig, from_hf_state_dict, to_hf_state_dict
from firstlight.model.factorized_embedding import (
    FactorizedEmbedding,
    factorize_embedding,
    init_from_vectors,
    set_embedding_trainable,
)

V, C = 31, 16


def build(family: str = "gpt2", width: int = C, **more) -> GPT:
    model = GPT(ModelConfig(family=family, n_layer=2, n_head=2, n_embd=C, block_size=8, vocab_size=V, **more))
    factorize_embedding(model, width)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def vectors(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    known = torch.arange(V) % 3 != 0
    values = torch.randn(V, width, generator=torch.Generator().manual_seed(2)) * 3 + 1
    return values * known[:, None], known


def start(model: GPT, width: int) -> None:
    init_from_vectors(model, *vectors(width), 1.5, torch.Generator().manual_seed(3))


def cosines(x: torch.Tensor) -> torch.Tensor:
    units = torch.nn.functional.normalize(x.double(), dim=1)
    return units @ units.T


def lengths(x: torch.Tensor) -> float:
    return x.square().sum(1).mean().sqrt().item()


def test_known_tokens_have_their_vectors_scaled_as_one_and_others_what_was_drawn() -> None:
    model, before = build(), build().embed.weight.detach().clone()
    start(model, C)
    values, known = vectors(C)
    torch.testing.assert_close(model.embed.weight[~known], before[~known], rtol=0, atol=0)
    centred = values[known] - values[known].mean(0)
    torch.testing.assert_close(model.embed.weight[known], centred * (1.5 / lengths(centred)))
    assert lengths(model.embed.weight[known]) == pytest.approx(1.5, rel=1e-5)
    assert not model.factors


@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3", "llama", "modern"])
def test_factors_compute_what_their_product_would(family: str, width: int) -> None:
    model = build(family, width).double()
    start(model, width)
    whole = GPT(model.config).double()
    whole.load_state_dict(from_hf_state_dict(model.config, to_hf_state_dict(model)))
    ids = torch.randint(V, (2, 8), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(model(ids), whole(ids))
    torch.testing.assert_close(model.token_nll(ids, ids), whole.token_nll(ids, ids))
    ours, theirs = model.loss(ids, ids).sum, whole.loss(ids, ids).sum
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    # By the chain rule: with E = A Pᵀ, dA = dE P and dP = dEᵀ A.
    grad = whole.embed.weight.grad
    factors = model.factors
    torch.testing.assert_close(factors["vectors"].grad, grad @ factors["projection"].detach())
    torch.testing.assert_close(factors["projection"].grad, grad.T @ factors["vectors"].detach())


def test_a_wider_model_changes_no_angle_between_vectors_and_a_narrower_one_their_mean_length_neither() -> None:
    for width in (5, 40):
        model = build(width=width)
        start(model, width)
        values, known = vectors(width)
        found = model.embed.weight[known]
        assert lengths(found) == pytest.approx(1.5, rel=1e-4)
        if width < C:
            centred = values[known] - values[known].mean(0)
            torch.testing.assert_close(cosines(found), cosines(centred), rtol=1e-4, atol=1e-4)


def test_one_known_token_keeps_its_vector() -> None:
    model = build()
    known = torch.arange(V) == 3
    init_from_vectors(model, torch.ones(V, C), known, 2.0, torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.embed.weight[3], torch.full((C,), 2 / C**0.5))


def test_the_same_seed_begins_alike() -> None:
    one, two = build(width=5), build(width=5)
    start(one, 5)
    start(two, 5)
    assert torch.equal(one.embed.weight, two.embed.weight)


@pytest.mark.parametrize("width", [5, C])
def test_frozen_embeddings_stay_for_some_steps_or_always_and_a_projection_learns(width: int) -> None:
    model = build(width=width)
    name = "embed.vectors" if width != C else "embed.weight"

    def learning() -> set[str]:
        return {n for n, p in model.named_parameters() if p.requires_grad and n.startswith("embed.")}

    every = learning()
    for frozen, done, learns in (
        (3, 0, False),
        (3, 2, False),
        (3, 3, True),
        ("all", 99, False),
        ("all", None, False),
        (3, None, True),
    ):
        set_embedding_trainable(model, frozen, done)
        assert (name in learning()) == learns
        assert learning() | {name} == every
    set_embedding_trainable(model, "all", None)
    ids = torch.randint(V, (2, 8), generator=torch.Generator().manual_seed(4))
    model.loss(ids, ids).sum.backward()
    assert model.get_parameter(name).grad is None
    assert model.blocks[0].attention.qkv.weight.grad is not None


def test_factors_are_of_the_outer_group_and_no_hidden_matrices() -> None:
    from firstlight.optim import is_hidden

    model = build(width=5)
    assert isinstance(model.embed, FactorizedEmbedding)
    assert not any(is_hidden(n, p) for n, p in model.named_parameters() if n.startswith("embed."))
