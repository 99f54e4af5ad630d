"""What a short run waits for before its first step."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from firstlight.stages import pretrain
words = ["tokenizer.kind=byte", "model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=8",
         "train.batch_tokens=64", "train.steps=2", "train.trackers=[]", f"optim.name={sys.argv[3]}"]
pretrain.pretrain([sys.argv[1]], out=sys.argv[2], overrides=words)
heavy = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "pandas", "matplotlib")
print("loaded:", [name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize("optimizer", ["muon", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_run_that_compiles_nothing_loads_no_compiler(tmp_path: Path, optimizer: str) -> None:
    (tmp_path / "text.txt").write_text("some text of some length " * 40)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "text.txt"), str(tmp_path / "run"), optimizer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stdout
