"""The list of presets, and a preset as resolved TOML."""

import tomllib

import pytest

from firstlight.config import preset, preset_names, resolve
from firstlight.errors import UnknownName
from firstlight.stages.list_presets import PACKAGES, list_presets, show_preset


def test_every_preset_is_listed_with_a_description() -> None:
    found = list_presets()
    assert sorted((info.command, info.name) for info in found) == sorted(
        (command, name) for command, (package, _) in PACKAGES.items() for name in preset_names(package)
    )
    for info in found:
        assert info.description, info.name
        assert info.description[-1] == ".", f"{info.name}: the first comment line is a whole sentence"
        assert (info.family is not None) == (info.command == "pretrain")


def test_parameters_are_counted_from_the_shape() -> None:
    found = {info.name: info for info in list_presets()}
    assert found["gpt2-124m"].parameters == 124_439_808
    assert (found["gpt2-124m"].family, found["gpt2-124m"].context) == ("gpt2", 1024)
    assert found["shakespeare-char-cpu"].parameters is None
    assert found["shakespeare-char-cpu"].non_embedding_parameters


def test_names_are_unique_over_the_commands() -> None:
    names = [info.name for info in list_presets()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["nano", "gpt2-124m", "lora"])
def test_shown_preset_resolves_to_the_same_settings(name: str) -> None:
    command = "finetune" if name == "lora" else "pretrain"
    package, root = PACKAGES[command]
    assert resolve(root, tomllib.loads(show_preset(name))) == resolve(root, preset(package, name))


def test_unknown_preset() -> None:
    with pytest.raises(UnknownName, match="nano"):
        show_preset("nanoo")
