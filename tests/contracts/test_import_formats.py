"""What every importer must do; a new entry of IMPORTERS needs an example file here."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_files import (
    logits,
    model,
    write_gpt1,
    write_gpt2,
    write_hf_bin,
    write_llama2c,
    write_llmc,
    write_nanogpt,
)

from firstlight.cli.app import run
from firstlight.convert import IMPORTERS, Importer, get_exporter, get_importer
from firstlight.convert.detect import recognize
from firstlight.errors import FirstlightError
from firstlight.lm import LM

ROOT = Path(__file__).parents[2]
SMALL = {"n_layer": 1, "n_head": 1, "n_embd": 8}


def _export(path: Path, name: str, family: str) -> Path:
    get_exporter(name).export(LM(model(family, n_layer=1), None), path)
    return path


# Files or folders of each format, by importer; each function returns the path to import.
EXAMPLES: dict[str, list[Callable[[Path], Path]]] = {
    "gguf": [lambda folder: _gguf(folder / "m.gguf")],
    "llmc": [lambda folder: write_llmc(folder / "m.bin", model("gpt2", **SMALL))],
    "keras": [lambda folder: _export(folder / "m.keras", "keras", "modern")],
    "openai-gpt1": [lambda folder: write_gpt1(folder / "m", model("gpt1", **SMALL))],
    "openai-gpt2": [lambda folder: write_gpt2(folder / "m", model("gpt2", **SMALL))],
    "megatron": [lambda folder: _export(folder / "m", "megatron", "llama")],
    "nanogpt": [
        lambda folder: write_nanogpt(folder / "ckpt.pt", model("gpt2", **SMALL)),
        lambda folder: write_nanogpt(folder / "ckpt.pt", model("gpt2", **SMALL)).parent,
    ],
    "llama2c": [
        lambda folder, version=version: write_llama2c(
            folder / "m.bin", model("llama", n_layer=1, norm_eps=1e-5), version
        )
        for version in (0, 1, 2)
    ],
    "huggingface": [
        lambda folder: write_hf_bin(folder / "m", model("gpt2", **SMALL)),
        lambda folder: write_hf_bin(folder / "m", model("gpt2", **SMALL), old=True) / "pytorch_model.bin",
        lambda folder: _saved(folder / "m"),
    ],
}
CASES = [pytest.param(name, make, id=f"{name}-{i}") for name, makes in EXAMPLES.items() for i, make in enumerate(makes)]


def _gguf(path: Path) -> Path:
    from test_gguf import file_with

    file_with(path)
    return path


def _saved(folder: Path) -> Path:
    LM(model("modern"), None).save(folder)
    return folder


def test_every_importer_has_an_example_and_an_existing_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert EXAMPLES.keys() == IMPORTERS.keys()
    page = (ROOT / "docs" / "interop.md").read_text()
    for name in IMPORTERS:
        importer = get_importer(name)
        assert isinstance(importer, Importer)
        assert importer.extra is None or importer.extra in extras
        assert f"| `{name}` |" in page, f"docs/interop.md lacks {name}"


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_source_is_recognised_by_its_content(name, make, tmp_path):
    path = make(tmp_path)
    if path.parent == tmp_path:  # the file's or folder's own name does not matter
        path = path.rename(tmp_path / "renamed")
    assert recognize(path) == get_importer(name)
    others = [get_importer(other) for other in IMPORTERS if other not in (name, "huggingface")]
    assert not [other.title for other in others if other.recognizes(path)]
    assert torch.isfinite(logits(get_importer(name).load(path).to_lm(path))).all()


@pytest.mark.parametrize("name", IMPORTERS)
def test_other_files_and_folders_are_not_recognised(name, tmp_path):
    importer = get_importer(name)
    for i, data in enumerate((b"", b"text, which is not a model", bytes(64), b"\xff" * 64)):
        (tmp_path / f"{i}").write_bytes(data)
        assert not importer.recognizes(tmp_path / f"{i}")
    assert not importer.recognizes(tmp_path) and not importer.recognizes(tmp_path / "missing")


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_file_of_another_format_is_refused_in_one_line(name, tmp_path):
    (tmp_path / "file").write_bytes(b"text, which is not a model")
    with pytest.raises(FirstlightError) as caught:
        get_importer(name).load(tmp_path / "file").to_lm(tmp_path / "file")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_importer_of_another_package_that_does_not_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "not_importers.py").write_text(
        "import json\nfrom firstlight.convert import Importer\nread = json.loads\n"
        "FAILING = Importer(title='JSON', recognizes=bool, read=lambda path: json.loads(path.read_text()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    (tmp_path / "file").write_text("{ neither JSON nor a model")
    for name, code, message in (
        ("not_importers:read", 2, "not an instance of firstlight.convert.Importer"),
        ("not_importers:Missing", 2, "cannot be loaded"),
        ("gguff", 2, "Did you mean 'gguf'"),
        ("gguf", 1, "not a GGUF file"),
        ("not_importers:FAILING", 1, "not a readable JSON model: JSONDecodeError"),
    ):
        assert run(["import", str(tmp_path / "file"), str(tmp_path / "out"), "--format", name]) == code
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
