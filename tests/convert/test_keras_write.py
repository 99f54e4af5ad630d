"""The .keras file, as Keras runs it on each backend."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import BLOCK, FAMILIES, lm, text

from firstlight.convert import get_exporter, get_importer
from firstlight.convert.keras.write import import_keras
from firstlight.errors import MissingExtra, UsageError
from firstlight.lm import LM

SIZES = [(3, BLOCK), (1, 1), (2, 7)]
# Without a line of ours: each file against the logits beside it.
CODE = """
import sys
import keras, numpy as np
for path in sys.argv[2:]:
    model = keras.models.load_model(path, safe_mode=True)
    assert keras.backend.backend() == sys.argv[1]
    held = np.load(path + ".npz")
    for n in range(len(held) // 2):
        found = model.predict_on_batch(held[f"ids{n}"])
        worst = abs(found - held[f"logits{n}"]).max()
        assert worst <= 1e-4, (path, n, worst)
assert not any(name.startswith("firstlight") for name in sys.modules)
"""


@torch.no_grad()
def expected(model: LM, ids: torch.Tensor) -> torch.Tensor:
    return model.model(ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keras")
    made = {family: folder / f"{family}.keras" for family in FAMILIES}
    for family, path in made.items():
        assert get_exporter("keras").export(lm(family), path) == {"model": str(path)}
    return made


def load(path: Path):
    return import_keras().models.load_model(path, safe_mode=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits(files, family):
    model, loaded = lm(family), load(files[family])
    for size in SIZES:
        ids = text(*size)
        found = torch.as_tensor(np.asarray(loaded(ids.int().numpy()).detach().cpu()))
        assert expected(model, ids).std() > 0.1
        torch.testing.assert_close(found, expected(model, ids), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_every_backend_loads_it_without_firstlight(files, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    for family, path in files.items():
        held = {}
        for n, size in enumerate(SIZES[::2]):
            held |= {f"ids{n}": text(*size).numpy(), f"logits{n}": expected(lm(family), text(*size)).numpy()}
        np.savez(f"{path}.npz", **held)
    words = [sys.executable, "-I", "-c", CODE, backend, *map(str, files.values())]
    settings = {**os.environ, "KERAS_BACKEND": backend, "KERAS_HOME": str(files["gpt2"].parent)}
    answer = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras's own, as it reads its learning rate
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_training_in_keras_and_import(files, tmp_path, family):
    loaded, keras = load(files[family]), import_keras()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loaded.compile(keras.optimizers.SGD(0.1), loss)
    ids = text(4, 9).numpy()
    before = loaded.evaluate(ids[:, :-1], ids[:, 1:], verbose=0)
    loaded.fit(ids[:, :-1], ids[:, 1:], epochs=3, verbose=0)
    assert loaded.evaluate(ids[:, :-1], ids[:, 1:], verbose=0) < before
    loaded.save(tmp_path / "tuned.keras")
    lm(family).save(tmp_path)
    back = get_importer("keras").load(tmp_path / "tuned.keras").to_lm(tmp_path)
    found = np.asarray(loaded(ids.astype(np.int32)).detach().cpu())
    torch.testing.assert_close(expected(back, torch.from_numpy(ids)), torch.from_numpy(found), atol=1e-4, rtol=0)


def test_members_of_the_archive(files):
    with zipfile.ZipFile(files["modern"]) as archive:
        assert {name for name in archive.namelist() if name.startswith("firstlight/")} == {
            f"firstlight/{name}"
            for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
        }
        assert b"Lambda" not in archive.read("config.json")
        assert b"firstlight." not in archive.read("config.json")


@pytest.mark.slow
def test_import_keras_leaves_no_trace(tmp_path):
    code = (
        "import os\nfrom firstlight.convert.keras.write import import_keras\n"
        "keras = import_keras()\n"
        "print(keras.backend.backend(), 'KERAS_BACKEND' in os.environ, 'KERAS_HOME' in os.environ)"
    )
    settings = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")} | {"HOME": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120)
    assert answer.stdout.split() == ["torch", "False", "False"], answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_unsupported_exports(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"expected \.keras"):
        get_exporter("keras").export(lm("gpt2"), tmp_path / "m.h5")
    with pytest.raises(UsageError, match="int8"):
        get_exporter("keras").export(lm("gpt2").quantize_int8(), tmp_path / "m.keras")
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(MissingExtra, match=r"pip install .*keras"):
        get_exporter("keras").export(lm("gpt2"), tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []
