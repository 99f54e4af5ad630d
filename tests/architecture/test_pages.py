"""Commands that pages show are commands that exist, with options and settings that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from firstlight.cli.app import build
from firstlight.cli.arguments import split_arguments

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^[ ]*```(?:sh|bash|shell|console|text)?[ ]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command line in a page's code blocks, without comments, pipes and placeholders."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if not line.startswith(("firstlight ", "make ", ".venv/bin/firstlight ")) or "…" in line:
                continue
            words = shlex.split(line, comments=True)
            stop = next((i for i, word in enumerate(words) if word in ("|", ">", "<", "&&", "||", ";")), len(words))
            yield words[:stop]


def check(words: list[str]) -> None:
    """Parse a command line as it would be run.

    Raises:
        Exception: typer's, for a command or option that there is not.
    """
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word and word != "|"} <= targets, words
        return
    command, rest = typer.main.get_command(build()), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        default = getattr(command, "default_command", None)
        assert rest[0] in command.commands or default, f"no such command: {' '.join(words)}"
        known = rest[0] in command.commands
        command, rest = command.commands[rest[0] if known else default], rest[known:]
    if "--help" in rest or "--version" in rest:
        return
    context = command.make_context(words[-1], list(rest))
    _check_settings(words, [word for value in context.params.values() if isinstance(value, list) for word in value])


def _check_settings(words: list[str], held: list[str]) -> None:
    from firstlight.config import parse_overrides, resolve
    from firstlight.stages.data import PrepareSettings
    from firstlight.stages.settings import PretrainSettings
    from firstlight.stages.tokenizer import TokenizerTrainSettings
    from firstlight.stages.vectors import VectorsTrainSettings

    roots = {
        "data": PrepareSettings,
        "tokenizer": TokenizerTrainSettings,
        "tokenizer vectors": VectorsTrainSettings,
    }
    _, settings = split_arguments(held)
    root = roots.get(" ".join(words[1:3])) or roots.get(words[1], PretrainSettings)
    resolve(root, parse_overrides(settings))


def test_the_check_sees_what_is_wrong():
    for good in ("firstlight pretrain a.txt --out r optim.lr=1e-3", "make test", "firstlight data stats store --top 3"):
        check(good.split())
    for bad in (
        "firstlight pretrian a",
        "firstlight pretrain a --ot r",
        "firstlight pretrain a optim.lrr=1",
        "make tst",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - typer's own, click's, ours or an assertion
            check(bad.split())


@pytest.mark.skipif(not PAGES, reason="there are no pages yet: README.md")
def test_commands_on_pages():
    found = [(page, words) for page in PAGES for words in shown(page)]
    assert found
    for page, words in found:
        try:
            check(words)
        except Exception as error:
            raise AssertionError(f"{page.name}: {' '.join(words)}: {error}") from error
