"""Help says what a command does and how it is typed; it is there at once."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer
from small_world import Call

from firstlight import __version__
from firstlight.cli.app import build

GROUPS = ("data", "runs", "tokenizer", "tokenizer vectors")


def commands() -> dict[str, object]:
    """Return every command of the application by what is typed."""
    return dict(_below(typer.main.get_command(build()), ""))


def _below(group: object, before: str) -> Iterator[tuple[str, object]]:
    for name, command in getattr(group, "commands", {}).items():
        yield f"{before}{name}", command
        yield from _below(command, f"{before}{name} ")


COMMANDS = sorted(commands())


def test_the_commands_are_those_of_the_design():
    assert [name for name in COMMANDS if name not in GROUPS] == sorted(
        [
            "data inspect",
            "data prepare",
            "data stats",
            "data verify",
            "doctor",
            "evaluate",
            "export",
            "finetune",
            "generate",
            "help",
            "import",
            "predict",
            "presets",
            "pretrain",
            "probe",
            "quickstart",
            "runs diff",
            "runs list",
            "settings",
            "tokenizer compare",
            "tokenizer decode",
            "tokenizer encode",
            "tokenizer import",
            "tokenizer show",
            "tokenizer train",
            "tokenizer vectors eval",
            "tokenizer vectors train",
            "transfer",
            "verify-resume",
        ]
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name: str, call: Call):
    answer = call(*name.split(), "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.startswith(f"Usage: firstlight {name} ")
    found = re.search(r"Example: (firstlight .+?)\n\n", answer.out, re.DOTALL)
    assert found is not None, answer.out
    words = shlex.split(found[1])
    assert " ".join(words[1:]).startswith(name)
    here = next(" ".join(words[1:n]) for n in (4, 3, 2) if " ".join(words[1:n]) in commands())
    command = commands()[here]
    context = command.make_context(here, words[1 + len(here.split()) :])  # type: ignore[attr-defined]
    assert context.args == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_explained(name: str):
    for parameter in commands()[name].params:  # type: ignore[attr-defined]
        assert parameter.help, f"{name}: {parameter.name}"


def test_no_words_of_the_list_of_commands_are_cut(call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ((), ("data",), ("runs",), ("tokenizer",), ("tokenizer", "vectors")):
        assert "..." not in call(*words, "--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("words", [(), ("data",), ("tokenizer",), ("tokenizer", "vectors")])
def test_without_a_command_there_is_help_on_stderr(words: tuple[str, ...], call: Call):
    answer = call(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("Usage: firstlight ")


def test_version(call: Call):
    answer = call("--version")
    assert (answer.code, answer.out) == (0, f"firstlight {__version__}\n")


@pytest.mark.parametrize("words", [(), ("pretrain",), ("data",), ("runs",), ("tokenizer", "vectors", "train")])
def test_help_in_each_of_its_forms(words: tuple[str, ...], call: Call):
    expected = call(*words, "--help")
    assert expected.code == 0
    assert call(*words, "-h") == expected
    assert call("help", *words) == expected


def test_help_of_an_unknown_command_suggests_one(call: Call):
    answer = call("help", "pretran")
    assert answer.code == 2
    assert "Did you mean 'pretrain'?" in answer.err
    assert call("help", "pretrain", "more").code == 2
