"""TOML files and presets."""

from pathlib import Path

import pytest

from firstlight.config import parse_overrides, preset, preset_names, read_toml
from firstlight.errors import UnknownName, UsageError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = ", "is not valid TOML"),
        (b"[a]\nb = 1\nb = 2\n", "line 3"),
        (b"a = '\xff'", "is not UTF-8 text"),
        (None, "no such settings file"),
    ],
)
def test_unreadable_settings(tmp_path: Path, content: bytes | None, words: str):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_toml(path)
    assert str(path) in caught.value.message


def test_a_folder_is_no_settings_file(tmp_path: Path):
    with pytest.raises(UsageError, match="is a folder"):
        read_toml(tmp_path)


def test_a_path_below_a_file_is_no_settings_file(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no such settings file"):
        read_toml(tmp_path / "file" / "run.toml")


def test_byte_order_mark_is_no_obstacle(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_toml(path) == {"a": 1}


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somepresets").mkdir()
    (tmp_path / "somepresets" / "__init__.py").write_text("")
    (tmp_path / "somepresets" / "small.toml").write_text("[model]\nn_layer = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "somepresets"


def test_presets_are_the_toml_files_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = package(tmp_path, monkeypatch)
    assert preset_names(name) == ["small"]
    assert preset(name, "small") == {"model": {"n_layer": 2}}
    with pytest.raises(UnknownName, match="Did you mean 'small'"):
        preset(name, "smal")


@pytest.mark.parametrize(
    ("value", "problem"),
    [("[" * 5000 + "]" * 5000, "nested too deeply"), ("9" * 5000, "a number has too many digits")],
    ids=["deep", "digits"],
)
def test_toml_that_python_cannot_hold_is_one_line(tmp_path: Path, value: str, problem: str) -> None:
    (tmp_path / "a.toml").write_text(f"a = {value}")
    with pytest.raises(UsageError, match=f"a.toml: is not valid TOML: {problem}"):
        read_toml(tmp_path / "a.toml")
    assert parse_overrides([f"a={value}"]) == {"a": value}
