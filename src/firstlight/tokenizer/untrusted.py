"""Check a tokenizer.json before it is used: against the manifest, and for what the tokenizers library cannot bear.

The library runs regular expressions without a limit of time, and some files make it panic or end the process. A file
with only known parts is used at once. Any other one first encodes short texts in a process of its own, with limits of
time and memory.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from firstlight.errors import TokenizerError
from firstlight.files import Limits, changed_files
from firstlight.files.limits import read_bounded
from firstlight.tokenizer import probe_process
from firstlight.tokenizer.patterns import KNOWN_PATTERNS

_MAX_UNUSED_IDS = 1 << 20  # tables have an entry for each id, used or not
_KNOWN_TYPES = {
    "normalizer": {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "StripAccents"},
    "pre_tokenizer": {
        "BertPreTokenizer",
        "ByteLevel",
        "Digits",
        "Metaspace",
        "Punctuation",
        "Split",
        "Whitespace",
        "WhitespaceSplit",
    },
    "post_processor": {"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"},
    "decoder": {"BPEDecoder", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"},
}
# What can end the process or panic while it is read, and letters that are escaped, which could hide it.
_HARMFUL_TO_READ = (
    re.compile(rb"Precompiled"),
    re.compile(rb'"continuing_subword_prefix"\s*:\s*"(?!(?:##)?")'),
    re.compile(rb"\\u00[4-7]"),
)
_MAX_FILE_BYTES = 256 << 20  # the largest published tokenizer.json has 60 MB
_KNOWN_MODELS = ("BPE", "WordLevel", "WordPiece")
_MAX_REPLACEMENT = 4  # characters
_PREFIXES = (None, "", "##")
_WALL_SECONDS = 120  # for a busy machine; the process has limits of processor time


def check_file(file: Path) -> None:
    """Check a tokenizer.json before the library reads it, and the files next to it.

    Raises:
        TokenizerError: it is not a file of reasonable size, does not match the manifest of its folder, or reading it
            ends the process.
    """
    changed = changed_files(file.parent, (file.name, "tokenizer_config.json", "chat_template.jinja"))
    if changed:
        raise TokenizerError(changed[0], fix="Put the original file back, or use another checkpoint.")
    limits = Limits(max_document_bytes=_MAX_FILE_BYTES)
    data = read_bounded(file, limits=limits, error=TokenizerError)
    if any(pattern.search(data) for pattern in _HARMFUL_TO_READ):
        _probe(file)


def check_loaded(inner: tokenizers.Tokenizer, file: Path) -> None:
    """Check a tokenizer that the library has read from ``file``, before it encodes a text.

    Raises:
        TokenizerError: it has no token for unknown words, or is harmful.
    """
    model = inner.model
    kind = type(model).__name__
    if kind in ("WordLevel", "WordPiece") and model.token_to_id(model.unk_token) is None:
        raise TokenizerError(
            "has no token for unknown words",
            where=f"{file}: model.unk_token",
            found=repr(model.unk_token)[:60],
            expected="a token of the vocabulary",
            fix="Name one that is in model.vocab, or add this one.",
        )
    is_known = kind in _KNOWN_MODELS and getattr(model, "continuing_subword_prefix", None) in _PREFIXES
    components = {key: getattr(inner, key) for key in _KNOWN_TYPES}
    tables = {key: json.loads(part.__getstate__()) for key, part in components.items() if part is not None}
    if not is_known or not all(_is_known_part(p, _KNOWN_TYPES[key]) for key in tables for p in _parts(tables[key])):
        _probe(file)


def _parts(component: Any) -> Iterator[Any]:
    """Yield the members of nested sequences of components."""
    stack = [] if component is None else [component]
    while stack:
        part = stack.pop()
        if isinstance(part, dict) and part.get("type") == "Sequence":
            stack += [member for value in part.values() if isinstance(value, list) for member in value]
        else:
            yield part


def _is_known_part(part: Any, types: set[str]) -> bool:
    """Whether a component is of a known type, with a known regular expression and a short text."""
    if not isinstance(part, dict) or part.get("type") not in types:
        return False
    if part["type"] == "TemplateProcessing":
        names = [step["SpecialToken"].get("id") for step in _special_steps(part)]
        known = part.get("special_tokens")
        return isinstance(known, dict) and all(name in known for name in names)
    pattern, replacement = part.get("pattern", {}), part.get("content", part.get("prepend", ""))
    if not isinstance(pattern, dict) or not (isinstance(replacement, str) and len(replacement) <= _MAX_REPLACEMENT):
        return False
    return pattern.get("String", " ") != "" and pattern.get("Regex", KNOWN_PATTERNS[0]) in KNOWN_PATTERNS


def _special_steps(part: dict[str, Any]) -> list[dict[str, Any]]:
    steps = [step for key in ("single", "pair") if isinstance(part.get(key), list) for step in part[key]]
    return [step for step in steps if isinstance(step, dict) and isinstance(step.get("SpecialToken"), dict)]


def _probe(file: Path) -> None:
    problem = _probe_content(str(file.absolute()), hashlib.sha256(file.read_bytes()).hexdigest())
    if problem is not None:
        raise TokenizerError(
            f"is not used, since it {problem}",
            where=file,
            fix="Simplify its regular expressions, or use the tokenizer of another model.",
        )


@cache
def _probe_content(path: str, digest: str) -> str | None:
    """Encode short texts with a file in another process; return what went wrong, or None. Done once for a content."""
    del digest
    source = Path(probe_process.__file__).read_text(encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-c", source, path],
            cwd=os.sep,  # Python imports from the current folder first
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "takes too long to encode short texts"
    except OSError as error:
        return f"could not be tried out: {error}"
    if done.returncode in (0, probe_process.REFUSED):
        return done.stdout.decode("utf-8", "replace").strip()[:200] or None
    if done.returncode in probe_process.TIME_SIGNALS:
        return "takes too long to encode short texts"
    return f"makes the tokenizers library crash or use too much memory on short texts (exit status {done.returncode})"


def check_ids(ids: dict[str, int], where: object) -> None:
    """Refuse ids far above the number of tokens.

    Raises:
        TokenizerError: the highest one leaves more than a million ids unused.
    """
    highest = max(ids.values(), default=-1)
    if not ids or highest >= len(ids) + _MAX_UNUSED_IDS:
        raise TokenizerError(
            "has an id that is too high for its number of tokens" if ids else "has no tokens",
            where=where,
            found=f"id {highest:,} with {len(ids):,} tokens" if ids else None,
            expected=f"at most {_MAX_UNUSED_IDS:,} unused ids",
        )


def is_library_error(error: BaseException) -> bool:
    """Whether an exception is an error or a panic of a Rust library, which is not an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def library_errors(doing: str, where: object = None) -> Iterator[None]:
    """Turn the tokenizers library's errors, plain Exceptions, and its panics into a TokenizerError.

    Args:
        doing: what is done, such as "cannot encode this text".
        where: the file, if it is known.
    """
    try:
        yield
    except BaseException as error:
        # The library's own errors are of no subclass; others, such as of the type of a text, are for the caller.
        if not is_library_error(error) or (isinstance(error, Exception) and type(error) is not Exception):
            raise
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise TokenizerError(f"{doing}: {reason}", where=where) from error
