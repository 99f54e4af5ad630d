"""A damaged token store is neither trained nor evaluated on."""

import json
from pathlib import Path

import pytest

from firstlight import progress
from firstlight.errors import StoreError
from firstlight.stages import data
from firstlight.stages.evaluate import evaluate
from firstlight.stages.pretrain import pretrain

TINY = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_embd=32",
    "model.n_head=2",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.steps=2",
    "train.trackers=[]",
    "train.sample_every=0",
    "hardware.device=cpu",
    "hardware.threads=1",
]


@pytest.mark.usefixtures("torch_as_it_was")
def test_a_flipped_bit_stops_every_command_that_reads_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    rows = [f"document {n}: some words and others" for n in range(200)]
    Path("rows.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    pretrain(["rows.jsonl"], out="run", overrides=TINY)
    evaluate("run", device="cpu")
    for side in ("train", "valid"):
        path = Path(f"run/data/{side}.bin")
        intact = path.read_bytes()
        path.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
        for command in (
            lambda: evaluate("run", device="cpu"),
            lambda: pretrain(["run"], resume=True, overrides=["train.steps=3"]),
            lambda: data.stats("run"),
        ):
            with pytest.raises(StoreError, match=rf"{side}\.bin"):
                command()
        assert data.verify("run").problems
        path.write_bytes(intact)
    Path("run/data/valid.bin").write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
    notices: list[progress.Event] = []
    with progress.listen(notices.append):
        pretrain(["run"], resume=True, overrides=["train.steps=3", "data.verify=false"])
    assert any("without verifying" in e.text for e in notices)
    assert not [e for e in notices if e.task == "verify"]
