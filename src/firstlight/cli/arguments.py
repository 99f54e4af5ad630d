"""Parse command-line arguments: inputs and settings, options that are settings, standard input, completion."""

import json
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from firstlight import progress
from firstlight.config import narrow_settings
from firstlight.errors import CorpusError, UsageError
from firstlight.files.text_lines import decode_text

# Keys have no dashes, but an argument with one is meant as a setting: its error names the right key.
_KEY = re.compile(r"[A-Za-z_][\w.-]*")

RestartOption = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Train the run again from step 0, with the same settings; its checkpoints and logs are moved aside.",
    ),
]

# Its words are made separate options by ``expand_option``.
VALID = "--valid"
ValidOption = Annotated[
    list[str] | None,
    typer.Option(
        VALID,
        metavar="FILE…",
        help="Validation text: files, folders, globs, named corpora, after the corpus; every word up to the next "
        "option or KEY=VALUE. By default a part of the corpus (data.valid_ratio).",
        show_default=False,
    ),
]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")]


def split_arguments(given: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Split arguments into inputs and ``key=value`` settings; an existing file is an input whatever its name."""
    inputs: list[str] = []
    settings: list[str] = []
    for word in given or ():
        refuse_wide_dashes(word)
        arguments = [word] if _exists(word) else narrow_settings(word)
        if arguments != [word]:
            progress.notice(f"{word}: read as {' '.join(arguments)}")
        for argument in arguments:
            key, equals, _ = argument.partition("=")
            is_setting = bool(equals) and _KEY.fullmatch(key) is not None and not _exists(argument)
            (settings if is_setting else inputs).append(argument)
    return inputs, settings


def refuse_wide_dashes(argument: str, known: Container[str] | None = None) -> None:
    """Refuse an option whose dashes are full-width or long ones, as input methods and editors write them.

    Args:
        argument: of the command line.
        known: the options that are refused, such as --out, where other words may be text; by default all.

    Raises:
        UsageError: it is such an option.
    """
    dashes = re.match("[-\uff0d\u2010-\u2015\u2212]+", argument)
    if dashes and not dashes[0].isascii() and not _exists(argument):
        name = argument[dashes.end() :].partition("\uff1d")[0].partition("=")[0]
        option = f"{'-' * (1 + (len(name) > 1))}{name}"
        if known is None or option in known:
            raise UsageError("has dashes that are not ASCII", where=argument, fix=f"Write {option}")


def refuse_wide_space(argument: str, known: Container[str]) -> None:
    """Refuse a known command or option with an ideographic space after it, at which shells do not split.

    Raises:
        UsageError: it is one.
    """
    word, space, rest = argument.partition("\u3000")
    if space and word in known:
        raise UsageError("has a full-width space", where=argument, fix=f"Write an ASCII space: {word} {rest.strip()}")


def expand_option(arguments: Sequence[str], option: str) -> list[str]:
    """Repeat an option for each of its words: ``--valid a b`` becomes ``--valid a --valid b``, which click can parse.

    It takes every word up to the next option or ``key=value`` setting, so that a pattern that the shell has expanded
    can follow it.

    Raises:
        UsageError: no word follows it.
    """
    expanded: list[str] = []
    i, end = 0, arguments.index("--") if "--" in arguments else len(arguments)
    while i < end:
        name, equals, first = arguments[i].partition("=")
        i += 1
        if name != option:
            expanded.append(arguments[i - 1])
            continue
        words = [first] if equals else []
        while i < end and _is_word(arguments[i]):
            words.append(arguments[i])
            i += 1
        if not words:
            raise UsageError("needs a file", where=option, fix=f"Name one or more files after it: {option} FILE…")
        expanded += [part for word in words for part in (option, word)]
    return [*expanded, *arguments[end:]]


def _is_word(argument: str) -> bool:
    """Whether an argument belongs to the option before it, rather than being an option or a setting."""
    if argument.startswith("-") and argument != "-":
        return False
    return bool(split_arguments([argument])[0])


def corpus_settings(text_field: str | None, on_bad_bytes: str | None) -> list[str]:
    """Convert the options of commands that read a corpus to ``key=value`` settings."""
    given = {"corpus.text_field": text_field, "corpus.on_bad_bytes": on_bad_bytes}
    return [f"{key}={_quoted(value)}" for key, value in given.items() if value is not None]


@contextmanager
def map_errors_to_options(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors of settings name the option that set them: ``{"hardware.device": "--device"}``."""
    try:
        yield
    except UsageError as error:
        option = options.get(error.where or "")
        if option is None:
            raise
        fix = error.fix and error.fix.replace(f"{error.where}=", f"{option} ")
        raise UsageError(error.problem, where=option, found=error.found, expected=error.expected, fix=fix) from error


def setting_for_option(option: str, command: str, arguments: Sequence[str]) -> str | None:
    """Return the ``key=value`` that an unknown option of a command is meant as, or None: ``--lr 3e-4``."""
    from firstlight.stages.list_settings import ROOTS, list_settings  # loads torch

    if command not in ROOTS:
        return None
    name = option.removeprefix("--").replace("-", "_")
    keys = [setting.key for setting in list_settings(roots={command: ROOTS[command]})]
    key = next((key for key in keys if key == name or key.endswith(f".{name}")), None)
    words = [*arguments, ""]
    i = next((i for i, word in enumerate(words) if word.partition("=")[0] == option), len(words) - 1)
    _, equals, value = words[i].partition("=")
    value = value if equals else next(iter(words[i + 1 :]), "")
    return key and f"{key}={'VALUE' if not value or value.startswith('--') else value}"


def read_stdin() -> str:
    """Read standard input as UTF-8, or as its byte order mark says, whatever the encoding of the terminal.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        return decode_text(sys.stdin.buffer.read(), "standard input")
    except CorpusError as error:
        raise UsageError(error.problem, where=error.where, found=error.found, fix=error.fix) from error


def check_resume(resume: bool, restart: bool) -> None:
    """Check that a run is either resumed or restarted.

    Raises:
        UsageError: both.
    """
    if resume and restart:
        raise UsageError(
            "a run is either resumed or started again", where="--resume --restart", fix="Remove one of them."
        )


def complete_preset(incomplete: str) -> list[str]:
    """Return the names of presets that start with the text typed so far, for shell completion."""
    packages = resources.files("firstlight.stages.presets")
    files = {path.name for package in packages.iterdir() if package.is_dir() for path in package.iterdir()}
    names = [name.removesuffix(".toml") for name in files if name.endswith(".toml")]
    return sorted(name for name in names if name.startswith(incomplete))


def _exists(argument: str) -> bool:
    try:
        return Path(argument).exists()
    except (OSError, ValueError):  # such as a value too long for a file name
        return False


def _quoted(text: str) -> str:
    """Quote a text as a TOML string, so that it cannot be read as a number or as another key."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
