"""Fetch a file once: progress, resume of a broken download, SHA-256, a cache, one process at a time."""

import contextlib
import hashlib
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from firstlight import progress
from firstlight.errors import CorpusError
from firstlight.files import sha256, storage_errors, write_atomic

_TRIES = 4
_BLOCK = 1 << 18
_TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Return where fetched corpora are kept: $FIRSTLIGHT_CACHE, else below the user's cache folder."""
    if "FIRSTLIGHT_CACHE" in os.environ:
        return Path(os.environ["FIRSTLIGHT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "firstlight"


def fetch(url: str, target: Path, expected: str | None = None, *, pause: float = 1.0) -> Path:
    """Return ``target``, fetched from ``url`` unless it is there already, with the right SHA-256.

    Args:
        url: where the file lives.
        target: where it is kept.
        expected: its SHA-256; where None, the first download's is recorded and checked from then on.
        pause: seconds before the first new try; doubled each time.

    Raises:
        CorpusError: no connection, an answer that is no file, or other bytes than expected.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            recorded = target.with_name(target.name + ".sha256")
            known = expected or (recorded.read_text(encoding="ascii").strip() if recorded.is_file() else None)
            if not target.is_file():
                part = target.with_name(target.name + ".part")
                _with_retries(url, part, pause)
                _check(part, known, url)
                part.replace(target)
                if known is None:
                    progress.notice(f"{target.name}: no SHA-256 is known, so this download's is recorded")
            elif known is not None:
                _check(target, known, url)
            if expected is None and not recorded.is_file():
                write_atomic(recorded, sha256(target) + "\n")
    return target


def _check(file: Path, known: str | None, url: str) -> None:
    if known is None:
        return
    found = sha256(file)
    if found != known:
        file.unlink()
        raise CorpusError(
            "has other bytes than expected, and was deleted", where=url, found=f"SHA-256 {found}", expected=known,
            fix="Try again; if it stays so, the file at its home has changed.",
        )  # fmt: skip


def _with_retries(url: str, part: Path, pause: float) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            _transfer(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file, or longer: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise CorpusError(f"cannot be fetched: HTTP {error.code} {error.reason}", where=url, fix=_by_hand(part)) from error
            problem: Exception = error
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in (28, 30, 13):
                raise
            problem = error
        if attempt < _TRIES:
            progress.notice(f"{url}: {problem}; trying again in {pause:g} s")
            time.sleep(pause)
            pause *= 2
    raise CorpusError(f"cannot be fetched: {problem}", where=url, fix=_by_hand(part)) from problem


def _by_hand(part: Path) -> str:
    return f"Without a connection, put the file at {part.with_suffix('')} yourself."


def _transfer(url: str, part: Path) -> None:
    """Fetch what is missing of ``part``; a server that knows no ranges sends it all again."""
    have = part.stat().st_size if part.is_file() else 0
    if not url.startswith(("https://", "http://")):
        raise CorpusError("is no web address", where=url)
    request = urllib.request.Request(url, headers={"User-Agent": "firstlight", **({"Range": f"bytes={have}-"} if have else {})})  # noqa: S310
    with contextlib.closing(urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)) as answer:  # noqa: S310
        if have and answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, progress.task(f"fetch {part.stem}", total, "B") as task:
            task.advance(have)
            while block := answer.read(_BLOCK):
                file.write(block)
                task.advance(len(block))
                have += len(block)
    if total is not None and have < total:
        raise EOFError(f"connection closed after {have} of {total} bytes")


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
