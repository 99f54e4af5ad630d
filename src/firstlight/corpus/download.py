"""Fetch a file once: progress, resume of a broken download, SHA-256, a cache, one process at a time."""

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from firstlight import progress
from firstlight.errors import CorpusError, StorageError
from firstlight.files import sha256, storage_errors, write_atomic

_TRIES = 4
_BLOCK = 1 << 18
_TIMEOUT_SECONDS = 30
_TRY_AGAIN = (408, 425, 429)
_LENGTH = re.compile(r"[0-9]{1,18}")
MAX_DOWNLOAD_BYTES = 16 << 30


def fetch(
    url: str,
    target: Path,
    expected: str | None = None,
    *,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    pause: float = 1.0,
) -> Path:
    """Return ``target``, fetched from ``url`` unless it is there already, with the right SHA-256.

    Args:
        url: the address of the file.
        target: where it is kept.
        expected: its SHA-256; where None, the first download's is recorded and checked from then on.
        max_bytes: the most that is fetched.
        pause: seconds before the first retry; doubled for each further one.

    Raises:
        CorpusError: no connection, a response that is not a file or too large, or content with another SHA-256 than
            expected.
        StorageError: the cache cannot be written.
    """
    fetch_checked(url, target, expected, max_bytes=max_bytes, pause=pause)
    return target


def fetch_checked(
    url: str,
    target: Path,
    expected: str | None = None,
    *,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    pause: float = 1.0,
) -> str:
    """Like ``fetch``, but return the SHA-256 of the file, so that the caller need not compute it again."""
    recorded = target.with_name(f"{target.name}.sha256")
    if not target.is_file():
        with exclusive_lock(target):
            if not target.is_file():
                return _download(url, target, expected or _known(recorded), recorded, max_bytes, pause)
    # A file that is there is only read, so that a cache may be shared and read-only.
    found = sha256(target)
    known = expected or _known(recorded)
    if known is None:
        _record(recorded, found)
    else:
        _check(found, known, target, url, recorded)
    return found


@contextlib.contextmanager
def exclusive_lock(target: Path) -> Iterator[None]:
    """Make the folder of ``target`` and let one process at a time into the context.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{target}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                progress.notice(f"another process is fetching {target.name}; waiting for it")
                lock.acquire()
            try:
                yield
            finally:
                lock.release()
    except StorageError as error:
        raise StorageError(
            error.problem, where=error.where, fix="Fix that, or set FIRSTLIGHT_CACHE to another folder."
        ) from error


def _download(url: str, target: Path, known: str | None, recorded: Path, max_bytes: int, pause: float) -> str:
    part = target.with_name(f"{target.name}.part")
    _with_retries(url, part, target, max_bytes, pause)
    found = sha256(part)
    if known is None:
        progress.notice(f"{target.name}: no SHA-256 is known, so this download's is recorded")
    else:
        _check(found, known, part, url, recorded)
    with storage_errors(target):
        part.replace(target)
        _validator(part).unlink(missing_ok=True)
    if known is None:
        _record(recorded, found)
    return found


def _known(recorded: Path) -> str | None:
    return recorded.read_text(encoding="ascii").strip() or None if recorded.is_file() else None


def _record(recorded: Path, found: str) -> None:
    try:
        write_atomic(recorded, found + "\n")
    except StorageError as error:
        progress.notice(f"the SHA-256 is not recorded: {error}")


def _check(found: str, known: str, file: Path, url: str, recorded: Path) -> None:
    if found == known:
        return
    aside = file.with_name(f"{file.name}.damaged")  # perhaps somebody has put it there
    with storage_errors(file):
        file.replace(aside)
    _validator(file).unlink(missing_ok=True)
    changed = f"; if the file at that address has changed on purpose, delete {recorded}" if recorded.is_file() else ""
    raise CorpusError(
        f"does not have the expected SHA-256, and was renamed to {aside.name}",
        where=file,
        found=f"SHA-256 {found}",
        expected=known,
        fix=f"Run again to fetch {url}{changed}.",
    )


def _with_retries(url: str, part: Path, target: Path, max_bytes: int, pause: float) -> None:
    """Transfer until it is done; a try that brought new bytes does not count as failed."""
    if not url.startswith(("https://", "http://")):
        raise CorpusError("is not an http or https URL", where=url)
    by_hand = f"Without a connection, put the file at {target} yourself."
    failed, wait = 0, pause
    while True:
        before = _size(part)
        try:
            _transfer(url, part, target.name, max_bytes)
            return
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500 and error.code not in _TRY_AGAIN:
                    raise CorpusError(
                        f"cannot be fetched: HTTP {error.code} {error.reason}", where=url, fix=by_hand
                    ) from error
            problem: Exception = error
        except _Broken as error:
            problem = error
        if _size(part) > before:
            failed, wait = 0, pause
        failed += 1
        if failed == _TRIES:
            raise CorpusError(f"cannot be fetched: {problem}", where=url, fix=by_hand) from problem
        progress.notice(f"{url}: {problem}; trying again in {wait:g} s")
        time.sleep(wait)
        wait *= 2


class _Broken(Exception):
    """The connection ended before the file did."""


def _transfer(url: str, part: Path, name: str, max_bytes: int) -> None:
    """Fetch the missing end of ``part``; all of it if the server does not support ranges or has another file now."""
    have = _size(part)
    headers = {"User-Agent": "firstlight"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _validator(part).is_file() and (tag := _validator(part).read_text(encoding="latin-1")):
            headers["If-Range"] = tag
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http or https
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        with error:
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return  # nothing is missing
        part.unlink()
        raise _Broken("the part that was there does not fit the file and was deleted") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error)) from error
    with answer:
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent a range other than the requested one")
        try:
            _write(answer, part, have if answer.status == 206 else 0, name, max_bytes)
        except CorpusError:
            part.unlink(missing_ok=True)
            raise


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent to anything but a web address, or from https to http."""

    def redirect_request(  # noqa: D102, PLR0913 - of the base class
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.full_url.lower().startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise urllib.error.HTTPError(newurl, code, f"redirects to {newurl[:200]}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _content_length(answer: Any) -> int | None:
    """Return the number of bytes that the server announces, or None.

    Raises:
        CorpusError: it is not a number, or has too many digits.
    """
    length = answer.headers.get("Content-Length")
    if length is None:
        return None
    if not _LENGTH.fullmatch(length.strip()):
        raise CorpusError(
            "the server sent an invalid Content-Length", where=answer.url, found=repr(length[:40]), expected="a number"
        )
    return int(length)


def _check_length(n_bytes: int, max_bytes: int, url: str) -> None:
    if n_bytes > max_bytes:
        raise CorpusError(
            "is too large to fetch",
            where=url,
            found=f"{n_bytes:,} bytes or more",
            expected=f"at most {max_bytes:,}",
            fix="Raise corpus.max_download_bytes.",
        )


def _write(answer: Any, part: Path, have: int, name: str, max_bytes: int) -> None:
    length = _content_length(answer)
    total = None if length is None else have + length
    _check_length(total or 0, max_bytes, answer.url)
    with storage_errors(part), progress.task(f"fetch {name}", total, "B") as task:
        if have == 0:
            tag = answer.headers.get("ETag", "")
            _validator(part).write_text("" if tag.startswith("W/") else tag, encoding="latin-1")
        with part.open("ab" if have else "wb") as file:
            task.advance(have)
            while block := _read(answer):
                file.write(block)
                task.advance(len(block))
                have += len(block)
                _check_length(have, max_bytes, answer.url)
    if total is not None and have < total:
        raise _Broken(f"connection closed after {have} of {total} bytes")


def _read(answer: Any) -> bytes:
    try:
        return bytes(answer.read(_BLOCK))
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"connection broken: {error}") from error


def _validator(part: Path) -> Path:
    """Return where the server's tag of the file under way is kept, so that two versions are never joined."""
    return part.with_name(f"{part.name}.etag")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
