import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from firstlight import parallel
from firstlight.parallel import DeviceContext

ALONE = DeviceContext(torch.device("cpu"), "fp32", False, 1, 0, 1, {})

# Each process writes what it saw; the test compares both with one process that saw all rows.
PROGRAM = """
import json, sys, torch
from firstlight import parallel
device_context = parallel.resolve_hardware(parallel.HardwareSettings(device="cpu", threads=1))
parallel.init_distributed(device_context)
torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
rows = torch.arange(32.0).reshape(8, 4) / 32
module = parallel.wrap_ddp(model, device_context)
mine = rows[device_context.rank * 4 : device_context.rank * 4 + 4]
with parallel.no_sync(module):
    (module(mine[:2]).square().sum() * device_context.world_size).backward()
alone = model.weight.grad.flatten().tolist()
(module(mine[2:]).square().sum() * device_context.world_size).backward()
parallel.barrier(device_context)
tensor = torch.tensor([1.0, device_context.rank])
total = parallel.all_reduce_sum(tensor, device_context)
parallel.seed_everything(7 + device_context.rank)
seen = {
    "world": device_context.world_size, "rank": device_context.rank, "backend": device_context.backend,
    "main": parallel.is_main_process(device_context),
    "grad": model.weight.grad.flatten().tolist(), "alone": alone, "sum": total.tolist(), "kept": tensor.tolist(),
    "gathered": parallel.all_gather({"rank": device_context.rank}, device_context),
    "told": parallel.broadcast_object(f"from {device_context.rank}", device_context), "drawn": torch.rand(1).item(),
}
parallel.destroy_distributed(device_context)
open(f"{sys.argv[1]}/{device_context.rank}.json", "w").write(json.dumps(seen))
"""


def test_one_process_needs_no_group() -> None:
    module = nn.Linear(2, 2)
    parallel.init_distributed(ALONE)
    assert not torch.distributed.is_initialized()
    assert parallel.wrap_ddp(module, ALONE) is module
    with parallel.no_sync(module):
        pass
    tensor = torch.ones(2)
    assert parallel.all_reduce_sum(tensor, ALONE) is tensor
    assert parallel.all_gather("x", ALONE) == ["x"]
    assert parallel.broadcast_object("x", ALONE) == "x"
    assert parallel.is_main_process(ALONE)
    parallel.barrier(ALONE)
    parallel.destroy_distributed(ALONE)


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--nproc-per-node=2",
        "--standalone",
        str(tmp_path / "program.py"),
        str(tmp_path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    model(torch.arange(32.0).reshape(8, 4) / 32).square().sum().backward()
    assert model.weight.grad is not None
    for rank, one in enumerate(seen):
        assert (one["world"], one["rank"], one["main"], one["backend"]) == (2, rank, rank == 0, "gloo")
        torch.testing.assert_close(torch.tensor(one["grad"]), model.weight.grad.flatten())
        assert one["sum"] == [2.0, 1.0]
        assert one["kept"] == [1.0, rank], "the tensor given is left alone"
        assert one["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert one["told"] == "from 0"
    assert seen[0]["grad"] == seen[1]["grad"]
    assert seen[0]["alone"] != seen[1]["alone"], "no_sync leaves gradients unaveraged"
    assert seen[0]["drawn"] != seen[1]["drawn"]


def test_random_state_goes_round() -> None:
    parallel.seed_everything(3)
    first = torch.rand(4)
    states = {k: v.clone() for k, v in parallel.rng_state().items()}
    assert all(v.dtype is torch.uint8 for v in states.values())
    second = torch.rand(4)
    parallel.set_rng_state(states)
    assert torch.equal(torch.rand(4), second)
    parallel.seed_everything(3)
    assert torch.equal(torch.rand(4), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_random_state_of_a_gpu_goes_round() -> None:
    parallel.seed_everything(3)
    torch.rand(4, device="cuda")
    states = parallel.rng_state()
    second = torch.rand(4, device="cuda")
    parallel.set_rng_state(states)
    assert torch.equal(torch.rand(4, device="cuda"), second)
