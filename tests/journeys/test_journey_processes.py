"""Several processes give the same loss curve as one with the same global batch."""

import json

import pytest

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def _losses(run_directory, key="loss"):
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.slow
@pytest.mark.parametrize("micro", ["auto", "2"])
def test_two_processes_equal_one(micro, tiny, run, tmp_path):
    words = [*tiny, "train.steps=30", "train.eval_every=10", f"train.micro_batch={micro}"]
    run("pretrain", *words, "--out", tmp_path / "one")
    both = run("pretrain", *words, "--out", tmp_path / "two", launcher=TORCHRUN)
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert len(one) == len(two) == 30
    assert two == pytest.approx(one, rel=2e-4)
    assert _losses(tmp_path / "two", "valid_loss") == pytest.approx(_losses(tmp_path / "one", "valid_loss"), rel=2e-4)
    assert both.stdout.count("finished at step") == 1, "only the first process prints"
    resumed = run("pretrain", tmp_path / "two", "--resume", "train.steps=34", launcher=TORCHRUN)
    assert len(_losses(tmp_path / "two")) == 34, resumed.stderr
    finished = run("pretrain", tmp_path / "two", "--resume", launcher=TORCHRUN)
    assert "has finished already" in finished.stderr


@pytest.mark.slow
def test_embeddings_that_thaw_learn_alike_in_two_processes(tiny, run, tmp_path):
    words = [*tiny, "train.steps=12", "train.eval_every=6", "model.embeddings_frozen_steps=5"]
    run("pretrain", *words, "--out", tmp_path / "one")
    run("pretrain", *words, "--out", tmp_path / "two", launcher=TORCHRUN)
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=2e-4)
