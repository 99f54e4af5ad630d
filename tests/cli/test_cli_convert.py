"""The commands import and export."""

import json
import pickle

import numpy as np
import pytest
import torch
from tiny_lm import lm

from firstlight.cli.app import run
from firstlight.lm import LM
from firstlight.store import TokenStore


@pytest.fixture
def model(tmp_path):
    lm("modern", "bpe").save(tmp_path / "model")
    return tmp_path / "model"


def test_gguf_round_trip(tmp_path, model, capsys):
    assert run(["export", str(model), str(tmp_path / "m.gguf"), "--to", "gguf"]) == 0
    assert "m.gguf" in capsys.readouterr().out
    assert run(["import", str(tmp_path / "m.gguf"), str(tmp_path / "back"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["format"] == "GGUF" and result["family"] == "modern" and result["vocab_size"] == 300
    a, b = LM.load_fp32(model), LM.load_fp32(tmp_path / "back")
    assert all(
        torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )
    assert run(["generate", str(tmp_path / "back"), "The", "--max-new-tokens", "3"]) == 0
    assert "imported from" in (tmp_path / "back" / "README.md").read_text()


def test_tokenizer_option(tmp_path, model, capsys):
    made = lm("gpt2", "byte", mlp="gelu")
    made.save(tmp_path / "gpt2")
    assert run(["export", str(tmp_path / "gpt2"), str(tmp_path / "ckpt.pt"), "--to", "nanogpt", "--json"]) == 0
    capsys.readouterr()
    assert run(["import", str(tmp_path / "ckpt.pt"), str(tmp_path / "a")]) == 0
    assert "no tokenizer found" in capsys.readouterr().err
    tokenizer = str(tmp_path / "gpt2")
    assert run(["import", str(tmp_path / "ckpt.pt"), str(tmp_path / "b"), "--tokenizer", tokenizer]) == 0
    assert LM.load_fp32(tmp_path / "b").encode("a") == made.encode("a")
    assert run(["import", str(tmp_path / "ckpt.pt"), str(tmp_path / "c"), "--tokenizer", str(model)]) == 1
    assert "the tokenizer does not match the model" in capsys.readouterr().err


def test_token_files_become_a_store_that_trains(tmp_path, capsys):
    data = tmp_path / "shakespeare_char"
    data.mkdir()
    text = "to be or not to be\n" * 200
    letters = sorted(set(text))
    stoi = {c: i for i, c in enumerate(letters)}
    (data / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate(letters)), "stoi": stoi, "vocab_size": 9}))
    for name, part in (("train", text[:3000]), ("val", text[3000:])):
        np.array([stoi[c] for c in part], "<u2").tofile(data / f"{name}.bin")
    assert run(["import", str(data), str(tmp_path / "store")]) == 0
    assert "3,000 tokens" in capsys.readouterr().out
    assert TokenStore.open(tmp_path / "store").train.n_tokens == 3000
    arguments = [
        "model.n_layer=1",
        "model.n_head=1",
        "model.n_embd=16",
        "model.block_size=16",
        "train.steps=3",
        "train.batch_tokens=64",
        "hardware.device=cpu",
    ]
    assert run(["pretrain", str(tmp_path / "store"), "--out", str(tmp_path / "run"), *arguments]) == 0
    (data / "meta.pkl").unlink()
    capsys.readouterr()
    assert run(["import", str(data), str(tmp_path / "other")]) == 2
    assert "token files without their tokenizer" in capsys.readouterr().err


def test_existing_files_are_kept(tmp_path, model, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    assert run(["import", str(model), str(tmp_path / "full")]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err
    assert run(["export", str(model), str(tmp_path / "full" / "x"), "--to", "gguf"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "full" / "x").read_text() == "mine"


def test_usage_errors(tmp_path, model, capsys):
    for arguments, code, message in (
        (["export", str(model), str(tmp_path / "x"), "--to", "gguff"], 2, "Did you mean 'gguf'"),
        (["export", str(tmp_path / "none"), str(tmp_path / "x"), "--to", "gguf"], 2, "no such run or model"),
        (
            ["export", str(model), str(tmp_path / "x"), "--to", "nanogpt"],
            2,
            "nanoGPT does not support the family modern",
        ),
        (["import", str(tmp_path / "none"), str(tmp_path / "x")], 2, "no such run or model"),
        (["import", str(model), str(tmp_path / "x"), "--tokenizer", "none"], 2, "no such file"),
    ):
        assert run(arguments) == code
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
