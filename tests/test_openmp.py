import os
import subprocess
import sys

import pytest

from firstlight import openmp

# Each prints what the runtime saw when torch loaded it, and what is in the environment afterwards.
REPORT = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("import torch:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"))
sys.meta_path.insert(0, Watch())
{code}
from firstlight import openmp
print("after:", os.environ.get("GOMP_SPINCOUNT"), "|", openmp.state())
"""


def _report(code: str, **more: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in openmp.VARIABLES}
    command = [sys.executable, "-c", REPORT.format(code=code)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**environment, **more})
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_as_a_library_the_variable_is_set_for_our_import_of_torch_alone() -> None:
    imported, after = _report("import firstlight; firstlight.generate; import torch")
    assert imported == f"import torch: {openmp.OURS['GOMP_SPINCOUNT']} {openmp.OURS['KMP_BLOCKTIME']}"
    assert after.startswith("after: None | GOMP_SPINCOUNT=")
    assert "set by Firstlight" in after


def test_nothing_is_touched_where_the_caller_has_loaded_torch() -> None:
    imported, after = _report("import torch; import firstlight; firstlight.generate")
    assert imported == "import torch: None None"
    assert after == "after: None | idle threads spin as long as the runtime's default"


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "PASSIVE")])
def test_the_users_own_choice_stays(name: str, value: str) -> None:
    imported, after = _report("import firstlight; firstlight.generate; import torch", **{name: value})
    assert imported == f"import torch: {'77' if name == 'GOMP_SPINCOUNT' else None} None"
    assert after.endswith(f"| {name}={value} (the user's own)")


def test_the_command_line_sets_it_for_every_command() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "firstlight", "doctor"],
        env={name: value for name, value in os.environ.items() if name not in openmp.VARIABLES},
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    line = next(line for line in out.splitlines() if "openmp" in line)
    assert f"GOMP_SPINCOUNT={openmp.OURS['GOMP_SPINCOUNT']}" in line


def test_a_runtime_that_another_package_has_loaded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in openmp.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "modules", {"sklearn": sys})
    with openmp.limited_spinning():
        assert "GOMP_SPINCOUNT" not in os.environ
    openmp.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


TRAIN = """
import hashlib, torch
from firstlight.model import GPT, ModelConfig
import torch.nn.functional as F
torch.set_num_threads(2)
torch.manual_seed(0)
model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=64, block_size=64, vocab_size=65))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.randint(0, 65, (16, 65))
for _ in range(5):
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()
digest = hashlib.sha256()
for parameter in model.parameters():
    digest.update(parameter.detach().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bits_do_not_depend_on_how_threads_wait() -> None:
    def weights(**more: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in openmp.VARIABLES}
        command = [sys.executable, "-c", TRAIN]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**environment, **more})
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    counts = [weights(GOMP_SPINCOUNT=count) for count in ("0", "1000", "300000")]
    assert [*counts, weights()] == counts[:1] * 4
