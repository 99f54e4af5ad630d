"""Fine-tuning on a task of thousands of labels stays within a gigabyte of memory."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.lm import LM
from small_task import model, tokenizer

# VmHWM, unlike ru_maxrss, does not start with the memory of the process that started this one.
_COMMAND = """
import re, sys
from pathlib import Path
from firstlight.cli.app import run
code = run(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print("peak", int(peak[1]) // 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_five_thousand_labels_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    words = tokenizer()
    LM(model(words.vocab_size), words).save(tmp_path / "base")
    source = random.Random(0)
    labels = [f"L{i:04d}" for i in range(5000)]
    for side, chosen in (("train", labels * 2), ("valid", source.choices(labels, k=2000))):
        rows = "".join(f"{label}\tthe {label}\n" for label in chosen)
        (tmp_path / f"{side}.tsv").write_text("label\ttext\n" + rows, encoding="utf-8")
    (tmp_path / "many.toml").write_text(
        'kind = "classification"\n[data]\ntrain = "train.tsv"\nvalid = "valid.tsv"\ntest = "valid.tsv"\n'
        '[columns]\ntext = "text"\nlabel = "label"\n',
        encoding="utf-8",
    )
    arguments = ["finetune", "base", "many.toml", "--out", "run", "train.steps=40", "train.eval_every=20"]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout.split()[-1]) < 1024
    assert (tmp_path / "run" / "evaluation.json").stat().st_size < 1 << 20
