"""Weights in every format: not finite, of another type or shape, masks, missing, surplus, twice."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import lm
from reference_files import (
    import_lm,
    logits,
    model,
    write_gpt1,
    write_gpt2,
    write_hf_bin,
    write_llama2c,
    write_llmc,
    write_nanogpt,
)
from safetensors.torch import load_file, save_file

from firstlight.cli.app import run
from firstlight.convert import get_exporter, read_model
from firstlight.errors import CheckpointError
from firstlight.lm import LM
from firstlight.model import GPT, is_known_buffer

GPT2 = dict(family="gpt2", n_layer=2, n_head=3, n_embd=18)
LLAMA = dict(family="llama", n_layer=2, n_head=2, n_kv_head=2, n_embd=16, d_ff=20, norm_eps=1e-5)
GPT1 = dict(family="gpt1", n_layer=2, n_head=1, n_embd=64)


def exported(format: str, name: str) -> Callable[[Path, GPT], Path]:
    def write(folder: Path, made: GPT) -> Path:
        get_exporter(format).export(LM(made, None), folder / name)
        return folder / name

    return write


def safetensors(folder: Path, made: GPT) -> Path:
    LM(made, None).save(folder / "m")
    return folder / "m"


def shards(folder: Path, made: GPT) -> Path:
    path = safetensors(folder, made)
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, path / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


FORMATS: dict[str, tuple[dict, Callable[[Path, GPT], Path]]] = {
    "safetensors": (GPT2, safetensors),
    "safetensors, sharded": (LLAMA, shards),
    "bin": (GPT2, lambda f, m: write_hf_bin(f / "m", m)),
    "bin, sharded": (GPT2, lambda f, m: write_hf_bin(f / "m", m, shards=2)),
    "bin, legacy": (GPT2, lambda f, m: write_hf_bin(f / "m", m, old=True)),
    "nanogpt": ({**GPT2, "mlp": "gelu"}, lambda f, m: write_nanogpt(f / "ckpt.pt", m)),
    "llama2c, legacy": (LLAMA, lambda f, m: write_llama2c(f / "m.bin", m, 0)),
    "llama2c, 1": (LLAMA, lambda f, m: write_llama2c(f / "m.bin", m, 1)),
    "llmc": (GPT2, lambda f, m: write_llmc(f / "m.bin", m)),
    "llmc, bf16": (GPT2, lambda f, m: write_llmc(f / "m.bin", m, bf16=True)),
    "openai-gpt1": (GPT1, lambda f, m: write_gpt1(f / "m", m)),
    "openai-gpt2": (GPT2, lambda f, m: write_gpt2(f / "m", m)),
    "megatron": (LLAMA, exported("megatron", "m")),
    "keras": (LLAMA, exported("keras", "m.keras")),
}


# Importing Keras takes 20 seconds.
EACH = [pytest.param(name, marks=pytest.mark.slow) if name == "keras" else name for name in FORMATS]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_the_same_model_in_transformers_and_after_an_export(tmp_path, format):
    transformers = pytest.importorskip("transformers")
    shape, write = FORMATS[format]
    made = model(**shape)
    imported = import_lm(write(tmp_path, made))
    if format != "llmc, bf16":
        torch.testing.assert_close(logits(imported), logits(made), rtol=1e-5, atol=1e-5)
    imported.save(tmp_path / "run")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    torch.testing.assert_close(logits(lambda ids: theirs(ids).logits), logits(imported), rtol=1e-5, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(logits(import_lm(tmp_path / "theirs")), logits(imported))
    if shape["family"] != "gpt1":
        get_exporter("megatron").export(imported, tmp_path / "exported")
        assert torch.equal(logits(import_lm(tmp_path / "exported")), logits(imported))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("format", EACH)
def test_weights_that_are_not_finite(tmp_path, format, value):
    shape, write = FORMATS[format]
    made = model(**shape)
    with torch.no_grad():
        made.blocks[1].mlp.down.weight[3, 5] = value
    with pytest.raises(
        CheckpointError, match=r"contains values that are not finite \(found . NaN and . infinite"
    ) as caught:
        import_lm(write(tmp_path, made))
    assert ("1 NaN and 0" in str(caught.value)) is (value != value)
    assert any(name in str(caught.value) for name in ("down_proj", "c_proj", "ffn_down", "linear_fc2", "vars"))


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_gguf_that_are_not_finite(tmp_path, dtype, value):
    """Also the scales of quantised blocks, from which the weights are computed."""
    made = lm("llama", n_embd=32, n_head=2, d_head=16, d_ff=32)
    with torch.no_grad():
        made.model.blocks[1].mlp.down.weight[3, 5] = value
    with np.errstate(all="ignore"):
        get_exporter("gguf").export(made, tmp_path / "m.gguf", dtype)
    with pytest.raises(CheckpointError, match="blk.1.ffn_down.weight: contains values that are not finite"):
        import_lm(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "command", [["generate", "m", "a"], ["export", "m", "m.gguf", "--to", "gguf"], ["import", "m", "n"]]
)
def test_no_command_takes_them(tmp_path, command, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = model(**GPT2)
    with torch.no_grad():
        made.norm.weight[2:4] = torch.tensor([float("nan"), float("inf")])
    safetensors(tmp_path, made)
    assert run(command) == 1
    assert "transformer.ln_f.weight: contains values that are not finite (found 1 NaN and 1 infinite of 18)" in (
        capsys.readouterr().err
    )


MASKS = {
    "attn.bias": torch.ones(1, 1, 11, 11).tril(),
    "attn.masked_bias": torch.tensor(-1e4),
}
UNKNOWN = ["attn.bias", "attn.c_attn.weight_scale_inv", "attn.freqs_cis", "attn.rotary.cos", "attn.lora_A.weight"]


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("bias", [True, False])
def test_masks_and_wrappers_of_nanogpt(tmp_path, bias, prefix):
    made = model(mlp="gelu", **GPT2)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith("bias") and not bias:
                p.zero_()
    path = write_nanogpt(tmp_path / "ckpt.pt", made, bias=bias)
    checkpoint = torch.load(path, weights_only=False)
    masks = {f"transformer.h.{i}.{name}": mask for i in range(2) for name, mask in MASKS.items()}
    masks["transformer.h.0.attn.bias"] = torch.full((1, 1, 11, 11), float("-inf")).triu(1)  # of some forks
    plain = {**checkpoint["model"], **masks}
    for state, words in (
        (plain, None),
        ({**plain, "transformer.h.1.attn.bias": torch.zeros(54)}, "transformer.h.1.attn.bias"),
        ({**plain, "lm_head.bias": torch.zeros(37)}, "lm_head.bias"),
        ({k: v for k, v in plain.items() if "h.1.ln_1" not in k}, "h.1.ln_1.weight: missing weight"),
        ({**plain, "transformer.ln_f.weight": torch.ones(18, dtype=torch.int8)}, "ln_f.weight: is not a weight .*int8"),
        ({**plain, "lm_head.weight": plain["transformer.wte.weight"] + 1}, "head that differs from the embedding"),
    ):
        checkpoint["model"] = {prefix + name: tensor for name, tensor in state.items()}
        torch.save(checkpoint, path)
        if words is None:
            torch.testing.assert_close(logits(import_lm(path)), logits(made), rtol=0, atol=1e-5)
        else:
            with pytest.raises(CheckpointError, match=words):
                import_lm(path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool])
def test_masks_in_a_hugging_face_directory(tmp_path, kind, dtype):
    made = model(**GPT2)
    path = safetensors(tmp_path, made) if kind == "safetensors" else write_hf_bin(tmp_path / "m", made)
    file = path / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    save = save_file if kind == "safetensors" else torch.save
    state = load_file(file) if kind == "safetensors" else torch.load(file)
    state |= {f"transformer.h.{i}.attn.bias": MASKS["attn.bias"].to(dtype).clone() for i in range(2)}
    state["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(3)
    save(state, file)
    torch.testing.assert_close(logits(import_lm(path)), logits(made), rtol=0, atol=1e-5)
    for name in UNKNOWN:
        save({**state, f"transformer.h.0.{name}": torch.ones(54)}, file)
        with pytest.raises(CheckpointError, match=rf"no place for \(found transformer.h.0.{name}\)"):
            import_lm(path)
    for odd in (
        torch.ones(18, dtype=torch.int32),
        torch.ones(18).to(torch.float8_e4m3fn),
        torch.ones(0),
        torch.ones(1),
    ):
        save({**state, "transformer.ln_f.weight": odd}, file)
        with pytest.raises(CheckpointError, match=r"ln_f.weight: (is not a weight of a supported type|weight shape)"):
            import_lm(path)
    wrong = state["transformer.h.0.mlp.c_fc.weight"].t().contiguous()  # as nn.Linear has it, not Conv1D
    save({**state, "transformer.h.0.mlp.c_fc.weight": wrong}, file)
    with pytest.raises(CheckpointError, match=r"c_fc.weight: weight shape does not match .*\(18, 72\).*\(72, 18\)"):
        import_lm(path)


def test_bfloat16_and_float64(tmp_path):
    made = model(**GPT2)
    path = safetensors(tmp_path, made)
    state = load_file(path / "model.safetensors")
    for dtype in (torch.bfloat16, torch.float64, torch.float16):
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path / "model.safetensors")
        for name, tensor in import_lm(path).model.state_dict().items():
            assert torch.equal(tensor, made.state_dict()[name].to(dtype).float())


def test_shards_that_contradict_each_other_or_their_index(tmp_path):
    path = shards(tmp_path, made := model(**LLAMA))
    torch.testing.assert_close(logits(import_lm(path)), logits(made), rtol=0, atol=0)
    index = path / "model.safetensors.index.json"
    state, weight_map = load_file(path / "b.safetensors"), json.loads(index.read_text())["weight_map"]
    name = next(n for n, file in weight_map.items() if file == "a.safetensors")
    same = load_file(path / "a.safetensors")[name]
    save_file({**state, name: same.clone()}, path / "b.safetensors")
    import_lm(path)
    save_file({**state, name: same + 1}, path / "b.safetensors")
    with pytest.raises(CheckpointError, match=f"b.safetensors: {name}: is in two files, with different values"):
        import_lm(path)
    save_file(state, path / "b.safetensors")
    index.write_text(json.dumps({"weight_map": {**weight_map, "model.rotary_emb.inv_freq": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"lists a weight that its file does not have .found model.rotary_emb"):
        import_lm(path)
    index.write_text(json.dumps({"weight_map": {n: "a.safetensors" for n in weight_map}}))
    with pytest.raises(CheckpointError, match="lists a weight that its file does not have"):
        import_lm(path)
    index.write_text(json.dumps({"weight_map": {**weight_map, "x": "c.safetensors"}}))
    with pytest.raises(CheckpointError, match="names a file that is not in the same folder .*c.safetensors"):
        import_lm(path)


def test_a_mask_is_known_by_name_and_shape():
    assert is_known_buffer("h.0.attn.bias", torch.ones(1, 1, 4, 4)) and is_known_buffer(
        "h.0.attn.masked_bias", torch.ones(())
    )
    assert not is_known_buffer("h.0.attn.bias", torch.ones(12)) and not is_known_buffer(
        "h.0.attn.c_attn.bias", torch.ones(1, 1, 2, 2)
    )


def test_int8_scales_of_llama2c_that_are_not_finite(tmp_path):
    path = write_llama2c(tmp_path / "m.bin", model(**LLAMA), 2)
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()  # the last group's scale
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"not finite \(found 4 NaN"):
        import_lm(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["gpt2_nan", "nanogpt-no-bias", "llama_rope_both"])
def test_the_handed_models(tmp_path, shared_data, case):
    folder = shared_data.parent / "cases" / "import" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    if case == "gpt2_nan":
        with pytest.raises(CheckpointError, match="ln_f.weight: contains values that are not finite"):
            import_lm(folder)
        return
    imported = import_lm(folder)
    if case == "llama_rope_both":
        theirs = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = torch.arange(60)[None]
        with torch.no_grad():
            torch.testing.assert_close(imported.model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    assert imported.config.family == {"nanogpt-no-bias": "gpt2", "llama_rope_both": "llama"}[case]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consolidated.00.pth", "Meta's original format"),
        ("__0_0.distcp", "distributed checkpoints"),
        ("lit_model.pth", "LitGPT's format"),
        ("adapter_model.safetensors", "PEFT's format of adapters"),
        ("flax_model.msgpack", "Flax's format"),
        ("tf_model.h5", "TensorFlow's format"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, name, words):
    LM(model(**GPT2), None).save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / name)
    with pytest.raises(CheckpointError, match=f"{name}: is in .*{words}, which is not supported"):
        read_model(str(tmp_path / "m"))
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is in .*{words}, which is not supported"):
        read_model(str(tmp_path / "m"))


def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path):
    path, changed = safetensors(tmp_path, made := model(**GPT2)), model(**GPT2)
    with torch.no_grad():
        changed.norm.weight.mul_(2)
    other = write_hf_bin(tmp_path / "c", changed)
    (other / "pytorch_model.bin").rename(path / "pytorch_model.bin")
    for name, wanted in (("", made), ("model.safetensors", made), ("pytorch_model.bin", changed)):
        assert torch.equal(logits(import_lm(path / name)), logits(wanted))
    for name in ("model.safetensors", "pytorch_model.bin"):
        (path / f"old_{name}").write_bytes((path / name).read_bytes())
        with pytest.raises(CheckpointError, match=f"old_{name}: is not one of the files of weights"):
            import_lm(path / f"old_{name}")
