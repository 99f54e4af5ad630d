"""Names and config.json of transformers: what is refused, and that each message names the key."""

import contextlib
import tracemalloc

import pydantic
import pytest
import torch

from firstlight.errors import CheckpointError
from firstlight.model import GPT, ModelConfig, from_hf_config, from_hf_state_dict, to_hf_config, to_hf_state_dict

SHAPE = dict(n_layer=2, n_head=2, n_embd=8, vocab_size=11, block_size=12)
FAMILIES = ["gpt1", "gpt2", "gpt3", "llama", "modern"]
every_family = pytest.mark.parametrize("family", FAMILIES)


def built(family: str, **more: object) -> GPT:
    model = GPT(ModelConfig(family=family, **{**SHAPE, **more}))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


@every_family
def test_every_missing_weight_is_named(family: str) -> None:
    model = built(family)
    state = to_hf_state_dict(model)
    for name in state:
        with pytest.raises(CheckpointError) as caught:
            from_hf_state_dict(model.config, {k: v for k, v in state.items() if k != name})
        assert str(caught.value).startswith(f"{name}: missing weight")


@every_family
def test_every_surplus_weight_is_named(family: str) -> None:
    state = to_hf_state_dict(built(family))
    for name in ("lora_A", "model.layers.0.self_attn.q_proj.bias_correction", "v_head.summary.weight"):
        with pytest.raises(CheckpointError, match=rf"has no place for \(found {name}\)"):
            from_hf_state_dict(built(family).config, {**state, name: torch.ones(1)})
    with pytest.raises(
        CheckpointError, match=r"weights of more layers than config.json \(found 2 layers; expected 1\)"
    ):
        from_hf_state_dict(built(family, n_layer=1).config, state)


@pytest.mark.parametrize(
    "sizes",
    [{"block_size": 1 << 23}, {"n_head": 10**9, "d_head": 2}, {"d_ff": 10**12}],
    ids=["positions", "heads", "mlp"],
)
def test_sizes_that_no_weights_support_are_refused_before_anything_is_built(sizes: dict) -> None:
    model = built("llama")
    config = ModelConfig.model_construct(**{**model.config.model_dump(), **sizes})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="too many positions|fewer weights than config.json needs"):
            from_hf_state_dict(config, to_hf_state_dict(model))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kinds", [["global"], ["global", "local"], []])
def test_attention_types_of_a_billion_layers_take_no_memory(kinds: list[str]) -> None:
    table = to_hf_config(built("gpt3").config.complete(11), eot_id=None)
    tracemalloc.start()
    try:
        for n_layer in (2, 10**9):
            with contextlib.suppress(CheckpointError):
                from_hf_config({**table, "attention_types": [[kinds, 10**9]], "num_layers": n_layer})
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@every_family
def test_every_wrong_shape_is_named(family: str) -> None:
    model = built(family)
    state = to_hf_state_dict(model)
    for name, tensor in state.items():
        with pytest.raises(CheckpointError) as caught:
            from_hf_state_dict(model.config, {**state, name: torch.cat((tensor, tensor))})
        assert name in str(caught.value) and "shape does not match" in str(caught.value)


@every_family
def test_names_without_the_prefix_are_taken_and_others_left_alone(family: str) -> None:
    """The first GPT-2 on the hub has no ``transformer.``; old GPT-Neos hold masks as weights; heads stand tied."""
    model = built(family)
    bare = {k.removeprefix("transformer.").removeprefix("model."): v for k, v in to_hf_state_dict(model).items()}
    extra = {"h.0.attn.bias": torch.ones(1, 1, 12, 12), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    back = from_hf_state_dict(model.config, {**bare, **extra, "lm_head.weight": model.head_weight.detach()})
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(v, back[k]) for k, v in model.state_dict().items())


@every_family
def test_what_is_exported_has_each_number_once(family: str) -> None:
    model = built(family)
    exported = to_hf_state_dict(model)
    assert sum(t.numel() for t in exported.values()) == sum(p.numel() for p in model.parameters())
    assert ("lm_head.weight" in exported) is not model.config.tied


@pytest.mark.parametrize(("family", "mlp"), [*((f, None) for f in FAMILIES), ("gpt2", "gelu"), ("gpt3", "gelu")])
def test_config_json_comes_back(family: str, mlp: str | None) -> None:
    config = ModelConfig(family=family, init_std=0.07, mlp=mlp, **SHAPE).complete(11)
    assert from_hf_config(to_hf_config(config, eot_id=3)).complete(11) == config
    table = to_hf_config(config, eot_id=3)
    assert table["eos_token_id"] == 3 and table["pad_token_id"] is None


REFUSALS = [
    ("gpt2", dict(model_type="mamba"), "model_type 'mamba'"),
    ("gpt2", dict(activation_function="relu"), "activation_function"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    ("gpt2", dict(scale_attn_weights=False), "scale_attn_weights"),
    ("gpt2", dict(add_cross_attention=True), "add_cross_attention"),
    ("gpt1", dict(afn="relu"), "afn"),
    ("gpt3", dict(activation_function="relu"), "activation_function"),
    ("gpt3", dict(attention_types=[[["global"], 2]]), "attention_types"),
    ("llama", dict(attention_bias=True), "attention_bias"),
    ("llama", dict(mlp_bias=True), "mlp_bias"),
    ("llama", dict(hidden_act="gelu"), "hidden_act"),
    ("llama", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0}), "rope_parameters"),
    ("llama", dict(rope_parameters=None, rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling"),
    ("llama", dict(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}), "low_freq_factor"),
    ("modern", dict(use_sliding_window=True, max_window_layers=1, layer_types=None), "use_sliding_window"),
    ("modern", dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    ("modern", dict(is_causal=False), "is_causal"),
    ("gpt2", dict(tie_word_embeddings=None), "tie_word_embeddings"),
    ("llama", dict(rope_theta=None, rope_parameters=None), "rope_theta"),
    ("llama", dict(rope_parameters={"full_attention": {"rope_theta": 5.0}}), "rope_parameters"),
    ("llama", dict(rope_scaling={"type": "longrope", "short_factor": [1.0]}), "rope_scaling"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    ("modern", dict(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
]


@pytest.mark.parametrize(("family", "change", "key"), REFUSALS)
def test_a_feature_that_no_family_has_is_refused_by_its_key(family: str, change: dict, key: str) -> None:
    table = to_hf_config(ModelConfig(family=family, **SHAPE).complete(11), eot_id=None)
    with pytest.raises(CheckpointError) as caught:
        from_hf_config({**table, **change}, where="there/config.json")
    assert key in str(caught.value) and "there/config.json" in str(caught.value)


@every_family
def test_every_lacking_key_is_named(family: str) -> None:
    table = to_hf_config(ModelConfig(family=family, **SHAPE).complete(11), eot_id=None)
    needed = 0
    for key in table:
        try:
            from_hf_config({k: v for k, v in table.items() if k != key})
        except CheckpointError as error:
            assert key in str(error) or key == "model_type"
            needed += 1
        except pydantic.ValidationError:  # Qwen3's default of 32 heads does not divide two
            assert key == "num_key_value_heads"
    assert needed >= 6


def test_an_older_config_json_is_read() -> None:
    """Before transformers 5, rope_theta stood by itself, and GPT-2's had neither n_inner nor tie_word_embeddings."""
    llama = to_hf_config(ModelConfig(family="llama", rope_theta=5e5, **SHAPE).complete(11), eot_id=None)
    del llama["rope_parameters"], llama["head_dim"]
    assert from_hf_config(llama).rope_theta == 5e5
    gpt2 = to_hf_config(ModelConfig(family="gpt2", **SHAPE).complete(11), eot_id=None)
    del gpt2["n_inner"], gpt2["tie_word_embeddings"]
    assert from_hf_config(gpt2).complete(11) == ModelConfig(family="gpt2", **SHAPE).complete(11)
