"""Import of other programs' models: files written by hand in each format give the logits of the original."""

import json
import struct

import numpy as np
import pytest
import torch
from reference_files import (
    V,
    hf_weights,
    import_lm,
    logits,
    model,
    pieces,
    write_bundle,
    write_gpt1,
    write_gpt2,
    write_hf_bin,
    write_llama2c,
    write_llama2c_tokenizer,
    write_llmc,
    write_llmc_tokenizer,
    write_meta,
    write_nanogpt,
)
from tiny_lm import FAMILIES

from firstlight.convert import read_model
from firstlight.errors import CheckpointError, UsageError
from firstlight.lm import GenerateSettings

ODD = {"n_layer": 3, "n_head": 3, "n_embd": 18}


def same(lm, made, **tolerance):
    torch.testing.assert_close(logits(lm), logits(made), **(tolerance or {"rtol": 0, "atol": 1e-5}))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_llama2c(tmp_path, version, tied):
    made = model("llama", n_layer=2, n_head=6, n_kv_head=3, n_embd=24, d_ff=20, tie_embeddings=tied, norm_eps=1e-5)
    lm = import_lm(write_llama2c(tmp_path / "any name", made, version))
    same(lm, made)
    assert (lm.config.tied, lm.config.kv_heads, lm.config.block_size) == (tied, 3, 11)


@pytest.mark.parametrize("group", [2, 4])
def test_llama2c_int8(tmp_path, group):
    made = model("llama", n_layer=1, n_head=2, n_kv_head=2, n_embd=16, d_ff=20, norm_eps=1e-5)
    lm = import_lm(write_llama2c(tmp_path / "m.bin", made, 2, group))
    for name, tensor in lm.model.state_dict().items():
        exact = made.state_dict()[name]
        # A number is off by half a step at most, and a step is a 127th of the largest in its group.
        assert (tensor - exact).abs().max() <= exact.abs().max() / 127 / 2 + 1e-6, name


def test_llama2c_tokenizer_in_the_same_folder(tmp_path):
    made = model("llama", n_layer=1, n_head=2, n_kv_head=2, n_embd=16, d_ff=20, norm_eps=1e-5)
    write_llama2c(tmp_path / "m.bin", made)
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", pieces())
    assert import_lm(tmp_path / "m.bin").tokenizer is None, "the vocabularies differ"


@pytest.mark.data
def test_stories260k_generates_the_text_of_its_readme(shared_data):
    lm = import_lm(shared_data / "weights" / "stories260K.bin")
    readme = (shared_data / "weights" / "stories260K.md").read_text()
    wanted = readme.partition("-t 0.0\n")[2].partition("\n```")[0]
    made = lm.generate("", GenerateSettings(temperature=0, max_new_tokens=256))[0]
    assert made.text.startswith("Once upon a time") and made.text == wanted
    assert lm.tokenizer.encode("Once upon a time") == [403, 407, 261, 378]


@pytest.mark.parametrize("bf16", [False, True])
def test_llmc(tmp_path, bf16):
    made = model("gpt2", **ODD)
    lm = import_lm(write_llmc(tmp_path / "x.bin", made, bf16=bf16))
    assert lm.config.vocab_size == V
    if not bf16:
        same(lm, made)
        return
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name].bfloat16().float()), name


def test_llmc_tokenizer_in_the_same_folder(tmp_path):
    made = model("gpt2", **ODD)
    write_llmc(tmp_path / "x.bin", made)
    write_llmc_tokenizer(tmp_path / "gpt2_tokenizer.bin", [*(bytes([b]) for b in range(256)), b"ab", b"<end>"], 257)
    assert import_lm(tmp_path / "x.bin").tokenizer is None, "258 tokens are not 37"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(tmp_path, bias, compiled):
    made = model("gpt2", mlp="gelu", **ODD)
    if not bias:
        with torch.no_grad():
            for name, p in made.named_parameters():
                if name.endswith("bias"):
                    p.zero_()
    lm = import_lm(write_nanogpt(tmp_path / "ckpt.pt", made, bias=bias, compiled=compiled))
    same(lm, made)
    assert lm.config.mlp == "gelu" and lm.tokenizer is None


def test_nanogpt_characters_of_meta_pkl(tmp_path):
    write_nanogpt(tmp_path / "ckpt.pt", model("gpt2", mlp="gelu", **ODD))
    write_meta(tmp_path / "meta.pkl", "\n abcdefghijklmnopqrstuvwxyz0123456789"[:V])
    lm = import_lm(tmp_path / "ckpt.pt")
    assert lm.tokenizer.encode("b a\n") == [3, 1, 2, 0]
    # It was trained without end-of-text: a text begins behind a line end.
    assert lm.start_id == 0 and lm.encode("") == [0] and lm.tokenizer.eot_id == V
    made = lm.generate("", GenerateSettings(temperature=0, max_new_tokens=5))[0]
    assert len(made.ids) == 5 and max(made.ids) < V
    assert lm.score([("", "abc")])[0].n_tokens == 3


def test_gpt1(tmp_path):
    made = model("gpt1", n_layer=2, n_head=1, n_embd=24)
    same(import_lm(write_gpt1(tmp_path / "model", made)), made)


def test_gpt2(tmp_path):
    made = model("gpt2", **ODD)
    same(import_lm(write_gpt2(tmp_path / "117M", made)), made)


@pytest.mark.data
def test_tokenizers_of_gpt1_and_gpt2(tmp_path, shared_data):
    for name, write, files in (
        ("gpt1", write_gpt1, ("encoder_bpe_40000.json", "vocab_40000.bpe")),
        ("gpt2", write_gpt2, ("encoder.json", "vocab.bpe")),
    ):
        folder = write(tmp_path / name, model(name, n_layer=1, n_head=1, n_embd=24))
        for file in files:
            (folder / file).write_bytes((shared_data / "tokenizers" / name / file).read_bytes())
        assert import_lm(folder).tokenizer.encode("hello") == {"gpt1": [3570], "gpt2": [31373]}[name]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_bin_files(tmp_path, family, shards, old):
    made = model(family)
    same(import_lm(write_hf_bin(tmp_path, made, shards=shards, old=old)), made)


def test_a_file_in_a_hugging_face_directory(tmp_path):
    made = model("modern")
    write_hf_bin(tmp_path, made)
    same(import_lm(tmp_path / "pytorch_model.bin"), made)


# Damaged and unsupported files


def test_unrecognised_files(tmp_path):
    (tmp_path / "x").write_bytes(b"hello, world, this is a text")
    with pytest.raises(UsageError, match="unrecognised model format.*GGUF"):
        read_model(str(tmp_path / "x"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match="unrecognised model format"):
        read_model(str(tmp_path / "empty"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="not a model"):
        read_model(str(tmp_path / "folder"))
    with pytest.raises(UsageError, match="no such run or model"):
        read_model(str(tmp_path / "absent"))


WRONG_LLAMA2C = {
    "cut": lambda b: b[:-4],
    "overlong": lambda b: b + b"\0" * 4,
    "more layers": lambda b: b[:8] + struct.pack("<i", 1 << 23) + b[12:],
    "wider": lambda b: struct.pack("<i", 1 << 22) + b[4:],
    "not finite": lambda b: b[:28] + struct.pack("<f", float("nan")) + b[32:],
}


@pytest.mark.parametrize("name", WRONG_LLAMA2C)
def test_damaged_llama2c_files(tmp_path, name):
    path = write_llama2c(tmp_path / "m.bin", model("llama", n_layer=1, n_head=2, n_kv_head=2, n_embd=16, d_ff=20))
    path.write_bytes(WRONG_LLAMA2C[name](path.read_bytes()))
    with pytest.raises((CheckpointError, UsageError)) as caught:
        import_lm(path)
    assert str(path) in str(caught.value)


def test_incomplete_gpt1_releases(tmp_path):
    folder = write_gpt1(tmp_path, model("gpt1", n_layer=1, n_head=1, n_embd=8))
    np.save(folder / "params_9.npy", np.zeros(1, np.float32))
    with pytest.raises(CheckpointError, match="does not match params_shapes"):
        import_lm(folder)
    np.save(folder / "params_9.npy", np.zeros(1, np.float64))
    with pytest.raises(CheckpointError, match="expected float32"):
        import_lm(folder)
    (folder / "params_3.npy").unlink()
    with pytest.raises(CheckpointError, match="missing weights"):
        import_lm(folder)


def test_inconsistent_gpt2_releases(tmp_path):
    folder = write_gpt2(tmp_path, model("gpt2", n_layer=1, n_head=1, n_embd=8))
    sizes = json.loads((folder / "hparams.json").read_text())
    (folder / "hparams.json").write_text(json.dumps({**sizes, "n_layer": 10**9}))
    with pytest.raises(CheckpointError, match="fewer weights"):
        import_lm(folder)
    (folder / "hparams.json").write_text(json.dumps({**sizes, "n_embd": 16}))
    with pytest.raises(CheckpointError, match="shape does not match"):
        import_lm(folder)
    (folder / "hparams.json").write_text(json.dumps({**sizes, "n_head": "2"}))
    with pytest.raises(CheckpointError, match="missing or invalid sizes"):
        import_lm(folder)
    (folder / "hparams.json").write_text(json.dumps(sizes))
    two = write_gpt2(tmp_path / "two", model("gpt2", n_layer=2, n_head=1, n_embd=8))
    (two / "hparams.json").write_text(json.dumps(sizes))
    with pytest.raises(
        CheckpointError, match=r"two: has weights that its model has no place for .*model/h1/.* and 8 more"
    ):
        import_lm(two)
    write_bundle(two / "model.ckpt", {"x" * 2000: np.zeros(1)})
    with pytest.raises(CheckpointError, match=r"model.ckpt.index: damaged .*one of 2,000 bytes"):
        import_lm(two)
    data = folder / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is truncated"):
        import_lm(folder)


def test_llmc_with_a_wrong_version_or_size(tmp_path):
    path = write_llmc(tmp_path / "x.bin", model("gpt2", n_layer=1, n_head=1, n_embd=8))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<i", 7) + whole[8:])
    with pytest.raises(CheckpointError, match="version 7"):
        import_lm(path)
    path.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="does not match its header"):
        import_lm(path)
    path.write_bytes(whole[:16] + struct.pack("<i", 2**31 - 1) + whole[20:])
    with pytest.raises(CheckpointError, match="does not match its header|invalid model config"):
        import_lm(path)


def test_nanogpt_has_exact_gelu_and_llmc_tanh(tmp_path):
    made = model("gpt2", **ODD)
    a, b = import_lm(write_nanogpt(tmp_path / "c.pt", made)), import_lm(write_llmc(tmp_path / "c.bin", made))
    assert {k: v.shape for k, v in hf_weights(a.model).items()} == {k: v.shape for k, v in hf_weights(b.model).items()}
    assert 1e-6 < (logits(a) - logits(b)).abs().max() < 0.1
