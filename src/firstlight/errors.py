"""The exceptions of the package, and the one place where they become a message.

FirstlightError
├── UsageError              exit code 2: the request is invalid
│   ├── ConfigError         a key of a TOML file or of the command line
│   ├── UnknownName         a name that is not in a table
│   └── MissingExtra        an optional library that is not installed
└── Failure                 exit code 1: the request is valid, but failed
    ├── CorpusError         a file or line of a corpus
    ├── TokenizerError      a tokenizer that cannot be trained, read or used
    ├── StoreError          a token store
    ├── CheckpointError     a checkpoint or a model directory
    ├── CompatibilityError  artifacts that do not belong together
    ├── StorageError        the disk: full, read-only, not permitted
    └── TrainingError       a run that cannot continue (not finite, out of memory)

Interrupted                 exit code 128 + number: a signal ends the command
"""

import re
import signal
from collections import Counter
from collections.abc import Iterable

from firstlight.shell import install_extra

_LINE_BREAK = "\n"
# In paths, these come from a backslash in a TOML string.
_TOML_ESCAPES = {
    "\t": (r"\t", "a tab"),
    "\n": (r"\n", "a line break"),
    "\r": (r"\r", "a carriage return"),
    "\b": (r"\b", "a backspace"),
    "\f": (r"\f", "a form feed"),
    "\x1b": (r"\e", "an escape"),
}
_LONG = 12  # letters of a name in which three may be wrong
_SPACES = "\u00a0\u202f\u3000"  # no-break and ideographic spaces


class FirstlightError(Exception):
    """An error that a user can cause and fix.

    Its message is ``where: problem (found …; expected …). Fix.``

    Args:
        problem: what is wrong: one clause in lower case, without a full stop.
        where: the file (and line), key or command.
        found: the actual value.
        expected: the valid values.
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
        self.found = None if found is None else escape(str(found))
        self.expected = None if expected is None else str(expected)
        self.fix = (_escape_in_path(where, found) if problem.startswith("no such") else None) or fix
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The message for users, from all fields."""
        problem = escape(self.problem, keep=_LINE_BREAK)
        head = f"{escape(self.where)}: {problem}" if self.where else problem
        details = [
            f"{label} {escape(value)}"
            for label, value in (("found", self.found), ("expected", self.expected))
            if value is not None
        ]
        if details:
            head = f"{head} ({'; '.join(details)})"
        return f"{head}. {escape(self.fix, keep=_LINE_BREAK)}" if self.fix else head


def _escape_in_path(where: object, found: object) -> str | None:
    r"""Explain a path that is not found because TOML read its backslash as an escape: "data\train" has a tab."""
    for value in (where, found):
        text = str(value)
        character = next((c for c in text if c in _TOML_ESCAPES), None)
        if character is not None:
            written = "".join(_TOML_ESCAPES[c][0] if c in _TOML_ESCAPES else c for c in text)
            escaped, name = _TOML_ESCAPES[character]
            return f"In TOML \"{escaped}\" in double quotes is {name}: write the path in single quotes, as '{written}'."
    return None


class UsageError(FirstlightError):
    """An invalid request: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown setting, or one with an invalid value; ``where`` is its dotted key."""


class UnknownName(UsageError):
    """A name that is not in a table; suggests the nearest one.

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
        known = list(known)
        names = sorted(known)
        near = nearest(name, known)  # of several that are as near, the first of the table
        super().__init__(
            f"unknown {kind} {name!r}",
            where=where,
            expected=", or ".join(filter(None, (f"one of {', '.join(names)}" if names else None, alternative))) or None,
            fix=f"Did you mean {near!r}?" if near else None,
        )


class MissingExtra(UsageError):
    """An optional library that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a library that is not installed", fix=install_extra(extra))


class Failure(FirstlightError):
    """A valid request that failed: exit code 1."""


class CorpusError(Failure):
    """A file or line of a corpus that cannot be read."""


class TokenizerError(Failure):
    """A tokenizer that cannot be trained, read or used."""


class StoreError(Failure):
    """A token store that is damaged, unfinished or of another format."""


class CheckpointError(Failure):
    """A checkpoint or model directory that is damaged or of another format."""


class CompatibilityError(Failure):
    """Artifacts that do not belong together: tokenizer, store, checkpoint, settings."""


class StorageError(Failure):
    """The disk is full or read-only, or access is not permitted."""


class TrainingError(Failure):
    """A run that cannot continue: not finite, out of memory, out of data."""


class Interrupted(BaseException):
    """A signal ends the command; like KeyboardInterrupt, no error, so that ``except Exception`` does not catch it.

    Args:
        signal_name: such as ``SIGTERM``.
    """

    def __init__(self, signal_name: str) -> None:
        self.signal_name = signal_name
        super().__init__(signal_name)

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells report it: 143 for SIGTERM."""
        return 128 + signal.Signals[self.signal_name].value


def escape(text: str, keep: str = "") -> str:
    r"""Escape characters that a terminal obeys or cannot show, as ``\x1b``: names of files may hold any.

    These are control characters, bidirectional overrides and others without a shape, and what is not Unicode.

    Args:
        text: any text.
        keep: control characters that are not escaped, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep or c in _SPACES else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` is a misspelling of, or None: the one likeness of every "Did you mean".

    A third of the letters may be wrong, missing, too many or swapped, at most two, or three of a long name; case does
    not count, nor what both have in common as folder or suffix. One that begins with
    ``name`` as a whole word comes first (gpt2-124m, not gpt1, for gpt2). Where no name is that near, one that has all
    words of ``name``, or begins or ends with it, is returned.
    """
    names = {k.lower(): k for k in known}
    wrong = name.lower()
    distances = {k: d for k in names if (d := _edits(wrong, k)) is not None}
    near = min(distances, key=lambda k: distances[k], default=None)
    if near != wrong:
        near = next((k for k in names if len(wrong) > 2 and re.match(re.escape(wrong) + "[_.-]", k)), near)
    words = {word for word in re.split(r"[_.-]", wrong.removesuffix("s")) if word}
    if max(map(len, words), default=0) > 2:
        near = near or next((k for k in names if words <= {w.removesuffix("s") for w in re.split(r"[_.-]", k)}), None)
    near = near or next((k for k in names if len(wrong) > 3 and _begins_or_ends(k, wrong)), None)
    return None if near is None else names[near]


def _begins_or_ends(name: str, part: str) -> bool:
    return " " not in name and (name.startswith(part) or name.endswith(part))  # one with spaces may be text, not a name


def _edits(a: str, b: str) -> int | None:
    """Count the edits between two names (Damerau-Levenshtein, adjacent swaps); None if they are too many."""
    folder = max(a.rfind("/"), a.rfind("\\")) + 1
    if a[:folder] == b[:folder]:
        a, b = a[folder:], b[folder:]
    suffix = a[max(0, a.rfind(".")) :]
    if 0 < len(suffix) < min(len(a), len(b)) and suffix.startswith(".") and b.endswith(suffix):
        a, b = a[: -len(suffix)], b[: -len(suffix)]
    longest = max(len(a), len(b))
    limit = min(2 if longest < _LONG else 3, (longest + 1) // 3)
    n_differing = ((Counter(a) - Counter(b)) + (Counter(b) - Counter(a))).total()
    if abs(len(a) - len(b)) > limit or n_differing > 2 * limit:  # saves the table below
        return None
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1] if row[-1] <= limit else None
