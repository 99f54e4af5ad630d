import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import FAMILIES, TEXT, gpt, lm, tokenizer

from firstlight import progress
from firstlight.errors import CheckpointError, FirstlightError, StorageError, TokenizerError
from firstlight.files import write_manifest
from firstlight.lm import CARD, LM, GenerateSettings, load
from firstlight.model import GPT

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def saved(tmp_path) -> Path:
    lm("gpt2", "byte").save(tmp_path / "m")
    return tmp_path / "m"


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def shards(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index."""
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    where = {name: f"model-{1 + (i > len(names) // 2)}-of-2.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: state[n].clone() for n in names if where[n] == file}, folder / file)
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return where


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_read_bit_for_bit(tmp_path, family):
    model = lm(family, "bpe")
    model.save(tmp_path, {"run": "a | b\nc"})
    back = LM.load_fp32(tmp_path)
    assert back.config == model.config.model_copy(
        update={"init_std": back.config.init_std, "window": back.config.window if family != "gpt3" else 5}
    )
    ours, theirs = model.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for (name, a), (_, b) in zip(model.model.named_buffers(), back.model.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert back.tokenizer.hash == model.tokenizer.hash
    assert back.source == tmp_path
    assert not back.model.training
    assert all(p.requires_grad for p in back.model.parameters())
    back.save(tmp_path / "again", {"run": "a | b\nc"})
    for file in tmp_path.iterdir():
        if file.is_file() and (family in ("llama", "modern") or file.name != "config.json"):
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_no_first_weights_are_drawn_and_random_numbers_stay(saved, monkeypatch):
    before = torch.get_rng_state()
    LM.load_fp32(saved)
    assert torch.get_rng_state().equal(before)
    GPT(lm("gpt2", "byte").config)
    assert not torch.get_rng_state().equal(before), "building a model draws, outside of reading"


def test_a_model_may_be_saved_where_it_was_loaded_from(saved):
    model = LM.load_fp32(saved)
    wanted = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    model.save(saved)
    gone = LM.load_fp32(saved)
    shutil.rmtree(saved)
    for name, tensor in wanted.items():
        assert torch.equal(model.model.state_dict()[name], tensor)
        assert torch.equal(gone.model.state_dict()[name], tensor)


def test_weights_in_use_are_never_changed_on_the_disk(saved):
    before = (saved / WEIGHTS).read_bytes()
    model = LM.load_fp32(saved)
    with torch.no_grad():
        for p in model.model.parameters():
            p.add_(1)
    assert (saved / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types_are_read_as_fp32(saved, dtype):
    wanted = LM.load_fp32(saved).model.state_dict()
    state = {name: tensor.to(dtype) for name, tensor in load_file(saved / WEIGHTS).items()}
    save_file(state, saved / WEIGHTS)
    for name, tensor in LM.load_fp32(saved).model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name].to(dtype).float()), name


def test_shards_are_read(saved):
    wanted = LM.load_fp32(saved).model.state_dict()
    assert len(set(shards(saved).values())) == 2
    for name, tensor in LM.load_fp32(saved).model.state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_masks_of_old_checkpoints_are_passed_over(saved):
    state = load_file(saved / WEIGHTS)
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    state["h.1.attn.attention.bias"] = torch.ones(1, 1, 8, 8)
    state["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    state["score.weight"] = torch.ones(2, 24)
    save_file(state, saved / WEIGHTS)
    assert LM.load_fp32(saved).generate("a")


def _drop(folder: Path, name: str) -> None:
    state = load_file(folder / WEIGHTS)
    state.pop(name)
    save_file(state, folder / WEIGHTS)


def _add(folder: Path, name: str, tensor: torch.Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), name: tensor}, folder / WEIGHTS)


def _outside(folder: Path, name: str) -> None:
    save_file(load_file(folder / WEIGHTS), folder.parent / "outside.safetensors")
    where = shards(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**where, "x": name}}))


def _flip(folder: Path) -> None:
    write_manifest(folder)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-20] ^= 1
    (folder / WEIGHTS).write_bytes(data)


HARM = {
    "no config": (lambda f: (f / "config.json").unlink(), "not a model"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{'a': 1}"), "config.json: is not valid JSON"),
    "config is no UTF-8": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"),
        "config.json: is not UTF-8: .* at byte 0",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
    "config nests deep": (
        lambda f: (f / "config.json").write_text("[" * 200_000),
        "config.json: is not valid JSON: nested too deeply",
    ),
    "a number too long": (
        lambda f: (f / "config.json").write_text('{"n_layer": %s}' % ("9" * 5000)),
        "config.json: is not valid JSON: a number has too many digits",
    ),
    "a number of 400 digits": (
        lambda f: change(f / "config.json", n_layer=10**400),
        "m: has fewer weights than layers",
    ),
    "a width of 400 digits": (
        lambda f: change(f / "config.json", n_embd=10**400, n_head=10**400),
        "fewer weights than",
    ),
    "many positions": (lambda f: change(f / "config.json", n_positions=10**12), "wpe.*shape does not match"),
    "many heads": (lambda f: change(f / "config.json", n_embd=10**9, n_head=10**9), "fewer weights than config.json"),
    "another kind": (lambda f: change(f / "config.json", model_type="bert"), "unsupported model type .*'bert'.*gpt2"),
    "no kind": (lambda f: (f / "config.json").write_text("{}"), "unsupported model type"),
    "lacks a key": (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "missing key .*n_layer"),
    "text for a number": (lambda f: change(f / "config.json", n_layer="three"), "invalid configuration: n_layer"),
    "null for a number": (lambda f: change(f / "config.json", n_embd=None), "invalid configuration"),
    "a negative size": (lambda f: change(f / "config.json", n_layer=-1), "invalid configuration: n_layer"),
    "sizes that do not fit": (lambda f: change(f / "config.json", n_head=5), "not a multiple of n_head=5"),
    "a feature": (lambda f: change(f / "config.json", activation_function="relu"), "activation_function: unsupported"),
    "quantised": (lambda f: change(f / "config.json", quantization_config={"bits": 4}), "quantised"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors: unreadable"),
    "cut weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-99]),
        "model.safetensors: unreadable",
    ),
    "a pickle": (lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04" + b"x" * 500), "model.safetensors: unreadable"),
    "a folder for weights": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "no weights"),
    "a missing weight": (
        lambda f: _drop(f, "transformer.h.1.mlp.c_fc.weight"),
        "m: transformer.h.1.mlp.c_fc.weight: missing weight",
    ),
    "another shape": (
        lambda f: change(f / "config.json", n_inner=7),
        r"mlp.c_fc.weight: .*shape does not match .*\(96, 24\).*\(7, 24\)",
    ),
    "another vocabulary": (
        lambda f: change(f / "config.json", vocab_size=300),
        r"wte.*shape does not match .*\(257, 24\).*\(300, 24\)",
    ),
    "more layers": (lambda f: change(f / "config.json", n_layer=4), "transformer.h.3.*missing weight"),
    "fewer layers": (
        lambda f: change(f / "config.json", n_layer=2),
        r"m: has weights of more layers than config.json \(found 3 layers; expected 2\). Correct the number of layers",
    ),
    "surplus weights": (
        lambda f: _add(f, "transformer.h.0.attn.c_attn.lora_A", torch.ones(2, 2)),
        r"no place for \(found transformer.h.0.attn.c_attn.lora_A\). Correct config.json, or remove",
    ),
    "packed weights": (
        lambda f: _add(f, "transformer.h.0.attn.c_attn.qweight", torch.ones(2, 2, dtype=torch.int32)),
        "c_attn.qweight: is not a weight of a supported type .found int32",
    ),
    "an index that is no JSON": (lambda f: (shards(f), (f / INDEX).write_text("{")), "index.json: is not valid JSON"),
    "an index that nests deep": (
        lambda f: (shards(f), (f / INDEX).write_text("[" * 200_000)),
        "index.json: is not valid JSON: nested too deeply",
    ),
    "an index without a map": (lambda f: (shards(f), (f / INDEX).write_text("{}")), "index.json: not an index"),
    "an index of numbers": (lambda f: (shards(f), (f / INDEX).write_text('{"weight_map": {"a": 1}}')), "not an index"),
    "an index of lists": (lambda f: (shards(f), (f / INDEX).write_text('{"weight_map": [1]}')), "not an index"),
    "a shard is missing": (lambda f: (f / shards(f)["transformer.wte.weight"]).unlink(), "same folder .*model-2-of-2"),
    "a shard above": (lambda f: _outside(f, "../outside.safetensors"), r"not in the same folder \(found ../outside"),
    "a shard elsewhere": (lambda f: _outside(f, str(f.parent / "outside.safetensors")), "not in the same folder"),
    "a shard by backslash": (lambda f: _outside(f, "..\\outside.safetensors"), "not in the same folder"),
    "a flipped bit": (_flip, "model.safetensors: does not match the SHA-256.*another checkpoint"),
    "a changed config": (
        lambda f: (write_manifest(f), change(f / "generation_config.json", eos_token_id=1)),
        "generation_config.json: .*by the manifest",
    ),
    "a file of the manifest is gone": (lambda f: (write_manifest(f), (f / CARD).unlink()), "README.md: missing"),
}


@pytest.mark.parametrize("case", HARM)
def test_what_is_damaged_is_one_clear_error(saved, case):
    harm, words = HARM[case]
    harm(saved)
    with pytest.raises(FirstlightError, match=words) as caught:
        LM.load_fp32(saved)
    assert isinstance(caught.value, CheckpointError) or case == "no config"
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_one_clear_error(saved, text):
    (saved / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: is not a readable"):
        LM.load_fp32(saved)


def test_a_tokenizer_without_end_of_text_is_given_one(saved):
    table = json.loads((saved / "tokenizer.json").read_text())
    table["added_tokens"] = []
    (saved / "tokenizer.json").write_text(json.dumps(table))
    (saved / "tokenizer_config.json").unlink()
    told: list[progress.Event] = []
    with progress.listen(told.append):
        model = LM.load_fp32(saved)
    assert model.tokenizer.eot_id == 256
    assert any("end-of-text" in event.text for event in told)
    assert model.generate("", GenerateSettings(max_new_tokens=3))[0].text is not None


def test_a_tokenizer_with_more_tokens_than_the_model_warns(tmp_path):
    LM(gpt("gpt2", 250), tokenizer("byte")).save(tmp_path)
    told: list[progress.Event] = []
    with progress.listen(told.append):
        model = LM.load_fp32(tmp_path)
    warned = [event.text for event in told if event.level == "warning"]
    assert len(warned) == 1
    assert "257 tokens, the model 250" in warned[0]
    assert model.start_id == ord("\n")


def test_a_model_without_tokenizer_is_read(tmp_path):
    LM(gpt("llama", 50), None).save(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    back = LM.load_fp32(tmp_path)
    assert back.tokenizer is None
    assert back.eos_ids == frozenset()
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [(7, 9, {7}), ([7, 8], 9, {7, 8}), (None, 9, {9}), (0, 9, {0}), (None, None, set())],
)
def test_texts_end_where_transformers_ends_them(saved, generation, config, wanted):
    change(saved / "generation_config.json", eos_token_id=generation)
    change(saved / "config.json", eos_token_id=config)
    assert LM.load_fp32(saved).eos_ids == wanted | {256}
    (saved / "generation_config.json").unlink()
    assert LM.load_fp32(saved).eos_ids == ({config} if config else set()) | {256}


def test_load_moves_and_casts_and_at_keeps(saved, monkeypatch):
    threads = torch.get_num_threads()
    half = LM.load(saved, device="cpu", precision="bf16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.device_context.precision == "bf16"
    assert half.generate("a", GenerateSettings(max_new_tokens=3))
    full = LM.load(saved, device="cpu")
    assert {p.dtype for p in full.model.parameters()} == {torch.float32}
    kept = LM.load_fp32(saved).to(half.device_context)
    assert {p.dtype for p in kept.model.parameters()} == {torch.float32}
    assert kept.device_context is half.device_context
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", ["llama", "modern"])
def test_angles_of_positions_stay_exact_in_half_precision(tmp_path, family):
    lm(family, "byte").save(tmp_path)
    full, half = LM.load_fp32(tmp_path), LM.load_fp32(tmp_path)
    load.cast_parameters(half.model, torch.bfloat16)
    for (name, a), (_, b) in zip(full.model.named_buffers(), half.model.named_buffers(), strict=True):
        assert b.dtype == torch.float32, name
        assert torch.equal(a, b)


def test_the_card_tells_what_the_model_is(saved, tmp_path):
    lm("modern", "bpe").save(tmp_path / "b", {"run": "a|b\nc", "valid loss": 1.5})
    card = (tmp_path / "b" / CARD).read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "| family | modern (Qwen3ForCausalLM) |",
        "| tokenizer | bpe, 300 tokens |",
        "| run | a\\|b c |",
        "| valid loss | 1.5 |",
        "| shape | 3 layers, 4 heads, width 16, block size 32 |",
    ):
        assert line in card.splitlines()
    model = LM.load_fp32(tmp_path / "b").model
    assert f"| parameters | {sum(p.numel() for p in model.parameters()):,} (" in card


def test_a_model_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        lm("gpt2", "byte").save(tmp_path / "file")
    with pytest.raises(StorageError, match="file"):
        lm("gpt2", "byte").save(tmp_path / "file" / "below")
    assert not list(tmp_path.glob("**/.firstlight-*"))


def test_a_disk_that_is_full_leaves_what_was_there(saved, monkeypatch):
    from firstlight.lm import save

    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    real = save.save_file

    def half(tensors, path, metadata):
        real(tensors, path, metadata)
        path.write_bytes(path.read_bytes()[:100])
        raise save.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(save, "save_file", half)
    with pytest.raises(StorageError, match="no space left on the disk.*Free some space"):
        lm("modern", "byte").save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


@pytest.mark.data
def test_the_files_of_gpt2s_own_tokenizer_are_read(shared_data, tmp_path):
    source = next((shared_data / "tokenizers").rglob("vocab.bpe"), None)
    if source is None:
        pytest.skip("no GPT-2 tokenizer")
    LM(gpt("gpt2", 50_257, n_layer=1), None).save(tmp_path)
    shutil.copy(source, tmp_path / "merges.txt")
    shutil.copy(source.with_name("encoder.json"), tmp_path / "vocab.json")
    model = LM.load_fp32(tmp_path)
    assert model.encode("Hello world") == [15496, 995]
    assert model.tokenizer.decode(model.encode(TEXT)) == TEXT
    assert model.generate("Hello", GenerateSettings(max_new_tokens=2, temperature=0))[0].ids
