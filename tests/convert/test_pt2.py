"""The graph of torch.export, loaded again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_models import BLOCK, EACH, lm, text, tokenizer

from firstlight.convert import get_exporter
from firstlight.errors import UsageError
from firstlight.lm import LM


@pytest.fixture(scope="module", params=EACH)
def written(request, tmp_path_factory) -> tuple[LM, Path]:
    path = tmp_path_factory.mktemp("pt2") / f"{request.param}.pt2"
    model = lm(request.param)
    assert get_exporter("pt2").export(model, path) == {"model": str(path)}
    return model, path


def run(graph, model: LM, ids: torch.Tensor, past: list) -> tuple[torch.Tensor, list]:
    (B, T), P = ids.shape, past[0][0].shape[2]
    return graph(
        input_ids=ids,
        attention_mask=torch.ones(B, P + T, dtype=torch.long),
        position_ids=torch.arange(P, P + T).repeat(B, 1),
        past_key_values=past,
    )


@torch.no_grad()
def test_the_same_logits_for_any_rows_and_positions(written):
    model, path = written
    extra = {"config.json": "", "tokenizer.json": ""}
    graph, c = torch.export.load(path, extra_files=extra).module(), model.config
    assert json.loads(extra["config.json"])["vocab_size"] == c.vocab_size
    assert len(json.loads(extra["tokenizer.json"])["model"]["vocab"]) >= tokenizer().vocab_size - 1
    for B, parts in [(3, [BLOCK]), (1, [1]), (1, [1, 1, 1]), (2, [7, 1, 4]), (2, [1, 9])]:
        ids = text(B, sum(parts))
        past = [tuple(torch.zeros(B, c.kv_heads, 0, c.head_dim) for _ in "kv") for _ in range(c.n_layer)]
        logits = []
        for part in ids.split(parts, dim=1):
            out, past = run(graph, model, part, past)
            logits.append(out)
        torch.testing.assert_close(torch.cat(logits, 1), model.model(ids), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_it_loads_without_firstlight(tmp_path):
    get_exporter("pt2").export(lm("modern"), tmp_path / "m.pt2")
    code = (
        "import sys, torch; graph = torch.export.load(sys.argv[1]); print(len(graph.graph.nodes));"
        "assert not any(name.startswith('firstlight') for name in sys.modules)"
    )
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "m.pt2")]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 50


def test_unsupported_exports(tmp_path):
    with pytest.raises(UsageError, match=r"expected \.pt2"):
        get_exporter("pt2").export(lm("gpt2"), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="int8"):
        get_exporter("pt2").export(lm("gpt2").quantize_int8(), tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []
