import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstlight.model import GPT, ModelConfig
from firstlight.optim import AdamW, Muon, OptimizerSettings, build, describe, is_hidden
from firstlight.optim.groups import grouped

NAMES = st.lists(st.sampled_from(["embed", "positions", "head", "blocks", "0", "qkv", "header", "weight"]), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES.map(".".join), st.lists(st.integers(1, 3), min_size=0, max_size=4))))
def test_every_parameter_is_in_exactly_one_group(members: list[tuple[str, list[int]]]) -> None:
    named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in members]
    found = [id(p) for group in grouped(named).values() for _, p in group]
    assert sorted(found) == sorted(id(p) for _, p in named)
    assert all(grouped(named).values())
    for _, p in grouped(named).get("hidden", []):
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
def test_the_table_is_what_is_built(family: str, settings: OptimizerSettings) -> None:
    config = ModelConfig.model_validate(
        {"family": family, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 31, "block_size": 8}
    )
    model = GPT(config)
    rows = describe(model.named_parameters(), settings)
    optimizer = build(model.named_parameters(), settings)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert sum(row.tensors for row in rows) == len(list(model.parameters()))
    built = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(built) == len(list(model.parameters()))
    by_name = {row.name: row for row in rows}
    for group, members in grouped(model.named_parameters()).items():
        for _, p in members:
            assert built[id(p)] == (by_name[group].lr, by_name[group].weight_decay)
    assert by_name["hidden"].optimizer == settings.name
    assert by_name["outer"].optimizer == by_name["vectors"].optimizer == "adamw"
    assert by_name["vectors"].weight_decay == 0
