"""A manifest finds every kind of damage and names the file."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.files import MANIFEST, sha256, verify_manifest, write_manifest

CONTENTS = {"model.bin": b"some weights \x00\x01" * 9, "trainer/state.json": b'{"step": 3}', "empty": b""}


def make(folder: Path) -> Path:
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, {"step": 3, "name": "ü"})
    return folder


def test_a_whole_folder_has_no_problem(tmp_path: Path):
    make(tmp_path)
    assert verify_manifest(tmp_path) == []
    assert verify_manifest(tmp_path, contents=False) == []
    written = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert written["step"] == 3
    assert set(written["files"]) == set(CONTENTS)
    assert written["files"]["empty"] == {"size": 0, "sha256": sha256(tmp_path / "empty")}


def test_a_manifest_further_down_is_an_ordinary_file(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / MANIFEST).write_text("{}")
    write_manifest(tmp_path)
    (tmp_path / "sub" / MANIFEST).write_text("[]")
    assert len(verify_manifest(tmp_path)) == 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([name for name, content in CONTENTS.items() if content]), st.data())
def test_every_damage_is_found_and_named(name: str, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        root = make(Path(folder))
        path = root / name
        content = bytearray(path.read_bytes())
        kind = data.draw(st.sampled_from(["flip", "cut", "grow", "delete", "folder"]))
        if kind == "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        elif kind == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif kind == "grow":
            path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=3)))
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
        problems = verify_manifest(root)
        assert len(problems) == 1
        assert str(path) in problems[0]
        assert bool(verify_manifest(root, contents=False)) == (kind != "flip")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_in_the_manifest_is_found(data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        root = make(Path(folder))
        path = root / MANIFEST
        old = path.read_bytes()
        content = bytearray(old)
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        problems = verify_manifest(root)
        if not problems:
            # White space between tokens and the case of an escape say nothing.
            assert json.loads(content) == json.loads(old)
        else:
            assert any(str(root) in problem for problem in problems)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"files": 3}',
        b'{"files": []}',
        b'{"files": {"a": 3}}',
        b"\xff",
        b"{}",
        b'{"files": {"a": {"size": "x", "sha256": ""}}}',
        b'{"files": {}}',
    ],
)
def test_unreadable_manifests(tmp_path: Path, content: bytes):
    (tmp_path / MANIFEST).write_bytes(content)
    assert verify_manifest(tmp_path) == [f"{tmp_path / MANIFEST}: unreadable"]


def test_no_manifest_means_never_finished(tmp_path: Path):
    assert "incomplete" in verify_manifest(tmp_path)[0]
    assert "incomplete" in verify_manifest(tmp_path / "absent")[0]


def test_all_problems_are_listed(tmp_path: Path):
    make(tmp_path)
    for name in CONTENTS:
        (tmp_path / name).unlink()
    assert len(verify_manifest(tmp_path)) == len(CONTENTS)
