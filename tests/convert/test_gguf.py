"""GGUF: round trips, comparison with the gguf package and transformers, every quantized type, unsupported files."""

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from reference_files import V, import_lm, logits
from tiny_lm import TEXT, gpt, lm, tokenizer

from firstlight.convert import get_exporter
from firstlight.convert.gguf.file import GGUFFile
from firstlight.errors import CheckpointError, FirstlightError, UsageError
from firstlight.lm import LM
from firstlight.tokenizer import VocabTable, build_byte_level_bpe

FAMILIES = ("gpt2", "llama", "modern")
SHAPES = {
    "gpt2": {"n_layer": 2, "n_head": 3, "n_embd": 36, "d_ff": 70},
    "llama": {"n_layer": 2, "n_head": 6, "n_kv_head": 2, "n_embd": 20, "d_head": 6, "d_ff": 33},
    "modern": {"n_layer": 1, "n_head": 3, "n_kv_head": 1, "n_embd": 36, "d_head": 10, "d_ff": 40},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(tmp_path, family, tied):
    made = lm(family, "bpe", tie_embeddings=tied, **SHAPES[family])
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    found = import_lm(tmp_path / "m.gguf")
    assert torch.equal(logits(found), logits(made))
    assert found.tokenizer.hash == made.tokenizer.hash
    assert found.config.tied is tied and found.config.complete(300).defaults == made.config.defaults


@pytest.mark.parametrize("scaling", [{"factor": 4.0}, {"factor": 8.0, "original": 1024}])
def test_rope_scaling_round_trip(tmp_path, scaling):
    made = lm("llama", "bpe", block_size=2048, rope_scaling=scaling, d_head=32, rope_theta=500.0)
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    assert import_lm(tmp_path / "m.gguf").config.rope_scaling == made.config.rope_scaling


@pytest.mark.parametrize(("kind", "step"), [("f16", 2**-11), ("q8_0", 1 / 254)])
def test_quantization_error(tmp_path, kind, step):
    made = lm("modern", "bpe", n_embd=64, n_head=2, n_kv_head=1, d_ff=64)
    get_exporter("gguf").export(made, tmp_path / "m.gguf", kind)
    for name, tensor in import_lm(tmp_path / "m.gguf").model.state_dict().items():
        exact = made.model.state_dict()[name]
        assert (tensor - exact).abs().max() <= step * exact.abs().max() * 1.01, name
    sizes = {d: (tmp_path / f"{d}.gguf") for d in ("f32", "f16", "q8_0")}
    for d, path in sizes.items():
        get_exporter("gguf").export(made, path, d)
    assert sizes["q8_0"].stat().st_size < sizes["f16"].stat().st_size < sizes["f32"].stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_file(tmp_path, family, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # It knows no width of heads but n_embd / n_head in a llama, 128 in a qwen3, and 1,024 positions in a gpt2.
    fitting = {
        "gpt2": {"d_ff": 144, "block_size": 1024},
        "llama": {"n_embd": 24, "d_head": 4},
        "modern": {"d_head": 128},
    }[family]
    made = lm(family, "bpe", **SHAPES[family] | fitting)
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(made.model(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_the_gguf_package_reads_the_same(tmp_path):
    made = lm("llama", "bpe", **SHAPES["llama"])
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    theirs, ours = GGUFReader(tmp_path / "m.gguf"), GGUFFile(tmp_path / "m.gguf")
    for tensor in theirs.tensors:
        assert np.array_equal(dequantize(tensor.data, tensor.tensor_type).ravel(), ours.tensor(tensor.name).ravel())
    for key, value in ours.metadata.items():
        found = theirs.fields[key].contents()
        assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value, key


QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16", "IQ4_XS"]


@pytest.mark.parametrize("name", QUANTISED)
def test_every_quantized_type_is_dequantized(tmp_path, name):
    """Random bytes are weights in any of these types, but for scales that are no finite halves."""
    kind, rng = Kind[name], np.random.default_rng(0)
    shape = (3, 512)
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    stored = rng.integers(0, 64, (shape[0], shape[1] // block * size), dtype=np.uint8)  # halves above 0 and below 2
    writing = GGUFWriter(tmp_path / "x.gguf", "llama")
    writing.add_tensor("x", stored, raw_dtype=kind)
    for step in (writing.write_header_to_file, writing.write_kv_data_to_file, writing.write_tensors_to_file):
        step()
    writing.close()
    wanted = dequantize(stored, kind)
    assert wanted.shape == shape and np.isfinite(wanted).all() and wanted.std() > 0
    assert np.array_equal(GGUFFile(tmp_path / "x.gguf").tensor("x"), wanted)


def file_with(path, **changed) -> None:
    """A llama of one layer by gguf's own writer, with keys changed or left out."""
    values = {
        "llama.block_count": 1,
        "llama.context_length": 16,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 12,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **changed,
    }
    writing = GGUFWriter(path, changed.get("general.architecture", "llama"))
    for key, value in values.items():
        if isinstance(value, bool):
            writing.add_bool(key, value)
        elif isinstance(value, int):
            writing.add_uint64(key, value)
        elif isinstance(value, float):
            writing.add_float32(key, value)
        elif isinstance(value, str) and key != "general.architecture":
            writing.add_string(key, value)
        elif isinstance(value, list):
            writing.add_array(key, value)
    rng = np.random.default_rng(1)
    shapes = {
        "token_embd.weight": (V, 8),
        "output_norm.weight": (8,),
        "blk.0.attn_norm.weight": (8,),
        "blk.0.attn_q.weight": (8, 8),
        "blk.0.attn_k.weight": (8, 8),
        "blk.0.attn_v.weight": (8, 8),
        "blk.0.attn_output.weight": (8, 8),
        "blk.0.ffn_norm.weight": (8,),
        "blk.0.ffn_gate.weight": (12, 8),
        "blk.0.ffn_up.weight": (12, 8),
        "blk.0.ffn_down.weight": (8, 12),
        **({"rope_freqs.weight": (2,)} if changed.get("freqs") else {}),
        **changed.get("extra", {}),
    }
    for name, shape in shapes.items():
        if name != changed.get("without"):
            writing.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    for step in (writing.write_header_to_file, writing.write_kv_data_to_file, writing.write_tensors_to_file):
        step()
    writing.close()


def test_optional_keys(tmp_path):
    file_with(tmp_path / "m.gguf")
    made = import_lm(tmp_path / "m.gguf")
    assert (made.config.kv_heads, made.config.head_dim, made.config.rope_theta) == (2, 4, 10_000)
    assert made.tokenizer is None and torch.isfinite(logits(made)).all()


WRONG = {
    "another architecture": ({"general.architecture": "mamba"}, "unsupported architecture.*mamba"),
    "layers beyond the file": ({"llama.block_count": 10**12}, "fewer weights"),
    "positions beyond reason": ({"llama.context_length": 10**12}, "too many positions"),
    "width unlike the tensors": ({"llama.embedding_length": 16}, "shape does not match"),
    "heads that do not divide": ({"llama.attention.head_count": 3}, "invalid model config"),
    "a text for a number": ({"llama.feed_forward_length": "many"}, "invalid model config.*d_ff"),
    "scaled positions": ({"llama.rope.scaling.type": "yarn"}, "unsupported RoPE scaling"),
    "positions by another table": ({"freqs": True}, "unsupported RoPE scaling: its table"),
    "a tensor that lacks": ({"without": "blk.0.ffn_up.weight"}, "missing.*up_proj"),
    "fewer layers than the file has": (
        {"extra": {"blk.1.attn_q.weight": (8, 8)}},
        "no place for .*blk.1.attn_q.weight",
    ),
    "one of several files": ({"split.count": 2}, "is one of several files of a model.*llama-gguf-split --merge"),
    "another tokenizer": (
        {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "bert"},
        "unsupported tokenizer model",
    ),
    "another cut": (
        {
            "tokenizer.ggml.tokens": ["a"],
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "x",
            "tokenizer.ggml.eos_token_id": 0,
        },
        "unsupported pre-tokenizer",
    ),
    "no end of text": ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "gpt2"}, "no end-of-text token"),
    "end of text outside": (
        {
            "tokenizer.ggml.tokens": ["a"],
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.eos_token_id": 9,
        },
        "end-of-text id is outside",
    ),
    "a token twice": (
        {
            "tokenizer.ggml.tokens": ["a", "a"],
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.eos_token_id": 0,
        },
        "duplicate",
    ),
    "a merge of nothing": (
        {
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.eos_token_id": 0,
            "tokenizer.ggml.merges": ["a b"],
        },
        "merge that is not in the vocabulary",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_unsupported_files(tmp_path, name):
    changed, message = WRONG[name]
    file_with(tmp_path / "m.gguf", **changed)
    with pytest.raises(FirstlightError, match=message) as caught:
        import_lm(tmp_path / "m.gguf")
    assert "m.gguf" in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_share_their_bytes_are_refused(tmp_path):
    file_with(tmp_path / "m.gguf", extra={f"blk.{i}.attn_q.weight": (4096, 8) for i in range(1, 9)})
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: -8 * 4096 * 8 * 4 + 1000])  # each of them is small enough
    with pytest.raises(FirstlightError, match="its tensors are larger than the file"):
        import_lm(tmp_path / "m.gguf")


def test_truncated_files(tmp_path):
    file_with(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    for end in range(5, len(whole) - 1, 97):
        (tmp_path / "cut.gguf").write_bytes(whole[:end])
        with pytest.raises(FirstlightError, match="truncated|missing|damaged"):
            import_lm(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        ("gpt1", "bpe", "no model of the family gpt1"),
        ("gpt3", "bpe", "no model of the family gpt3"),
        ("modern", "char", "only byte-level BPE"),
        ("modern", "word", "only byte-level BPE"),
    ],
)
def test_unsupported_models(tmp_path, family, kind, message):
    with pytest.raises(UsageError, match=message):
        get_exporter("gguf").export(lm(family, kind), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_exact_gelu_and_unknown_pre_tokenizers_are_refused(tmp_path):
    with pytest.raises(UsageError, match="tanh"):
        get_exporter("gguf").export(lm("gpt2", "bpe", mlp="gelu"), tmp_path / "m.gguf")
    letters = [chr(c) for c in range(33, 127)]
    odd = build_byte_level_bpe(VocabTable([*letters, "Ġ", "<|endoftext|>", "ab"], 95), [("a", "b")], [r"\d|\D"])
    with pytest.raises(UsageError, match="does not support the pre-tokenizer"):
        get_exporter("gguf").export(LM(gpt("llama", 97), odd), tmp_path / "m.gguf")


def test_models_with_a_padded_vocabulary(tmp_path):
    words = tokenizer("bpe")
    made = LM(gpt("llama", words.vocab_size + 6), words)
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    found = import_lm(tmp_path / "m.gguf")
    assert found.config.vocab_size == words.vocab_size + 6
    assert found.tokenizer.encode(TEXT) == words.encode(TEXT)


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_special_tokens_in_text_are_encoded_as_text(tmp_path, kind):
    made = lm("gpt2", kind)
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    again = import_lm(tmp_path / "m.gguf").tokenizer
    for text in (TEXT, "<|endoftext|>", " a  b\n\n\tc", "ééé 你好 😀"):
        assert again.encode(text) == made.tokenizer.encode(text) and again.decode(again.encode(text)) == text
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        (tmp_path / "x").write_bytes(b"GGUX" + bytes(100))
        GGUFFile(tmp_path / "x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", 4),
        ("attention.causal", False),
        ("rope.dimension_count", 4),
        ("attention.value_length", 4),
        ("rope.scale_linear", 2.0),
        ("logit_scale", 0.5),
        ("expert_count", 8),
    ],
)
def test_keys_that_change_the_computation_are_refused(tmp_path, key, value, monkeypatch):
    get_exporter("gguf").export(lm("llama", "bpe", **SHAPES["llama"]), tmp_path / "m.gguf")
    read = GGUFFile.__init__

    def changed(self: GGUFFile, path: object) -> None:
        read(self, path)
        self.metadata[f"llama.{key}"] = value

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    with pytest.raises(CheckpointError, match=f"unsupported .*{key}|{key}: unsupported"):
        import_lm(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"factor": 4.0}, {"factor": 4.0}),
        ({"type": "linear", "factor": 4.0}, {"factor": 4.0}),
        ({"type": "none", "factor": 4.0}, None),
        ({"type": "linear"}, None),
        ({"factor": 0.0}, None),
    ],
)
def test_a_factor_without_a_type_scales_linearly_as_in_llama_cpp(tmp_path, values, wanted, monkeypatch):
    get_exporter("gguf").export(lm("llama", "bpe", **SHAPES["llama"]), tmp_path / "m.gguf")
    read = GGUFFile.__init__

    def changed(self: GGUFFile, path: object) -> None:
        read(self, path)
        self.metadata |= {f"llama.rope.scaling.{key}": value for key, value in values.items()}

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    found = import_lm(tmp_path / "m.gguf").config.rope_scaling
    assert (None if found is None else found.model_dump(exclude_defaults=True, exclude_none=True)) == wanted


def test_a_factor_and_a_table_of_factors_are_refused(tmp_path, monkeypatch):
    scaling = {"factor": 8.0, "original": 1024}
    made = lm("llama", "bpe", block_size=2048, rope_scaling=scaling, d_head=32, rope_theta=500.0)
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    read = GGUFFile.__init__

    def changed(self: GGUFFile, path: object) -> None:
        read(self, path)
        self.metadata["llama.rope.scaling.factor"] = 8.0

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    with pytest.raises(CheckpointError, match="unsupported RoPE scaling: a factor and a table of factors"):
        import_lm(tmp_path / "m.gguf")


@pytest.mark.parametrize("key", ["merges", "add_eos_token"])
def test_keys_of_the_tokenizer_that_are_not_there_or_dropped(tmp_path, key, monkeypatch, caplog):
    get_exporter("gguf").export(lm("llama", "bpe", **SHAPES["llama"]), tmp_path / "m.gguf")
    read = GGUFFile.__init__

    def changed(self: GGUFFile, path: object) -> None:
        read(self, path)
        if key == "merges":
            del self.metadata["tokenizer.ggml.merges"]
        else:
            self.metadata["tokenizer.ggml.add_eos_token"] = True

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    if key == "merges":
        with pytest.raises(CheckpointError, match="has no merges of its tokens"):
            import_lm(tmp_path / "m.gguf")
    else:
        with caplog.at_level("INFO"):
            import_lm(tmp_path / "m.gguf")
        assert "add_eos_token is dropped" in caplog.text
