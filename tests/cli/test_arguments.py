"""Words are inputs or settings; whatever an option holds arrives as it was typed."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.cli.arguments import corpus_settings, expand_option, map_errors_to_options, read_stdin, split_arguments
from firstlight.config import parse_overrides
from firstlight.errors import ConfigError, UsageError


def test_settings_are_told_from_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b").touch()
    words = [
        "text.txt",
        "optim.lr=1e-3",
        "seed=4",
        "model.n-layer=2",
        "a=b",
        "c=d",
        "-",
        "x/y=z",
        "s3://a?b=c",
        "=",
        "*.t?t",
    ]
    inputs, settings = split_arguments(words)
    assert settings == ["optim.lr=1e-3", "seed=4", "model.n-layer=2", "c=d"]
    assert inputs == ["text.txt", "a=b", "-", "x/y=z", "s3://a?b=c", "=", "*.t?t"]
    assert split_arguments(None) == ([], [])


def test_a_value_may_be_longer_than_any_file_name():
    word = f"train.sample_prompt={'once upon a time ' * 500}"
    assert split_arguments([word, "a=\0"]) == ([], [word, "a=\0"])


@given(st.text(), st.text())
def test_options_arrive_as_typed(field: str, bad: str):
    table = parse_overrides(corpus_settings(field, bad))
    assert table == {"corpus": {"text_field": field, "on_bad_bytes": bad}}


@given(st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)))
def test_bytes_of_a_command_line_that_are_no_utf_8_arrive_too(field: str):
    assert parse_overrides(corpus_settings(field, None)) == {"corpus": {"text_field": field}}


def test_options_that_were_not_given_set_nothing():
    assert corpus_settings(None, None) == []
    assert parse_overrides(corpus_settings("", None)) == {"corpus": {"text_field": ""}}


def test_an_error_names_the_option_that_was_typed():
    with pytest.raises(UsageError) as caught, map_errors_to_options({"hardware.device": "--device"}):
        raise ConfigError("unrecognised device", where="hardware.device", found="x", fix="Set hardware.device=cpu.")
    assert caught.value.message == "--device: unrecognised device (found x). Set --device cpu."
    with pytest.raises(ConfigError, match="^optim.lr: is bad$"), map_errors_to_options({"hardware.device": "--device"}):
        raise ConfigError("is bad", where="optim.lr")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_standard_input_is_utf_8(mark: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(mark + "né\r\n".encode()), encoding="latin-1"))
    assert read_stdin() == "né\r\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="latin-1"))
    with pytest.raises(UsageError, match="byte 2"):
        read_stdin()


@pytest.mark.parametrize(
    ("words", "expanded"),
    [
        (["a", "--valid", "b", "c"], ["a", "--valid", "b", "--valid", "c"]),
        (["a", "--valid", "b", "c", "--out", "d", "e"], ["a", "--valid", "b", "--valid", "c", "--out", "d", "e"]),
        (["a", "--valid", "b", "x.y=1", "c"], ["a", "--valid", "b", "x.y=1", "c"]),
        (["a", "--valid=b", "c", "--json"], ["a", "--valid", "b", "--valid", "c", "--json"]),
        (["a", "--valid", "b", "--valid", "c"], ["a", "--valid", "b", "--valid", "c"]),
        (["a", "--valid", "-", "--", "--valid"], ["a", "--valid", "-", "--", "--valid"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_an_option_takes_every_word_up_to_the_next(words: list[str], expanded: list[str]) -> None:
    assert expand_option(words, "--valid") == expanded


@pytest.mark.parametrize("words", [["a", "--valid"], ["a", "--valid", "--out", "b"], ["--valid", "x.y=1", "a"]])
def test_an_option_without_a_word_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--valid: needs a file"):
        expand_option(words, "--valid")


def test_an_existing_file_with_an_equals_sign_is_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("k=v").touch()
    assert expand_option(["a", "--valid", "k=v", "k=w"], "--valid") == ["a", "--valid", "k=v", "k=w"]
