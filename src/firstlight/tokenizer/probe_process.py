"""A program that encodes short texts with a tokenizer.json: ``python -c SOURCE FILE``, under limits of time and memory.

It imports nothing of this package, so that it starts fast. A panic of the library is printed, and ends it with the
status REFUSED; a crash or a limit ends it by a signal.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFUSED = 3
TIME_SIGNALS = (-24, -9)  # SIGXCPU at the soft limit, SIGKILL at the hard one
_LOAD_SECONDS, _ENCODE_SECONDS = 60, 8  # of processor time
_MEMORY = 3 << 30  # bytes of address space, and 40 per byte of the file
_RUN = 1500  # repetitions: a pattern of cubic time needs minutes, one of quadratic time milliseconds
_MAX_LITERALS = 40
_ATOMS = [*"aA1 \n\t!'_é你😀", "\r\n", " a", "a1", "'s", "a ", "!\n", " \n"]
_TAILS = ["", "!", "\x00", "z"]
_TEXTS = [
    "",
    " ",
    "Hello, world! It's 2024's 1234567",
    "\n\n  x\t\r\n",
    "naïve 你好，世界。 e\u0301 \u200b",
    "\ufffd\x7f",
]


def probes(table: Any) -> Iterator[str]:
    """Yield texts that are hard for regular expressions: long repetitions, in particular of their own literals."""
    yield from _TEXTS
    literals = list(dict.fromkeys(c for pattern in patterns(table) for c in pattern))[:_MAX_LITERALS]
    for atom, tail in itertools.product(dict.fromkeys([*_ATOMS, *literals]), _TAILS):
        yield atom * _RUN + tail
    for a, b in itertools.permutations(literals[:12], 2):
        yield (a + b) * (_RUN // 4) + "!"


def patterns(part: Any) -> Iterator[str]:
    """Yield the regular expressions in a part of a tokenizer.json."""
    stack = [part]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if isinstance(part.get("Regex"), str):
                yield part["Regex"]
            stack += part.values()
        elif isinstance(part, list):
            stack += part


def _limit(seconds: float, memory: int | None = None) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's limit of time remains
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(path: str) -> int:
    """Encode the probes; return the exit status."""
    import tokenizers

    text = Path(path).read_text(encoding="utf-8-sig")
    _limit(_LOAD_SECONDS, _MEMORY + 40 * len(text))
    table = json.loads(text)
    parts = [table.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    try:
        inner = tokenizers.Tokenizer.from_str(text)
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        _limit(_ENCODE_SECONDS)
        for probe in probes(parts):
            try:
                ids = inner.encode(probe, add_special_tokens=False).ids
                inner.decode(ids[:100], skip_special_tokens=True)
            except Exception:  # noqa: BLE001, S112, PERF203 - such as a missing unknown token: said where it is used
                continue
    except BaseException as error:  # noqa: BLE001 - a panic is not an Exception
        if type(error) is Exception:  # the file is not readable, which is said where it is read
            return 0
        reason = " ".join(str(error).split())[:150]
        os.write(1, f"makes the tokenizers library fail on short texts: {reason}".encode("utf-8", "replace"))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
