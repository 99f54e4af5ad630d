"""Manifests: size and SHA-256 of every file in a folder, written last."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from firstlight.files.atomic import write_atomic

MANIFEST = "manifest.json"
_CHECKPOINT = re.compile(r"step-(\d{1,20})")
_SELF_HASH = "manifest_sha256"
_READ_BYTES = 1 << 22


def sha256(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """Compute the SHA-256 of a file, in hexadecimal; ``advance`` is called with the sizes of the parts read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
            if advance is not None:
                advance(len(part))
    return digest.hexdigest()


def write_manifest(
    folder: Path, extra: Mapping[str, Any] | None = None, *, exclude: Collection[str] = ()
) -> dict[str, Any]:
    """Write ``manifest.json`` for all files below ``folder``, with the keys of ``extra``.

    Args:
        folder: the folder.
        extra: further keys.
        exclude: names of files and of folders in ``folder`` that are left out.
    """
    files = {
        p.relative_to(folder).as_posix(): {"size": p.stat().st_size, "sha256": sha256(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p != folder / MANIFEST and not {p.name, p.relative_to(folder).parts[0]} & set(exclude)
    }
    manifest = {**(extra or {}), "files": files}
    manifest[_SELF_HASH] = _self_hash(manifest)
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def verify_manifest(
    folder: Path, *, contents: bool = True, advance: Callable[[int], object] | None = None
) -> list[str]:
    """Return the problems of a folder, one clause per problem, naming the file; an empty list if it is intact.

    Args:
        folder: a folder with a manifest.
        contents: check the SHA-256 of every file; False compares only names and sizes.
        advance: called with the sizes of the parts read, to report progress.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        entries = [(str(name), int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()]
        intact = manifest[_SELF_HASH] == _self_hash(manifest)
    except FileNotFoundError:
        return [f"{path}: missing, so the folder is incomplete"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return [f"{path}: unreadable"]
    if not intact:
        return [f"{path}: its contents differ from its own SHA-256"]
    problems = [renamed] if (renamed := _renamed(folder, manifest)) else []
    for name, size, digest in entries:
        file = folder / name
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif file.stat().st_size != size:
            problems.append(f"{file}: {file.stat().st_size} bytes, expected {size} by the manifest")
        elif contents and sha256(file, advance) != digest:
            problems.append(f"{file}: bytes differ from the manifest's SHA-256")
    return problems


def changed_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Return a problem for each of the named files whose SHA-256 is not that in the manifest.

    Files that the manifest does not list, and folders without one, have no problem.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return []
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        listed = manifest["files"]
        expected = {name: str(listed[name]["sha256"]) for name in names if name in listed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [f"{path}: unreadable"]
    return [
        f"{folder / name}: does not match the SHA-256 in the manifest"
        for name, digest in expected.items()
        if (folder / name).is_file() and sha256(folder / name) != digest
    ]


def renamed_checkpoint(folder: Path) -> str | None:
    """Return what is wrong with the name of a checkpoint whose manifest records another step, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return _renamed(folder, manifest) if isinstance(manifest, dict) else None


def _renamed(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    named, step = _CHECKPOINT.fullmatch(folder.name), manifest.get("step")
    if named is None or not isinstance(step, int) or int(named[1]) == step:
        return None
    return f"{folder}: the checkpoint is of step {step}, its name says {int(named[1])}: rename it to step-{step:08d}"


def _self_hash(manifest: Mapping[str, Any]) -> str:
    """Hash the manifest itself, so that damage to it is detected too."""
    rest = {key: value for key, value in manifest.items() if key != _SELF_HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
