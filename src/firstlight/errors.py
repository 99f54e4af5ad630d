"""The one error tree, and the one place where a user's error becomes a sentence.

FirstlightError
├── UsageError            exit 2: what was asked cannot be meant
│   ├── ConfigError       a key of a TOML file or of the command line
│   ├── UnknownName       a name that is not in a table
│   └── MissingExtra      a library that the base install leaves out
└── Failure               exit 1: what was asked was tried and failed
    ├── CorpusError       a file or line of a corpus
    ├── TokenizerError    a tokenizer that cannot be trained, read or used
    ├── StoreError        a token store
    ├── CheckpointError   a checkpoint or a model directory
    ├── ContractError     artefacts that do not belong together
    ├── StorageError      the disk: full, read-only, not permitted
    └── TrainingError     a run that cannot go on (not finite, out of memory)
"""

import difflib
from collections.abc import Iterable


class FirstlightError(Exception):
    """An error that a user can cause and mend.

    Args:
        problem: what is wrong, one clause without a full stop.
        where: the file (and line), key or command that it is about.
        found: what was there.
        expected: what should have been there.
        fix: what to do, in the imperative.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.found = None if found is None else _on_one_line(str(found))
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """Build the message that command line, server and studio show."""
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        details = [
            f"{label} {value}"
            for label, value in (("found", self.found), ("expected", self.expected))
            if value is not None
        ]
        if details:
            head = f"{head} ({'; '.join(details)})"
        return f"{head}. {self.fix}" if self.fix else head


class UsageError(FirstlightError):
    """What was asked cannot be meant: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting that is unknown or has a wrong value; ``where`` is its dotted key."""


class UnknownName(UsageError):
    """A name that is not in a table, with the nearest one that is.

    Args:
        kind: what the table holds.
        name: the unknown name.
        known: the names in the table.
        where: as in FirstlightError.
        alternative: what is accepted besides the names, such as ``package.module:Name``.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: object = None, alternative: str | None = None
    ) -> None:
        names = sorted(known)
        near = nearest(name, names)
        super().__init__(
            f"unknown {kind} {name!r}",
            where=where,
            expected=f"one of {', '.join(names)}" + (f", or {alternative}" if alternative else ""),
            fix=f"Did you mean {near!r}?" if near else None,
        )


class MissingExtra(UsageError):
    """A library that the base install leaves out."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a library that is not installed", fix=f"Run: pip install 'firstlight[{extra}]'")


class Failure(FirstlightError):
    """What was asked was tried and failed: exit code 1."""


class CorpusError(Failure):
    """A file or line of a corpus that cannot be read as asked."""


class TokenizerError(Failure):
    """A tokenizer that cannot be trained, read or used."""


class StoreError(Failure):
    """A token store that is damaged, unfinished or of another kind."""


class CheckpointError(Failure):
    """A checkpoint or model directory that is damaged or of another kind."""


class ContractError(Failure):
    """Artefacts that do not belong together: tokenizer, store, checkpoint, settings."""


class StorageError(Failure):
    """The disk says no: full, read-only or not permitted."""


class TrainingError(Failure):
    """A run that cannot go on: not finite, out of memory, out of data."""


def _on_one_line(text: str) -> str:
    """Return ``text`` with what cannot be printed written out, as a damaged file may hold it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None when none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)
