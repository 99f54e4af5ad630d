"""The model that learns tasks: what it keeps of the one it starts from, what is new, what learns and how fast."""

import pytest
import torch

import small_task
from firstlight.config import preset
from firstlight.errors import ConfigError
from firstlight.finetuning import TuningSettings, build_task_model, layer_lr_scales, unfreeze_layers
from firstlight.finetuning.build_model import depth
from firstlight.model import GPT

SPECS = {"mood": small_task.spec()}


def built(start: GPT, vocab_size: int = 30, seed: int = 1, **table: object) -> GPT:
    return build_task_model(start, SPECS, vocab_size, TuningSettings.model_validate(table), seed)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_was_pre_trained_stays_and_new_tokens_and_heads_are_drawn_from_the_seed(family: str) -> None:
    start = small_task.model(27, family)
    one, again, other = built(start), built(start), built(start, seed=2)
    for name, tensor in start.state_dict().items():
        assert torch.equal(one.state_dict()[name][: len(tensor)], tensor), name
    assert one.embed.weight.shape[0] == 30
    same, differ = ("embed.weight", "heads.mood.weight"), {}
    for name in same:
        assert torch.equal(one.state_dict()[name], again.state_dict()[name])
        differ[name] = not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert all(differ.values())


def test_new_tokens_are_drawn_as_the_known_ones_are_spread() -> None:
    start = small_task.model(27)
    with torch.no_grad():
        start.embed.weight.mul_(10.0).add_(3.0)
    known, new = start.embed.weight, built(start, vocab_size=4000).embed.weight[27:]
    torch.testing.assert_close(new.mean(0), known.mean(0), rtol=0.05, atol=0.05)
    torch.testing.assert_close(new.std(0), known.std(0), rtol=0.1, atol=0.01)


def test_a_tokenizer_smaller_than_the_model_takes_nothing_away() -> None:
    assert built(small_task.model(40), vocab_size=30).embed.weight.shape[0] == 40


def test_new_tokens_in_padded_rows_are_drawn_and_known_ones_kept() -> None:
    start = small_task.model(40)
    made = build_task_model(start, SPECS, 33, TuningSettings(), 1, n_known=30)
    kept = [bool((a == b).all()) for a, b in zip(start.embed.weight, made.embed.weight, strict=True)]
    assert kept == [True] * 30 + [False] * 3 + [True] * 7


def test_a_head_of_the_same_task_goes_on_and_another_begins_anew() -> None:
    start = small_task.model(30)
    start.add_head("mood", 2)
    torch.nn.init.constant_(start.get_parameter("heads.mood.weight"), 7.0)
    assert (built(start).get_parameter("heads.mood.weight") == 7).all()
    start.add_head("mood", 3)
    torch.nn.init.constant_(start.get_parameter("heads.mood.weight"), 7.0)
    again = built(start).get_parameter("heads.mood.weight")
    assert again.shape[0] == 2 and not (again == 7).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("heads.mood.weight", 0),
        ("norm.weight", 0),
        ("blocks.1.norm1.weight", 1),
        ("blocks.0.mlp.up.weight", 2),
        ("embed.weight", 3),
        ("positions.weight", 3),
    ],
)
def test_depth_is_counted_from_the_heads(name: str, expected: int) -> None:
    assert depth(name, 2) == expected


def test_rates_decay_from_layer_to_layer() -> None:
    scales = layer_lr_scales(built(small_task.model(30)), 0.5)
    assert scales["heads.mood.weight"] == 1
    assert {v for k, v in scales.items() if k.startswith("blocks.1.")} == {0.5}
    assert {v for k, v in scales.items() if k.startswith("blocks.0.")} == {0.25}
    assert scales["embed.weight"] == 0.125


def test_patterns_freeze_and_thawing_goes_down_layer_by_layer() -> None:
    model = built(small_task.model(30), freeze=["positions.*"])
    learning = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    assert not any(name.startswith("positions.") for name in learning)
    for done in (0, 9, 10, 20):
        unfreeze_layers(model, learning, done, every=10)
        awake = {name for name, p in model.named_parameters() if p.requires_grad}
        assert any(n.startswith("heads.") for n in awake) and any(n.startswith("blocks.1.") for n in awake)
        assert any(n.startswith("blocks.0.") for n in awake) == (done >= 10)
        assert ("embed.weight" in awake) == (done >= 20)
        assert not any(n.startswith("positions.") for n in awake), "what is frozen never thaws"


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3", "llama", "modern"])
def test_the_preset_probe_trains_the_heads_alone(family: str) -> None:
    freeze = preset("firstlight.stages.presets.finetune", "probe")["finetune"]["freeze"]
    model = built(small_task.model(30, family), freeze=freeze)
    learning = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    assert learning == {"heads.mood.weight"}


@pytest.mark.parametrize(
    ("table", "told"),
    [({"freeze": ["nothing.*"]}, "matches no parameter"), ({"freeze": ["*"]}, "leaves no parameter to train")],
)
def test_patterns_that_mean_nothing(table: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(small_task.model(30), **table)


def test_dropout_where_the_family_has_none() -> None:
    with pytest.raises(ConfigError, match="is not supported by this model family"):
        built(small_task.model(30, "llama"), dropout=0.1)


def test_beside_an_adapter_only_heads_and_the_adapter_learn() -> None:
    pytest.importorskip("peft")
    model = built(small_task.model(30), adapter={"kind": "lora", "r": 2})
    assert all("lora_" in n or n.startswith("heads.") for n, p in model.named_parameters() if p.requires_grad)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(model.eval().hidden(ids), built(small_task.model(30)).eval().hidden(ids))
