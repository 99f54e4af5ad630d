"""What every exporter must do; a new entry of EXPORTERS is tested here without further work."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_lm import lm

from firstlight.cli.app import run
from firstlight.convert import EXPORTERS, Exporter, get_exporter
from firstlight.convert.detect import read_model, recognize
from firstlight.errors import ConfigError, FirstlightError, UnknownName, UsageError
from firstlight.lm import LM

ROOT = Path(__file__).parents[2]
# A format that does not support the model of the others needs an entry.
SHAPES = {"nanogpt": {"family": "gpt2", "kind": "char", "mlp": "gelu", "n_layer": 1}}
# Formats without an importer.
NOT_IMPORTED = {"onnx", "pt2"}


def model_for(name: str) -> LM:
    return lm(**{"family": "modern", "kind": "bpe", "n_layer": 1, **SHAPES.get(name, {})})


def path_for(name: str, folder: Path) -> Path:
    return folder / f"model{get_exporter(name).suffix or '.x'}"


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request, tmp_path_factory) -> tuple[str, LM, Path, dict[str, str]]:
    name = request.param
    model, out = model_for(name), path_for(name, tmp_path_factory.mktemp(name) / "new folder")
    return name, model, out, get_exporter(name).export(model, out)


def test_an_entry_is_an_exporter_with_a_documented_name_and_an_existing_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "interop.md").read_text()
    for name in EXPORTERS:
        exporter = get_exporter(name)
        assert exporter.extra is None or exporter.extra in extras, name
        assert f"| `{name}` |" in page, f"docs/interop.md lacks {name}"
        assert all(f"`{dtype}`" in page for dtype in exporter.dtypes), name


def test_only_the_reported_files_are_written(exported):
    name, _, out, files = exported
    written = {file for file in out.parent.rglob("*") if file.is_file()}
    reported = set(map(Path, files.values()))
    assert all(path.exists() for path in reported)
    assert all(file in reported or out in file.parents for file in written), written
    assert out.is_dir() is get_exporter(name).is_folder
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")], "temporary files are left"


def test_files_have_ordinary_permissions(exported, tmp_path):
    _, _, out, _ = exported
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for file in out.parent.rglob("*") if file.is_file()} == {mode}


def test_the_logits_are_equal_after_import(exported):
    name, model, out, _ = exported
    importer = recognize(out)
    if name in NOT_IMPORTED:
        with pytest.raises(FirstlightError, match="contains (no weights|weights without a config)|unrecognised"):
            read_model(str(out))
        return
    assert importer is not None
    imported = importer.load(out).to_lm(out)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(imported.model(ids), model.model(ids))
    if imported.tokenizer is not None:
        assert imported.tokenizer.encode("The sun") == model.tokenizer.encode("The sun")


# ONNX takes seconds; its own tests are in tests/convert.
every_exporter = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "onnx" else ()) for name in EXPORTERS]
)


@every_exporter
def test_existing_files_are_never_overwritten(name, tmp_path):
    exporter, out = get_exporter(name), path_for(name, tmp_path)
    out.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        exporter.export(model_for(name), out)
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]


def test_existing_files_in_the_same_folder_are_never_overwritten(tmp_path):
    (tmp_path / "meta.pkl").write_text("mine")
    with pytest.raises(UsageError, match=r"meta\.pkl: already exists"):
        get_exporter("nanogpt").export(model_for("nanogpt"), tmp_path / "ckpt.pt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("meta.pkl", "mine")]


@every_exporter
def test_nothing_is_left_of_an_export_that_fails(name, tmp_path):
    exporter = get_exporter(name)

    def fail(lm: LM, path: Path, dtype: str | None) -> dict[str, Path]:
        exporter.write(lm, path, dtype)
        raise UsageError("failed at the end")

    with pytest.raises(UsageError, match="failed at the end"):
        replace(exporter, write=fail).export(model_for(name), path_for(name, tmp_path))
    assert list(tmp_path.iterdir()) == []


@every_exporter
def test_wrong_arguments_are_refused_before_the_model_is_loaded(name, tmp_path, capsys):
    arguments = ["export", str(tmp_path / "no such model"), str(path_for(name, tmp_path)), "--to", name]
    assert run([*arguments, "--dtype", "int2"]) == 2
    assert "unsupported data type" in capsys.readouterr().err
    if get_exporter(name).suffix is not None:
        arguments[2] = str(tmp_path / "model.wrong")
        assert run(arguments) == 2
        assert "wrong suffix" in capsys.readouterr().err


# An exporter of another package

OUTSIDE = """
from firstlight.convert import Exporter


def write(lm, path, dtype):
    import no_such_library


LACKING = Exporter(title="text", write=write)
NOT_ONE = {"write": write}
"""


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """A folder with a model, and the example of docs/interop.md as the module my_formats."""
    page = (ROOT / "docs" / "interop.md").read_text()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "my_formats.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    (tmp_path / "package" / "not_exporters.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    lm("modern").save(tmp_path / "model")
    return tmp_path


def test_the_exporter_and_importer_of_the_documentation(outside, capsys):
    out = ["export", str(outside / "model"), str(outside / "m.npz"), "--to", "my_formats:EXPORTER"]
    assert run([*out, "--dtype", "float32"]) == 0
    assert str(outside / "m.npz") in capsys.readouterr().out
    assert sorted(p.name for p in outside.iterdir()) == ["m.npz", "model", "package"]
    again = ["import", str(outside / "m.npz"), str(outside / "again"), "--format", "my_formats:IMPORTER"]
    assert run([*again, "--tokenizer", str(outside / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "NumPy"
    a, b = LM.load_fp32(outside / "model"), LM.load_fp32(outside / "again")
    assert all(torch.equal(x, b.model.state_dict()[name]) for name, x in a.model.state_dict().items())
    assert b.encode("The sun") == a.encode("The sun")
    assert run(out) == 2
    assert "already exists" in capsys.readouterr().err


def test_an_exporter_of_another_package_that_does_not_work(outside, capsys):
    for name, message in (
        ("not_exporters:NOT_ONE", "not an instance of firstlight.convert.Exporter"),
        ("not_exporters:Missing", "cannot be loaded"),
        ("no_such_module:X", "cannot be loaded"),
        ("not_exporters:LACKING", "-m pip install no_such_library"),
    ):
        assert run(["export", str(outside / "model"), str(outside / "x"), "--to", name]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (outside / "x").exists()


def test_unknown_formats():
    with pytest.raises(UnknownName, match="Did you mean 'onnx'"):
        get_exporter("onxx")
    with pytest.raises(ConfigError, match="not an instance"):
        get_exporter("firstlight.convert:Exporter")
    assert all(isinstance(get_exporter(name), Exporter) for name in EXPORTERS)
