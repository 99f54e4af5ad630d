"""Models of many families, as transformers saves them: the same figures, or refused with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from firstlight.errors import CheckpointError
from firstlight.lm import LM

READ = {"llama3-rope", "qwen3"}
REASONS = {"llama-biases": "attention_bias", "llama-yarn": "yarn"}


@pytest.mark.slow
def test_every_family_is_computed_as_transformers_does_or_refused(tmp_path: Path, shared_data: Path) -> None:
    script = shared_data.parent / "cases" / "families" / "make_models.py"
    if not script.is_file():
        pytest.skip(f"no {script}")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert len(names) >= 29 and set(names) >= READ
    for name in names:
        expected = json.loads((tmp_path / name / "expected.json").read_text())
        try:
            lm = LM.load_fp32(tmp_path / name)
        except CheckpointError as error:
            assert name not in READ, error
            assert REASONS.get(name, "unsupported model type") in str(error)
            continue
        ids = torch.tensor([expected["ids"]])
        assert lm.encode(expected["text"]) == expected["ids"]
        with torch.no_grad():
            nats = torch.nn.functional.cross_entropy(lm.model(ids)[0, :-1], ids[0, 1:], reduction="none")
            for token in expected["greedy"]:
                assert int(lm.model(ids)[0, -1].argmax()) == token
                ids = torch.cat([ids, torch.tensor([[token]])], 1)
        torch.testing.assert_close(nats, torch.tensor(expected["nats"]), rtol=0, atol=1e-4)
