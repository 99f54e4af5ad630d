"""nanoGPT and Megatron-LM: export and import of unusual shapes, and unsupported models."""

import pickle

import pytest
import torch
from reference_files import import_lm, logits
from tiny_lm import TEXT, gpt, lm, tokenizer

from firstlight.convert import EXPORTERS, get_exporter, read_model
from firstlight.convert.nanogpt import read_meta
from firstlight.errors import CheckpointError, UsageError
from firstlight.lm import LM
from firstlight.stages.convert import import_

SHAPES = {
    "gpt2": {"n_layer": 2, "n_head": 3, "n_embd": 18, "d_ff": 50},
    "llama": {"n_layer": 3, "n_head": 6, "n_kv_head": 2, "n_embd": 20, "d_head": 6, "d_ff": 33},
    "modern": {"n_layer": 1, "n_head": 3, "n_kv_head": 1, "n_embd": 14, "d_head": 10, "d_ff": 40},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", SHAPES)
def test_megatron(tmp_path, family, tied):
    made = lm(family, "bpe", tie_embeddings=tied, **SHAPES[family])
    get_exporter("megatron").export(made, tmp_path)
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "release"
    found = import_lm(tmp_path)
    assert torch.equal(logits(found), logits(made))
    assert found.tokenizer.encode(TEXT) == made.tokenizer.encode(TEXT)
    assert found.config.mlp == made.config.mlp and found.config.tied is tied


def test_megatron_orders_qkv_by_query_group(tmp_path):
    """By hand: of two groups with two queries each and heads of two, the rows are q0 q1 k0 v0 q2 q3 k1 v1."""
    made = LM(gpt("llama", 9, n_layer=1, n_head=4, n_kv_head=2, n_embd=4, d_head=2), None)
    qkv = made.model.state_dict()["blocks.0.attention.qkv.weight"]
    get_exporter("megatron").export(made, tmp_path)
    held = torch.load(tmp_path / "release/mp_rank_00/model_optim_rng.pt", weights_only=False)["model"]
    q, k, v = qkv[:8], qkv[8:12], qkv[12:]
    wanted = torch.cat([q[0:4], k[0:2], v[0:2], q[4:8], k[2:4], v[2:4]])
    assert torch.equal(held["decoder.layers.0.self_attention.linear_qkv.weight"], wanted)


def test_megatron_exact_gelu(tmp_path):
    made = lm("gpt2", "byte", mlp="gelu", **SHAPES["gpt2"])
    get_exporter("megatron").export(made, tmp_path)
    assert import_lm(tmp_path).config.mlp == "gelu"


def test_weights_that_megatrons_model_has_no_place_for(tmp_path):
    get_exporter("megatron").export(lm("llama", "byte", **SHAPES["llama"]), tmp_path)
    file = tmp_path / "release" / "mp_rank_00" / "model_optim_rng.pt"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["model"]["decoder.layers.0.self_attention._extra_state"] = torch.zeros(1)
    torch.save(checkpoint, file)
    assert import_lm(tmp_path).config.n_layer == checkpoint["args"].num_layers
    checkpoint["args"].num_layers -= 1
    torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match="has weights that its model has no place for .*decoder.layers"):
        import_lm(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rotary_percent", 0.5),
        ("rotary_interleaved", True),
        ("use_rope_scaling", True),
        ("apply_layernorm_1p", True),
        ("num_experts", 8),
        ("normalization", "LayerNorm"),
        ("window_size", (128, 0)),
    ],
)
def test_arguments_of_megatron_that_change_the_computation_are_refused(tmp_path, key, value):
    get_exporter("megatron").export(lm("llama", "byte", **SHAPES["llama"]), tmp_path)
    file = tmp_path / "release" / "mp_rank_00" / "model_optim_rng.pt"
    checkpoint = torch.load(file, weights_only=False)
    setattr(checkpoint["args"], key, value)
    torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match=f"args.{key}: unsupported argument"):
        import_lm(tmp_path)


def test_a_head_of_megatron_that_is_not_its_tied_embedding(tmp_path):
    get_exporter("megatron").export(lm("llama", "byte", tie_embeddings=True, **SHAPES["llama"]), tmp_path)
    file = tmp_path / "release" / "mp_rank_00" / "model_optim_rng.pt"
    checkpoint = torch.load(file, weights_only=False)
    embedding = checkpoint["model"]["embedding.word_embeddings.weight"]
    for head, fits in ((embedding.clone(), True), (embedding + 1, False)):
        torch.save({**checkpoint, "model": {**checkpoint["model"], "output_layer.weight": head}}, file)
        if fits:
            import_lm(tmp_path)
        else:
            with pytest.raises(CheckpointError, match="a head that differs from the embedding"):
                import_lm(tmp_path)


def test_an_invalid_megatron_checkpoint(tmp_path):
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    for text in ("../../etc", "release", "iter", "7"):
        tracker.write_text(text)
        with pytest.raises(CheckpointError, match="does not name a checkpoint of one rank"):
            read_model(str(tmp_path))


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_nanogpt(tmp_path, kind):
    made = lm("gpt2", kind, mlp="gelu", n_layer=2, n_head=3, n_embd=18)
    files = get_exporter("nanogpt").export(made, tmp_path / "out" / "ckpt.pt")
    found = import_lm(tmp_path / "out" / "ckpt.pt")
    assert torch.equal(logits(found), logits(made))
    if kind == "byte":
        assert files.keys() == {"checkpoint"} and found.tokenizer is None
        return
    held = pickle.loads((tmp_path / "out" / "meta.pkl").read_bytes())
    decoded = "".join(held["itos"][held["stoi"][c]] for c in TEXT)  # as nanoGPT's sample.py does
    assert decoded == TEXT and held["vocab_size"] == made.config.vocab_size
    assert found.tokenizer.encode(TEXT) == made.tokenizer.encode(TEXT)
    assert read_meta(tmp_path / "out" / "meta.pkl").eot_id == made.tokenizer.eot_id


def test_nanogpt_export_to_a_folder(tmp_path):
    made = lm("gpt2", "char", mlp="gelu", n_layer=1, n_head=3, n_embd=18)
    files = get_exporter("nanogpt").export(made, tmp_path / "out")
    assert files["checkpoint"] == str(tmp_path / "out" / "ckpt.pt")
    assert torch.equal(logits(import_lm(tmp_path / "out")), logits(made))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ckpt.pt", "meta.pkl"]


def test_nanogpt_refuses_other_architectures(tmp_path):
    for shape, message in (
        ({"family": "modern"}, "family modern"),
        ({"family": "gpt2", "tie_embeddings": False}, "a head that is not tied"),
        ({"family": "gpt2", "d_ff": 50}, "MLP of width 50"),
    ):
        with pytest.raises(UsageError, match=message):
            get_exporter("nanogpt").export(lm(kind="byte", **shape), tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


def test_unknown_formats_and_data_types(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        get_exporter("onxx")
    with pytest.raises(UsageError, match="unsupported data type for GGUF.*q8_0"):
        get_exporter("gguf").check(tmp_path / "m", "q2")
    with pytest.raises(UsageError, match="only one"):
        get_exporter("megatron").check(tmp_path / "m", "f16")
    assert {"gguf", "onnx", "keras", "nanogpt", "megatron"} <= EXPORTERS.keys()


@pytest.mark.parametrize(("fused", "mlp"), [(True, "gelu_tanh"), (None, "gelu_tanh"), (False, "gelu")])
def test_the_fused_gelu_of_megatron_is_the_tanh_approximation(tmp_path, fused, mlp):
    get_exporter("megatron").export(lm("gpt2", "byte", mlp="gelu", **SHAPES["gpt2"]), tmp_path)
    file = tmp_path / "release" / "mp_rank_00" / "model_optim_rng.pt"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["args"].bias_gelu_fusion = fused
    if fused is None:  # Megatron's default
        del checkpoint["args"].bias_gelu_fusion
    torch.save(checkpoint, file)
    assert import_lm(tmp_path).config.mlp == mlp


def test_settings_that_a_format_rounds_or_lacks(tmp_path, caplog):
    with pytest.raises(UsageError, match="nanoGPT does not support layer norms with an epsilon of 0.01, only 1e-05"):
        get_exporter("nanogpt").export(lm("gpt2", "byte", norm_eps=0.01), tmp_path / "a" / "ckpt.pt")
    with pytest.raises(UsageError, match="whole numbers only for rotary_base .found rope_theta 1000.5"):
        get_exporter("megatron").export(lm("llama", "byte", rope_theta=1000.5, **SHAPES["llama"]), tmp_path / "b")
    with caplog.at_level("INFO"):
        get_exporter("nanogpt").export(lm("gpt2", "bpe", mlp="gelu"), tmp_path / "c" / "ckpt.pt")
    assert "nanoGPT has no file for a tokenizer of" in caplog.text


def test_tables_of_characters_that_differ(tmp_path):
    itos = dict(enumerate("abc"))
    meta = tmp_path / "meta.pkl"
    for stoi, fits in (({"a": 0, "b": 1, "c": 2}, True), ({}, True), ({"a": 2, "b": 1, "c": 0}, False)):
        meta.write_bytes(pickle.dumps({"vocab_size": 3, "itos": itos, "stoi": stoi}))
        if fits:
            assert read_meta(meta).encode("abc") == [0, 1, 2]
        else:
            with pytest.raises(CheckpointError, match="its tables stoi and itos differ .found 'a', ids 2 and 0"):
                read_meta(meta)


def test_a_tokenizer_with_far_fewer_tokens_than_the_model_is_said(tmp_path, caplog):
    made = LM(gpt("gpt2", 400), tokenizer("byte"))
    made.save(tmp_path / "a")
    import_(str(tmp_path / "a"), out=tmp_path / "b")
    assert "the model has 400 ids, its tokenizer 257: specify another" in caplog.text
