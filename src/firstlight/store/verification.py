"""Verify every byte of a token store: on request, and once before it is trained or evaluated on."""

import json
from pathlib import Path

from firstlight import progress
from firstlight.errors import StoreError
from firstlight.files import MANIFEST, is_known_intact, remember_intact, verify_manifest
from firstlight.store.store import Split, TokenStore

_CHUNK = 1 << 22


def open_store(directory: Path, *, tokenizer_hash: str | None = None, verify: bool = True) -> TokenStore:
    """Open a store, and verify every byte unless that was done before and no file has changed since.

    What was verified is remembered in the cache folder, by the sizes, times and inodes of the files.

    Args:
        directory: the store.
        tokenizer_hash: the tokenizer that will read it, or None.
        verify: False: only formats and sizes are checked.

    Raises:
        StoreError: it is incomplete, damaged or of another format.
        CompatibilityError: it was made with another tokenizer.
    """
    store = TokenStore.open(directory, tokenizer_hash=tokenizer_hash)
    if verify and not is_known_intact(directory, _file_names(store)):
        problems = verify_store(directory)
        if problems:
            raise StoreError(
                "the token store is damaged",
                where=directory,
                found="; ".join(problems[:3]) + (f"; {len(problems) - 3} more" if len(problems) > 3 else ""),
                fix="Restore it from a copy, or delete it and make it again from its corpus.",
            )
    return store


def remember(store: TokenStore) -> None:
    """Record that the contents of a store are those of its manifest."""
    remember_intact(store.directory, _file_names(store))


def verify_store(directory: Path, *, tokenizer_hash: str | None = None) -> list[str]:
    """Check every byte of a store; return the problems, one clause each, naming the file.

    Args:
        directory: the store.
        tokenizer_hash: the tokenizer that will read it, or None.
    """
    with progress.task("verify", _size(directory), "B") as task:
        problems = verify_manifest(directory, advance=task.advance)
    if problems:
        return problems
    try:
        store = TokenStore.open(directory)
        for side, split in (("train", store.train), ("valid", store.valid)):
            for what, found in ((f"{side}_tokens", split.n_tokens), (f"{side}_documents", split.n_documents)):
                if (expected := store.manifest.get(what)) != found:
                    problems.append(f"{directory / MANIFEST}: {what} is {expected}, but the files hold {found}")
            if not _in_vocabulary(split, store.vocab_size):
                problems.append(f"{directory / side}.bin: an id is outside the vocabulary of {store.vocab_size}")
    except StoreError as error:
        return [str(error)]
    if not problems:
        remember(store)
    if tokenizer_hash is not None and store.tokenizer_hash != tokenizer_hash:
        problems.append(
            f"{directory}: made with the tokenizer {store.tokenizer_hash[:12]}, not with {tokenizer_hash[:12]}"
        )
    return problems


def _in_vocabulary(split: Split, vocab_size: int) -> bool:
    parts = (split.tokens[first : first + _CHUNK] for first in range(0, split.n_tokens, _CHUNK))
    return all(int(part.min()) >= 0 and int(part.max()) < vocab_size for part in parts)


def _file_names(store: TokenStore) -> list[str]:
    return [MANIFEST, *sorted(store.manifest["files"])]


def _size(directory: Path) -> int | None:
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        return sum(int(entry["size"]) for entry in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
