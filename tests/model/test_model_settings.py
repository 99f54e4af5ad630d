"""Which shapes a ModelConfig takes, what it refuses, and what ``complete`` fills in."""

import pytest

from firstlight.config import Settings, resolve
from firstlight.errors import ConfigError
from firstlight.model import GPT, ModelConfig, fused_splits


class Root(Settings):
    model: ModelConfig = ModelConfig()


REFUSED = {
    "width no multiple of heads": (dict(n_embd=10, n_head=3), "n_embd=10 is not a multiple of n_head=3"),
    "heads no multiple of kv heads": (dict(n_head=6, n_kv_head=4), "n_head=6 is not a multiple of n_kv_head=4"),
    "an odd head with rope": (dict(n_embd=9, n_head=3), "even d_head, not 3"),
    "dropout in llama": (dict(family="llama", dropout=0.1), "family llama does not support dropout"),
    "grouped heads in gpt2": (dict(family="gpt2", n_kv_head=2), "does not support grouped-query attention"),
    "another head width in gpt3": (dict(family="gpt3", d_head=32), "needs n_head"),
    "an untied gpt1": (dict(family="gpt1", tie_embeddings=False), "gpt1 ties"),
    "another MLP in gpt1": (dict(family="gpt1", d_ff=100), "gpt1 has an MLP of 4 n_embd"),
    "no layers": (dict(n_layer=0), "model.n_layer"),
    "an unknown family": (dict(family="gpt5"), "model.family"),
    "dropout of one": (dict(family="gpt2", dropout=1.0), "model.dropout"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_model_can_be_is_refused_by_name(name: str) -> None:
    table, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        resolve(Root, {"model": table})
    assert message in str(caught.value)
    assert str(caught.value).startswith("model")


@pytest.mark.parametrize(
    ("family", "inner", "eps", "tied", "scale"),
    [
        ("gpt1", 384, 1e-5, True, 32**-0.5),
        ("gpt2", 384, 1e-5, True, 32**-0.5),
        ("gpt3", 384, 1e-5, True, 1.0),
        ("llama", 256, 1e-6, False, 32**-0.5),
        ("modern", 256, 1e-6, False, 32**-0.5),
    ],
)
def test_complete_writes_out_what_the_family_has(family, inner, eps, tied, scale) -> None:
    config = ModelConfig(family=family, n_embd=96, n_head=3).complete(70)
    assert (config.d_ff, config.norm_eps, config.tie_embeddings, config.attention_scale) == (inner, eps, tied, scale)
    assert (config.d_head, config.n_kv_head, config.vocab_size) == (32, 3, 70)
    assert config.complete(70) == config


def test_swiglu_is_as_wide_as_two_thirds_rounded_up() -> None:
    assert ModelConfig(n_embd=128, n_head=4).ffn_dim == 352  # 341.3, up to a multiple of 32
    assert ModelConfig(n_embd=768, n_head=12).ffn_dim == 2048


def test_every_second_layer_of_gpt3_is_banded() -> None:
    assert [ModelConfig(family="gpt3").is_local(i) for i in range(4)] == [False, True, False, True]
    assert not any(ModelConfig(family="gpt2").is_local(i) for i in range(4))


def test_splits_are_the_parts_of_the_fused_matrices() -> None:
    model = GPT(ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, d_head=6, d_ff=20, vocab_size=9))
    shapes = dict(model.named_parameters())
    parts = fused_splits(model)
    assert parts == {
        f"blocks.{i}.{name}": rows
        for i in range(2)
        for name, rows in (("attention.qkv.weight", (24, 12, 12)), ("mlp.gate_up.weight", (20, 20)))
    }
    assert all(sum(rows) == shapes[name].shape[0] for name, rows in parts.items())
    assert set(fused_splits(GPT(ModelConfig(family="gpt2", n_layer=1, n_head=2, n_embd=8, vocab_size=9)))) == {
        "blocks.0.attention.qkv.weight"
    }
