"""Two processes through DDP are as one with the same batch; a stop, damage and a resume between them too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import go_on, lines, make_context, tensors

from firstlight.store import TokenStore
from firstlight.train import fit

PROGRAM = """
import json, sys
from pathlib import Path
from firstlight import parallel, progress
from small_run import go_on, make_context, make_store, ROWS, T
from firstlight.store import TokenStore

run, out = Path(sys.argv[1]), Path(sys.argv[2])
device_context = parallel.resolve_hardware(parallel.HardwareSettings(device="cpu", threads=1))
parallel.init_distributed(device_context)
store = TokenStore.open(Path(sys.argv[3]))
told = []
with progress.listen(lambda e: told.append(e.text) if e.level == "warning" else None):
    results = []
    for stop_after in (9, 0):
        cadence = {"stop_after": stop_after, "checkpoint_every": 4, "eval_every": 8}
        job = make_context(run, store, steps=16, device_context=device_context, micro_batch=1, **cadence)
        results.append(go_on(job))
        parallel.barrier(device_context)
        if stop_after and parallel.is_main_process(device_context):
            file = run / "checkpoints" / "step-00000009" / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1])
        parallel.barrier(device_context)
    short = make_context(run.with_name("short"), store, minutes=0.005, device_context=device_context)
    results.append(go_on(short))
    sums = [round(p.double().sum().item(), 12) for p in short.state.model.parameters()]
    same = parallel.all_gather(sums, device_context)
(out / f"{device_context.rank}.json").write_text(json.dumps({
    "steps": [r.step for r in results], "by": [r.stopped_by for r in results], "valid": results[1].valid.loss,
    "loss": results[1].train_loss, "told": told, "same": same[0] == same[1],
}))
parallel.destroy_distributed(device_context)
"""


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path, store: TokenStore) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--nproc-per-node=2",
        "--standalone",
        str(tmp_path / "program.py"),
        str(tmp_path / "two"),
        str(tmp_path),
        str(store.directory),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    one = fit(make_context(tmp_path / "one", store, steps=16, checkpoint_every=4, eval_every=8))
    assert one.valid is not None
    for rank in seen:
        assert rank["steps"][:2] == [9, 16]
        assert rank["by"] == ["stop_after", "steps", "minutes"]
        assert rank["valid"] == pytest.approx(one.valid.loss, rel=1e-4)
        assert rank["same"], "a limit of time gives both the same learning rates"
    assert seen[0]["loss"] == seen[1]["loss"]
    assert seen[0]["steps"] == seen[1]["steps"]
    assert [("damaged" in t) for t in seen[0]["told"]] == [True]
    assert seen[1]["told"] == []
    both = [{x["step"]: x["loss"] for x in lines(tmp_path / run) if "loss" in x} for run in ("one", "two")]
    assert both[0].keys() == both[1].keys()
    assert all(both[1][step] == pytest.approx(loss, rel=1e-4) for step, loss in both[0].items())
    ranks = {
        name.partition("/")[2]
        for name in tensors(tmp_path / "two" / "checkpoints" / "step-00000016")
        if "random" in name
    }
    assert ranks == {"0/cpu", "1/cpu"}
    assert go_on(make_context(tmp_path / "two", store, steps=18)).step == 18
