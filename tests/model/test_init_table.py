"""What a new model of each family is drawn from: every tensor's name, shape and spread, against tests/golden.

The file is the record of a decision: change it by hand, together with ``GPT.init_weights``.
"""

import json
from pathlib import Path

import pytest
import torch

from firstlight.model import GPT, ModelConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "init.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_every_tensor_is_there_and_drawn_as_the_table_says(name: str) -> None:
    table = GOLDEN[name]
    model = GPT(ModelConfig(**table["config"]))
    model.init_weights(torch.Generator().manual_seed(0))
    tensors = model.state_dict()
    assert {k: list(v.shape) for k, v in tensors.items()} == {k: row["shape"] for k, row in table["tensors"].items()}
    for key, row in table["tensors"].items():
        if "fill" in row:
            assert torch.equal(tensors[key], torch.full(row["shape"], float(row["fill"]))), key
            continue
        parts = torch.split(tensors[key], row.get("rows", [row["shape"][0]]))
        stds = row["std"] if isinstance(row["std"], list) else [row["std"]]
        for part, std in zip(parts, stds, strict=True):
            n = part.numel()
            # Four standard errors of a normal sample's spread and mean.
            assert part.std().item() == pytest.approx(std, rel=4 / (2 * n) ** 0.5), key
            assert abs(part.mean().item()) < 4 * std / n**0.5, key


def test_a_seed_decides_every_number_and_nothing_else_does() -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=20)
    states = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        model = GPT(config)
        model.init_weights(torch.Generator().manual_seed(seed))
        states.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
