"""Commands, settings and TOML tables shown in README and docs exist; the generated reference is up to date."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from firstlight.cli.app import build
from firstlight.cli.arguments import split_arguments

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted(p for p in [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")] if p.parent != REFERENCE)
_BLOCK = re.compile(r"^[ ]*```(?:sh|bash|shell|console|text)?[ ]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"^```toml[ ]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Keys in the first column of a table, and keys with a value; other names with a dot may be files or modules.
_KEY = re.compile(r"^\| `([a-z_]+(?:\.[a-z_0-9]+)+)`|`([a-z_]+(?:\.[a-z_0-9]+)+)=[^`]+`", re.MULTILINE)


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each command line in a page's code blocks, without comments, pipes and placeholders."""
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
        Exception: typer's, for a command or option that does not exist.
    """
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word and word != "|"} <= targets, words
        return
    command, rest = typer.main.get_command(build()), words[1:]
    while hasattr(command, "commands") and ((rest and not rest[0].startswith("-")) or _default(command)):
        name = rest[0] if rest and rest[0] in command.commands else _default(command)
        assert name, f"no such command: {' '.join(words)}"
        command, rest = command.commands[name], rest[rest[:1] == [name] :]
    # Options that act as soon as they are parsed: the parser would run them.
    if {"--help", "--version", "--install-completion", "--show-completion"} & set(rest):
        return
    context = command.make_context(words[-1], list(rest))
    _check_settings(words, [word for value in context.params.values() if isinstance(value, list) for word in value])
    _check_names(words, context.params)


def _default(command: Any) -> str | None:
    return getattr(command, "default_command", None)


def _check_settings(words: list[str], arguments: list[str]) -> None:
    from firstlight.config import parse_overrides, resolve
    from firstlight.stages.list_settings import ROOTS

    _, settings = split_arguments(arguments)
    command = next((name for name in sorted(ROOTS, key=len, reverse=True) if _is_command(words, name)), "pretrain")
    resolve(ROOTS["finetune" if words[1] == "transfer" else command], parse_overrides(settings))


def _is_command(words: list[str], name: str) -> bool:
    return words[1 : 1 + len(name.split())] == name.split()


def _check_names(words: list[str], params: dict[str, Any]) -> None:
    from firstlight.stages.list_presets import show_preset
    from firstlight.stages.list_settings import list_settings

    if words[1] == "settings":
        list_settings(params["prefix"])
    preset = params["name"] if words[1] == "presets" else params.get("preset")
    if preset is not None:
        show_preset(preset)


@cache
def known_keys() -> frozenset[str]:
    """Return every key of the settings and of TASK.toml, and every prefix of one."""
    from firstlight.finetuning import TaskSpec
    from firstlight.stages.list_settings import ROOTS, list_settings

    keys = [setting.key for setting in list_settings(roots={**ROOTS, "TASK.toml": TaskSpec})]
    return frozenset(".".join(key.split(".")[:n]) for key in keys for n in range(1, key.count(".") + 2))


def check_toml(text: str) -> None:
    """Check the keys of a TOML block: a RUN.toml's tables, or a TASK.toml."""
    from firstlight.config import flatten

    for key in flatten(tomllib.loads(text)):
        assert any(key == known or _is_open(key, known) for known in known_keys()), f"unknown setting {key}"


def _is_open(key: str, known: str) -> bool:
    """Whether a key is below a setting that is a table of free keys, such as ``optim.schedule.options``."""
    return key.startswith(f"{known}.") and not any(other.startswith(f"{known}.") for other in known_keys())


def test_check_finds_mistakes():
    for good in (
        "firstlight pretrain a.txt --out r optim.lr=1e-3 --preset nano",
        "make test",
        "firstlight data stats store --top 3",
        "firstlight runs",
        "firstlight runs folder --json",
        "firstlight runs diff a b",
        "firstlight settings optim.schedule",
        "firstlight finetune run task.toml finetune.batch_size=8",
    ):
        check(good.split())
    for bad in (
        "firstlight pretrian a",
        "firstlight pretrain a --ot r",
        "firstlight pretrain a optim.lrr=1",
        "firstlight pretrain a --preset nanoo",
        "firstlight runs diff a",
        "firstlight settings optm",
        "firstlight presets nanoo",
        "firstlight finetune run task.toml finetune.batchsize=8",
        "make tst",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - typer's own, click's, ours or an assertion
            check(bad.split())
    check_toml("[optim.schedule]\nwarmup_steps = 10\n")
    with pytest.raises(AssertionError, match="optim.warmup"):
        check_toml("[optim]\nwarmup = 10\n")


def test_commands_on_pages():
    found = [(page, words) for page in PAGES for words in shown(page)]
    assert found
    for page, words in found:
        try:
            check(words)
        except Exception as error:
            raise AssertionError(f"{page.name}: {' '.join(words)}: {error}") from error


def test_toml_on_pages():
    found = [(page, block) for page in PAGES for block in _TOML.findall(page.read_text(encoding="utf-8"))]
    assert found
    for page, block in found:
        try:
            check_toml(block)
        except Exception as error:
            raise AssertionError(f"{page.name}: {block}: {error}") from error


# Decisions are not rewritten when a key changes.
@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name != "decisions"], ids=lambda page: page.name)
def test_keys_on_pages(page: Path):
    tables = {key for key in known_keys() if "." not in key}
    for first, second in _KEY.findall(page.read_text(encoding="utf-8")):
        key = first or second
        if key in ("run.toml", "tokenizer.json") or key.partition(".")[0] not in tables:
            continue
        assert key in known_keys(), f"{page.name}: unknown setting {key}"


def generator() -> ModuleType:
    """Load docs/generate_reference.py."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "commands.md", "tasks.md"])
def test_reference_is_up_to_date(name: str):
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == generator().PAGES[name](), f"docs/reference/{name} is stale. Run: make docs"


def test_scripts_on_pages_are_there():
    for page in PAGES:
        for script in set(re.findall(r"\bbenchmarks/[\w/]+\.py", page.read_text(encoding="utf-8"))):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
