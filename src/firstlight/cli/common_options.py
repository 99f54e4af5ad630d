"""Options of every command, which are found in any position: --debug, --trust, --quiet, --verbose and --log-file."""

from collections.abc import Sequence
from dataclasses import dataclass

LOG_FILE = "--log-file"
_FLAGS = {
    "--debug": "debug",
    "--trust": "trust",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
}


@dataclass(slots=True)
class CommonOptions:
    """The options that a command line has; ``log_file`` is empty where its value is missing."""

    debug: bool = False
    trust: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: str | None = None


def take_common_options(arguments: Sequence[str]) -> tuple[list[str], CommonOptions]:
    """Remove the options of every command from the arguments before ``--``, and return both."""
    options, rest = CommonOptions(), list[str]()
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest.append(word)
            break
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            setattr(options, _FLAGS[word], True)
        elif name == LOG_FILE:
            options.log_file = value if equals else next(words, "")
        else:
            rest.append(word)
    return [*rest, *words], options
