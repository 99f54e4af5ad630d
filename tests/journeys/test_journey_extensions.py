"""Code of other packages in a run, named in the settings: optimizer, schedule and tracker."""

import json
import os
import shutil
from pathlib import Path

import pytest
from journey_files import same_bytes

EXAMPLES = Path(__file__).parents[2] / "docs" / "howto" / "examples"
TRACKER = """
import json

class Lines:
    def __init__(self, run):
        self.file = (run / "lines.jsonl").open("a")

    def log(self, step, metrics):
        self.file.write(json.dumps({"step": step, **metrics}) + "\\n")

    def close(self):
        self.file.close()
"""


@pytest.mark.slow
def test_an_optimizer_a_schedule_and_a_tracker_from_outside(tiny, run, tmp_path):
    package = tmp_path / "packages" / "mine"
    package.mkdir(parents=True)
    for name in ("lion.py", "inverse_sqrt.py"):
        shutil.copy(EXAMPLES / name, package / name)
    (package / "lines.py").write_text(TRACKER)
    words = [*tiny, "train.steps=20", "optim.name=mine.lion:Lion", "optim.lr=1e-3"]
    words += ["optim.schedule.name=mine.inverse_sqrt:inverse_sqrt", "optim.schedule.options.scale=3"]
    words += ["train.trackers=['mine.lines:Lines']"]
    path = {"PYTHONPATH": os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}

    planned = json.loads(run("pretrain", *words, "--out", tmp_path / "none", "--dry-run", "--json", **path).stdout)
    assert planned["memory_bytes"] >= 3 * 4 * planned["parameters"], "weights, gradients, one momentum"

    run("pretrain", *words, "--out", tmp_path / "whole", **path)
    run("pretrain", *words, "train.stop_after=11", "--out", tmp_path / "halves", **path)
    run("pretrain", tmp_path / "halves", "--resume", "train.stop_after=0", "--trust", **path)
    assert same_bytes(tmp_path / "whole", tmp_path / "halves") == []
    assert "mine.lion:Lion" in (tmp_path / "whole" / "report.html").read_text()
    logged = [json.loads(line) for line in (tmp_path / "whole" / "lines.jsonl").read_text().splitlines()]
    assert {line["step"] for line in logged} == set(range(21))
    assert [line["lr"] for line in logged if "lr" in line][-1] < 1e-3

    missing = run("pretrain", *words, "--out", tmp_path / "other", ok=False)
    assert missing.returncode == 2
    assert "optim.name: mine.lion:Lion cannot be loaded: ModuleNotFoundError" in missing.stderr
