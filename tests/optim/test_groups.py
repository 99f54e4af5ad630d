import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstlight.model import GPT, ModelConfig
from firstlight.optim import AdamW, Muon, OptimizerSettings, build_optimizer, is_hidden, scale_lr, summarize_groups
from firstlight.optim.groups import group_parameters

NAMES = st.lists(st.sampled_from(["embed", "positions", "head", "blocks", "0", "qkv", "header", "weight"]), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES.map(".".join), st.lists(st.integers(1, 3), min_size=0, max_size=4))))
def test_every_parameter_is_in_exactly_one_group(members: list[tuple[str, list[int]]]) -> None:
    named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in members]
    found = [id(p) for group in group_parameters(named).values() for _, p in group]
    assert sorted(found) == sorted(id(p) for _, p in named)
    assert all(group_parameters(named).values())
    for _, p in group_parameters(named).get("hidden", []):
        assert p.ndim == 2


@pytest.mark.parametrize(
    ("name", "shape", "hidden"),
    [
        ("embed.weight", (4, 4), False),
        ("model.embed.weight", (4, 4), False),
        ("positions.weight", (4, 4), False),
        ("head.weight", (4, 4), False),
        ("blocks.0.attention.qkv.weight", (4, 4), True),
        ("blocks.0.header.weight", (4, 4), True),
        ("blocks.0.attention.qkv.bias", (4,), False),
        ("blocks.0.conv.weight", (4, 4, 4), False),
        ("scale", (), False),
    ],
)
def test_which_parameters_are_hidden_matrices(name: str, shape: tuple[int, ...], hidden: bool) -> None:
    assert is_hidden(name, nn.Parameter(torch.zeros(shape))) is hidden


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize("settings", [AdamW(weight_decay=0.1), Muon(weight_decay=0.1)], ids=lambda s: s.name)
def test_summaries_are_those_of_the_parameters(family: str, settings: OptimizerSettings) -> None:
    config = ModelConfig.model_validate(
        {"family": family, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 31, "block_size": 8}
    )
    model = GPT(config)
    optimizer = build_optimizer(model.named_parameters(), settings)
    name_of = {id(p): name for name, p in model.named_parameters()}
    scale_lr(optimizer, 0.5)  # a summary has the rates before the schedule
    summaries = summarize_groups(optimizer)
    for group, summary in zip(optimizer.param_groups, summaries, strict=True):
        assert summary.n_tensors == len(group["params"])
        for p in group["params"]:
            hidden = is_hidden(name_of[id(p)], p)
            assert summary.lr == (settings.lr if hidden else settings.equivalent_adamw_lr)
            assert summary.weight_decay == (0.1 if p.ndim > 1 else 0)
    assert sum(s.n_tensors for s in summaries) == len(list(model.parameters()))
    assert sum(s.n_parameters for s in summaries) == sum(p.numel() for p in model.parameters())
