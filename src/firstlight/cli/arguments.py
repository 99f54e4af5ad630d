"""What the words of a command line mean, and the text that comes by standard input."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from firstlight.errors import UsageError

# Dashes are no part of our keys, but whoever types one means a setting, and is told the right name.
_KEY = re.compile(r"[A-Za-z_][\w.-]*")


def split_words(words: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Tell inputs from ``key=value`` words; a file that exists is an input whatever its name."""
    inputs: list[str] = []
    settings: list[str] = []
    for word in words or ():
        key, equals, _ = word.partition("=")
        is_setting = bool(equals) and _KEY.fullmatch(key) is not None and not _exists(word)
        (settings if is_setting else inputs).append(word)
    return inputs, settings


def corpus_settings(text_field: str | None, on_bad_bytes: str | None) -> list[str]:
    """Return the options that every reading command has as ``key=value`` words."""
    given = {"corpus.text_field": text_field, "corpus.on_bad_bytes": on_bad_bytes}
    return [f"{key}={_quoted(value)}" for key, value in given.items() if value is not None]


@contextmanager
def named_as_options(options: Mapping[str, str]) -> Iterator[None]:
    """Name the option in the error of a setting that was given by one: ``{"hardware.device": "--device"}``."""
    try:
        yield
    except UsageError as error:
        option = options.get(error.where or "")
        if option is None:
            raise
        fix = error.fix and error.fix.replace(f"{error.where}=", f"{option} ")
        raise UsageError(error.problem, where=option, found=error.found, expected=error.expected, fix=fix) from error


def standard_input() -> str:
    """Return all of standard input, which is UTF-8 whatever the terminal's own encoding.

    Raises:
        UsageError: it is not.
    """
    try:
        # Windows' shells put a byte order mark before what they pipe.
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8", where="standard input", found=f"a bad byte at offset {error.start}") from error


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # such as a value too long for any file's name
        return False


def _quoted(text: str) -> str:
    """Write a TOML string, so that no text can be taken for a number or for another key."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
