"""Full-width characters, as Chinese input methods write them, in key=value and in TOML files."""

from pathlib import Path

import pytest

from firstlight.cli.app import run
from firstlight.cli.arguments import split_arguments
from firstlight.config import narrow_settings, parse_overrides, read_toml
from firstlight.errors import UsageError


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("optim.lr＝3e-4", ["optim.lr=3e-4"]),
        ("ｏｐｔｉｍ．ｌｒ＝３ｅ－４", ["optim.lr=3e-4"]),
        ("train。steps=１０", ["train.steps=10"]),
        ("optim.betas=[0.9，0.95]", ["optim.betas=[0.9,0.95]"]),
        ("optim.name=my.module：Lion", ["optim.name=my.module:Lion"]),
        ("train.steps=10\u3000optim.lr＝1e-3", ["train.steps=10", "optim.lr=1e-3"]),
        ("optim.name=“muon”", ['optim.name="muon"']),
        ("train.sample_prompt=你好，世界", ["train.sample_prompt=你好，世界"]),
        ("train.sample_prompt＝你好，世界\u3000再见", ["train.sample_prompt=你好，世界\u3000再见"]),
        ('train.sample_prompt="ＡＢＣ"', ['train.sample_prompt="ＡＢＣ"']),
        ("data.delimiter=，", ["data.delimiter=，"]),
        ("数据＝集.txt", ["数据＝集.txt"]),
        ("红楼梦（上）.txt", ["红楼梦（上）.txt"]),
        ("optim.lr=1e-3", ["optim.lr=1e-3"]),
    ],
)
def test_settings_are_understood_and_other_words_stay(argument: str, settings: list[str]) -> None:
    assert narrow_settings(argument) == settings
    inputs, found = split_arguments([argument])
    assert [*inputs, *found] == settings


def test_values_have_their_types() -> None:
    assert parse_overrides(["train.steps＝１０", "optim.lr=３e-4"]) == {"train": {"steps": 10}, "optim": {"lr": 3e-4}}


def test_a_file_of_that_name_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a＝b").touch()
    assert split_arguments(["a＝b"]) == (["a＝b"], [])


@pytest.mark.parametrize("line", ["lr ＝ 1e-3", "lr = １", "name = “muon”"])
def test_a_file_is_refused_with_the_character(tmp_path: Path, line: str) -> None:
    (tmp_path / "my.toml").write_text(f"[optim]\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="for the full-width") as caught:
        read_toml(tmp_path / "my.toml")
    assert "line 2" in caught.value.message


@pytest.mark.parametrize(("word", "right"), [("－－out", "--out"), ("—out", "--out"), ("–h", "-h")])
def test_dashes_of_an_editor_are_named(word: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"Write {right}"):
        split_arguments([word])


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["generate", "run", "——max-new-tokens", "5"], "Write --max-new-tokens"),
        (["evaluate", "run", "——text", "a.txt"], "Write --text"),
        (["runs", "—h"], "Write -h"),
        (["——version"], "Write --version"),
        (["generate", "run", "--max-new-tokens\u30005"], "Write an ASCII space: --max-new-tokens 5"),
        (["generate", "run", "--temperature", "０．８"], "(found '０．８'). Write 0.8"),
        (["pretrain\u3000books"], "Write an ASCII space: pretrain books"),
    ],
)
def test_every_command_knows_what_input_methods_write(
    arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert advice in capsys.readouterr().err


def test_a_prompt_may_begin_with_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(tmp_path / "absent"), "——那是谁\u3000？"]) == 2
    assert "absent: " in capsys.readouterr().err
