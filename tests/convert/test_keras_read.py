"""Models from Keras: exported by Firstlight, KerasHub's GPT-2, and damaged or malicious files."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from random_models import FAMILIES, lm

from firstlight.convert import get_exporter, get_importer
from firstlight.errors import CheckpointError, FirstlightError, MissingExtra, TokenizerError
from firstlight.lm import LM

V, T, C, H, F, L = 29, 19, 21, 3, 37, 2
# The names of KerasHub 0.32, part by part.
BLOCK = {
    "_self_attention_layer_norm": [(C,), (C,)],
    "_self_attention_layer/query_dense": [(C, H, C // H), (H, C // H)],
    "_self_attention_layer/key_dense": [(C, H, C // H), (H, C // H)],
    "_self_attention_layer/value_dense": [(C, H, C // H), (H, C // H)],
    "_self_attention_layer/output_dense": [(H, C // H, C), (C,)],
    "_feedforward_layer_norm": [(C,), (C,)],
    "_feedforward_intermediate_dense": [(C, F), (F,)],
    "_feedforward_output_dense": [(F, C), (C,)],
}
WHOLE = {"reversible_embedding": [(V, C)], "position_embedding": [(T, C)], "layer_normalization": [(C,), (C,)]}
PLACES = {f"layers/{part}": shapes for part, shapes in WHOLE.items()} | {
    f"layers/transformer_decoder{'' if i == 0 else f'_{i}'}/{part}": shapes
    for i in range(L)
    for part, shapes in BLOCK.items()
}
QUERY, NORM = "layers/transformer_decoder/_self_attention_layer/query_dense/vars/0", "layers/layer_normalization/vars/0"
SIZES = dict(
    vocabulary_size=V, num_layers=L, num_heads=H, hidden_dim=C, intermediate_dim=F, dropout=0.1, max_sequence_length=T
)
REAL = """
import sys
import keras, keras_hub, numpy as np
V, T, C, H, F, L = map(int, sys.argv[2:])
body = keras_hub.models.GPT2Backbone(V, L, H, C, F, max_sequence_length=T)
drawn = np.random.default_rng(0)
for weight in body.weights:
    weight.assign(drawn.normal(size=weight.shape) * 0.3 + (weight.name == "gamma"))
tokens = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", "\\u0120", "ab"]
words = keras_hub.models.GPT2Tokenizer(vocabulary={token: i for i, token in enumerate(tokens)}, merges=["a b"])
model = keras_hub.models.GPT2CausalLM(body, keras_hub.models.GPT2CausalLMPreprocessor(words, sequence_length=T))
model.save_to_preset(sys.argv[1] + "/preset")
model.save_weights(sys.argv[1] + "/all.weights.h5")
body.save_weights(sys.argv[1] + "/body.weights.h5")
model.save(sys.argv[1] + "/model.keras")
ids = drawn.integers(0, V, (2, T))
logits = keras.ops.convert_to_numpy(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
np.savez(sys.argv[1] + "/real.npz", ids=ids, logits=logits)
"""


def config(**sizes) -> str:
    return json.dumps({"class_name": "GPT2Backbone", "config": {**SIZES, **sizes}})


@pytest.fixture
def preset(tmp_path) -> Path:
    """A folder as KerasHub writes it."""
    drawn = np.random.default_rng(0)
    folder = tmp_path / "preset"
    (folder / "assets" / "tokenizer").mkdir(parents=True)
    with h5py.File(folder / "model.weights.h5", "w") as file:
        for place, shapes in PLACES.items():
            for i, shape in enumerate(shapes):
                file[f"{place}/vars/{i}"] = drawn.normal(size=shape).astype(np.float32)
    (folder / "config.json").write_text(config())
    tokens = ["<|endoftext|>", *map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ab"]
    words = folder / "assets" / "tokenizer"
    (words / "vocabulary.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (words / "merges.txt").write_text("#version: 0.2\na b\n")
    return folder


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        get_importer("keras").load(path).to_lm(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@torch.no_grad()
def logits(model: LM, ids) -> np.ndarray:
    return model.model(torch.as_tensor(ids)).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_files_round_trip_exactly(tmp_path, family):
    model = lm(family)
    get_exporter("keras").export(model, tmp_path / "m.keras")
    back = get_importer("keras").load(tmp_path / "m.keras").to_lm(tmp_path)
    left_out = {"init_std", "window"} if family != "gpt3" else {"init_std"}
    assert back.config.model_dump(exclude=left_out) == model.config.model_dump(exclude=left_out)
    ours, theirs = model.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert back.tokenizer.hash == model.tokenizer.hash


@pytest.mark.slow
def test_keras_hub_has_the_same_logits(tmp_path):
    if importlib.util.find_spec("keras_hub") is None:
        pytest.skip("keras_hub is not installed")
    settings = {**os.environ, "KERAS_BACKEND": "torch"}
    words = [sys.executable, "-c", REAL, str(tmp_path), *map(str, (V, T, C, H, F, L))]
    answer = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    (tmp_path / "config.json").write_bytes((tmp_path / "preset" / "config.json").read_bytes())
    real = np.load(tmp_path / "real.npz")
    for name in ("preset", "all.weights.h5", "body.weights.h5", "model.keras"):
        found = get_importer("keras").load(tmp_path / name)
        assert found.format == "KerasHub"
        assert abs(logits(found.to_lm(tmp_path), real["ids"]) - real["logits"]).max() < 1e-4
        if "." not in name or name.endswith(".keras"):
            assert found.tokenizer.encode("ab ba") == [V - 1, 27, 2, 1]


def test_a_preset(preset):
    found = get_importer("keras").load(preset)
    assert (found.format, found.config.family, found.config.block_size, found.config.d_ff) == ("KerasHub", "gpt2", T, F)
    assert found.tokenizer.encode("ab ba") == [V - 1, 27, 2, 1]
    weights = found.to_lm(preset).model
    with h5py.File(preset / "model.weights.h5") as file:
        query = file[QUERY][()]
        assert np.array_equal(weights.blocks[0].attention.qkv.weight[:C].detach().numpy(), query.reshape(C, C).T)
        assert np.array_equal(weights.norm.weight.detach().numpy(), file[NORM][()])
    (preset / "assets").rename(preset / "elsewhere")
    assert get_importer("keras").load(preset / "model.weights.h5").tokenizer is None


def test_half_precision(preset):
    with h5py.File(preset / "model.weights.h5", "a") as file:
        query, norm = file[QUERY][()], file[NORM][()]
        del file[QUERY], file[NORM]
        file[QUERY] = query.astype(np.float16)
        file[NORM] = torch.tensor(norm).bfloat16().view(torch.int16).numpy().view("V2")
    weights = get_importer("keras").load(preset).to_lm(preset).model
    assert torch.equal(weights.norm.weight, torch.tensor(norm).bfloat16().float())
    half = torch.from_numpy(query.astype(np.float16).astype(np.float32))
    assert torch.equal(weights.blocks[0].attention.qkv.weight[:C], half.reshape(C, C).t())


def test_packed_weights(preset):
    with h5py.File(preset / "model.weights.h5", "a") as file:
        query = file[QUERY][()]
        del file[QUERY]
        file.create_dataset(QUERY, data=query, compression="gzip", shuffle=True, fletcher32=True)
    assert get_importer("keras").load(preset).weights["transformer.h.0.attn.c_attn.weight"].shape == (C, 3 * C)


def _missing(file: h5py.File) -> None:
    del file[QUERY]


def _other_shape(file: h5py.File) -> None:
    del file[QUERY]
    file[QUERY] = np.zeros((C, C), np.float32)


def _not_finite(file: h5py.File) -> None:
    file[NORM][3] = np.nan


def _texts(file: h5py.File) -> None:
    del file[NORM]
    file[NORM] = ["a"] * C


def _integers(file: h5py.File) -> None:
    del file[NORM]
    file[NORM] = np.ones(C, np.int32)


def _elsewhere(file: h5py.File) -> None:
    del file[NORM]
    file[NORM] = h5py.ExternalLink("/etc/passwd", "x")


def _soft(file: h5py.File) -> None:
    del file["layers/layer_normalization"]
    file["layers/layer_normalization"] = h5py.SoftLink("/layers/layer_normalization")


def _outside(file: h5py.File) -> None:
    del file[NORM]
    file.create_dataset(NORM, (C,), np.float32, external=[("/etc/passwd", 0, 4 * C)])


def _virtual(file: h5py.File) -> None:
    del file[NORM]
    layout = h5py.VirtualLayout((C,), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (C,))
    file.create_virtual_dataset(NORM, layout)


def _never_written(file: h5py.File) -> None:
    del file[NORM]
    file.create_dataset(NORM, (C,), np.float32, chunks=(C,))


def _unknown_packing(file: h5py.File) -> None:
    del file[NORM]
    file.create_dataset(NORM, data=np.ones(C, np.float32), compression="lzf")


def _wide_chunks(file: h5py.File) -> None:
    del file[NORM]
    dataset = file.create_dataset(NORM, (C,), np.float32, chunks=(1 << 24,), maxshape=(None,), compression="gzip")
    dataset[:] = 1


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (_missing, r"missing weight .*query_dense/vars/0"),
        (_other_shape, r"wrong shape .*\(21, 21\)"),
        (_not_finite, "not finite"),
        (_texts, "not an array of floats"),
        (_integers, "not an array of floats"),
        (_elsewhere, "links are not followed"),
        (_soft, "links are not followed"),
        (_outside, "another file"),
        (_virtual, "another file"),
        (_never_written, "too large for the file"),
        (_unknown_packing, "unsupported compression"),
        (_wide_chunks, "too large for the file"),
    ],
)
def test_weights_that_are_none(preset, harm, match):
    with h5py.File(preset / "model.weights.h5", "a") as file:
        harm(file)
    refused(preset, match)


def test_a_file_that_unpacks_to_far_more_than_itself(preset):
    wide = 1 << 16
    with h5py.File(preset / "model.weights.h5", "a") as file:
        for name, shape in (("reversible_embedding", (V, wide)), ("position_embedding", (T, wide))):
            del file[f"layers/{name}/vars/0"]
            file.create_dataset(f"layers/{name}/vars/0", data=np.zeros(shape, np.float32), compression="gzip")
    (preset / "config.json").write_text(config(hidden_dim=wide, num_heads=1))
    refused(preset, "too large for the file")


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"num_layers": 10**12}, "fewer layers than in its config"),
        ({"num_layers": 3}, "fewer layers"),
        ({"num_layers": 1}, "more layers than its config"),
        ({"num_layers": -1}, "invalid model config"),
        ({"num_heads": 2}, "n_head=2"),
        ({"num_heads": 7}, "wrong shape"),
        ({"hidden_dim": 10**9}, "invalid model config|wrong shape"),
        ({"vocabulary_size": 10**15}, "wrong shape"),
        ({"max_sequence_length": 10**9}, "wrong shape"),
        ({"intermediate_dim": "many"}, "invalid model config"),
        ({"num_layers": None}, "invalid model config"),
    ],
)
def test_sizes_that_are_not_the_files(preset, sizes, match):
    (preset / "config.json").write_text(config(**sizes))
    refused(preset, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not a readable Keras model"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not a readable Keras model"),
        ('{"class_name": "GPT2Backbone"}', "unsupported model"),
        ('{"class_name": "BertBackbone"}', "unsupported model"),
        ('{"class_name": "GPT2CausalLM", "config": {}}', "not a readable Keras model"),
    ],
)
def test_a_config_that_is_none(preset, text, match):
    (preset / "config.json").write_text(text)
    refused(preset, match)


def test_files_that_are_not_there(preset):
    (preset / "config.json").unlink()
    refused(preset, "missing config.json")
    (preset / "config.json").write_text(config())
    (preset / "model.weights.h5").unlink()
    refused(preset, "not a readable Keras model: FileNotFoundError")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("vocabulary.json", '{"a": 0}'),
        ("vocabulary.json", '{"<|endoftext|>": 1}'),
        ("merges.txt", "a\n"),
        ("merges.txt", "a c\n"),
    ],
)
def test_words_that_contradict_themselves(preset, file, text):
    (preset / "assets" / "tokenizer" / file).write_text(text)
    with pytest.raises(TokenizerError):
        get_importer("keras").load(preset)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "m.keras"
    get_exporter("keras").export(lm("modern"), path)
    return path


def packed(path: Path, archive: Path, method: int = zipfile.ZIP_STORED, **changed: bytes | None) -> Path:
    """Write the archive again, with some members changed, added or left out."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", method) as new:
        members = {name: old.read(name) for name in old.namelist()} | changed
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return path


def test_an_archive_that_was_packed_again(tmp_path, archive):
    evil = {"../../evil": b"x", "/evil": b"x", "firstlight/../../evil": b"x"}
    path = packed(tmp_path / "m.keras", archive, zipfile.ZIP_DEFLATED, **evil)
    assert get_importer("keras").load(path).config.family == "modern"
    assert not list(tmp_path.rglob("evil")) and not (tmp_path.parent / "evil").exists()


def test_archives_that_are_damaged(tmp_path, archive):
    config_json, weights = "firstlight/config.json", "model.weights.h5"
    bad = tmp_path / "m.keras"
    refused(packed(bad, archive, **{config_json: None}), "has no config of Firstlight")
    refused(packed(bad, archive, **{config_json: b"{}"}), "unsupported model type")
    refused(packed(bad, archive, **{weights: None}), "not a readable Keras model")
    refused(packed(bad, archive, zipfile.ZIP_LZMA), "unsupported compression")
    bomb = packed(bad, archive, zipfile.ZIP_DEFLATED, **{weights: bytes(1 << 24)})
    refused(bomb, "too large for the file")
    table = json.loads(zipfile.ZipFile(archive).read(config_json))
    for key, value in {"head_dim": 10**6, "max_position_embeddings": 10**6, "num_hidden_layers": 10**9}.items():
        text = json.dumps({**table, key: value}).encode()
        refused(packed(bad, archive, **{config_json: text}), "rotary tables|fewer layers")


def test_damage_anywhere_is_one_line(tmp_path, preset):
    whole, chance = (preset / "model.weights.h5").read_bytes(), random.Random(0)
    for turn in range(40):
        data = bytearray(whole)
        if turn % 4 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(1 + turn % 3):
            at = chance.randrange(len(data) or 1)
            data[at : at + 1] = bytes([chance.randrange(256)])
        (preset / "model.weights.h5").write_bytes(data)
        try:
            get_importer("keras").load(preset).to_lm(preset)
        except FirstlightError as error:
            assert "\n" not in str(error)


def test_without_the_library(preset, monkeypatch):
    monkeypatch.delitem(sys.modules, "firstlight.convert.keras.hdf5_file", raising=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"pip install .*keras"):
        get_importer("keras").load(preset)
