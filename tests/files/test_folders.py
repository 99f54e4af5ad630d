"""Links in a folder: followed once, or said; loops, broken links, links that a copy turned into text, second names."""

import os
import zipfile
from pathlib import Path

import pytest

from firstlight import progress
from firstlight.corpus import open_corpus
from firstlight.files.folders import list_folder, list_glob
from firstlight.finetuning.folders import read_folders
from firstlight.finetuning.spec import DataFiles
from firstlight.stages.list_runs import list_runs


@pytest.fixture
def notices() -> "list[str]":
    return []


@pytest.fixture(autouse=True)
def _collect(notices: list[str]):
    def collect(event: progress.Event) -> None:
        if not event.task:
            notices.append(event.text)

    with progress.listen(collect):
        yield


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}\n")
    return folder


def linked(tmp_path: Path) -> Path:
    folder = write(tmp_path / "in", "a/1.txt", "b/1.txt")
    write(tmp_path, "out/2.txt")
    (folder / "c").symlink_to("../out")
    (folder / "loop").symlink_to(".")
    (folder / "a/up").symlink_to("../..")
    (folder / "b/broken.txt").symlink_to("/nowhere")
    (folder / "b/same.txt").symlink_to("../a/1.txt")
    return folder


def test_each_link_is_followed_once_or_said(tmp_path: Path):
    folder = linked(tmp_path)
    found = list_folder(folder)
    assert [p.relative_to(folder).as_posix() for p in found.files] == ["a/1.txt", "b/1.txt"]
    assert {p.name for p in found.outside} == {"c", "up"}
    assert [p.name for p in found.broken] == ["broken.txt"]
    assert [p.name for p in found.again] == ["same.txt"]
    followed = list_folder(folder, follow_symlinks=True)
    assert {p.name for p in followed.files} == {"1.txt", "2.txt"}
    assert len(followed.files) == 3
    by_pattern = list_glob(f"{folder}/**/*.txt")
    assert [p.name for p in by_pattern.files] == ["1.txt", "1.txt"]
    assert [p.name for p in by_pattern.broken] == ["broken.txt"]
    assert [p.name for p in list_glob(f"{folder}/b/*.txt").broken] == ["broken.txt"]


def test_a_corpus_names_the_links_it_leaves_out(tmp_path: Path, notices: list[str]):
    texts = [document.content for document in open_corpus([str(linked(tmp_path))])]
    assert texts == ["text of a/1.txt\n", "text of b/1.txt\n"]
    assert any("lead out of the folder and are not followed" in text and "in/c" in text for text in notices)
    assert any("1 symbolic link leads nowhere" in text and "broken.txt" in text for text in notices)
    assert not any("same.txt" in text for text in notices)  # its text is read, once


def test_labels_name_a_link_that_would_be_a_row(tmp_path: Path, notices: list[str]):
    rows = [row for _, row in read_folders(linked(tmp_path), DataFiles(train="x"))]
    assert {row["label"] for row in rows} == {"a", "b"}
    assert any("has another name in the folder and is left out" in text and "same.txt" in text for text in notices)
    rows = [row for _, row in read_folders(tmp_path / "in", DataFiles(train="x", follow_symlinks=True))]
    assert {row["label"] for row in rows} == {"a", "b", "c"}


@pytest.mark.parametrize("target", ["../far/c", "/nowhere.txt", "a"])
def test_a_link_that_a_copy_kept_as_text_is_said(tmp_path: Path, notices: list[str], target: str):
    folder = write(tmp_path, "a/1.txt", "b/1.txt")
    (folder / "c").write_text(target)
    list(read_folders(folder, DataFiles(train="x")))
    assert any("holds only a path" in text and text.endswith("/c") for text in notices)
    assert any("left out, since not in the folder of a label: c" in text for text in notices)


def test_short_texts_are_not_paths(tmp_path: Path):
    for number, text in enumerate(["a\n", "word", "", ".. and so on", "and/or"]):
        (tmp_path / f"{number}.txt").write_text(text)
    assert list_folder(tmp_path).remarks("x") == []


def test_links_in_a_zip_file_are_said(tmp_path: Path, notices: list[str]):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.txt", "one")
        archive.writestr("b/1.txt", "two")
        link = zipfile.ZipInfo("c/1.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../a/1.txt")
    rows = list(read_folders(tmp_path / "a.zip", DataFiles(train="x")))
    assert len(rows) == 2
    assert any("links in a zip file are not followed: c/1.txt" in text for text in notices)


def test_names_in_a_zip_file_are_utf_8_or_said(tmp_path: Path, notices: list[str]):
    for encoding, is_said in (("utf-8", False), ("gbk", True)):
        name = "喜欢".encode(encoding)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(f"{'x' * len(name)}/1.txt", "one")
            archive.writestr("two/1.txt", "two")
        # Names without the flag of UTF-8, as the tools of many systems write them.
        data = (tmp_path / "a.zip").read_bytes()
        (tmp_path / "a.zip").write_bytes(data.replace(b"x" * len(name), name))
        labels = {row["label"] for _, row in read_folders(tmp_path / "a.zip", DataFiles(train="x"))}
        assert "two" in labels and len(labels) == 2
        assert ("喜欢" in labels) is not is_said
        assert any("are not in UTF-8" in text for text in notices) is is_said
        notices.clear()


@pytest.mark.parametrize("second", ["/a.txt", "/./a.txt", "/b/../a.txt", "/link.txt", "/hard.txt", ""])
def test_a_file_of_two_names_counts_once(tmp_path: Path, notices: list[str], second: str):
    write(tmp_path, "a.txt", "b/c.txt")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "a.txt")
    corpus = open_corpus([str(tmp_path / "a.txt"), f"{tmp_path}{second}"])
    assert any("several names, and count" in text for text in notices)
    texts = [str(document.content) for document in corpus]
    assert sorted(texts) == sorted({"text of a.txt\n", *([] if second else ["text of b/c.txt\n"])})
    notices.clear()
    open_corpus([str(tmp_path / "a.txt"), str(tmp_path / "b")])
    assert notices == []


def test_a_run_is_listed_once(tmp_path: Path):
    write(tmp_path, "mine/run.toml")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "also").symlink_to("mine")
    assert [run.name for run in list_runs(tmp_path)] == ["mine"]


def test_a_folder_that_cannot_be_listed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    folder, listed = write(tmp_path, "a/1.txt", "b/2.txt"), os.scandir

    def scandir(path: str):
        if str(path).endswith("b"):
            raise PermissionError(13, "denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for name in (folder, folder / "**" / "*.txt"):
        assert [str(d.content) for d in open_corpus([str(name)])] == ["text of a/1.txt\n"]
    said = f"1 folder cannot be listed, and the files in it left out: {folder / 'b'}"
    assert [text.endswith(said) for text in notices] == [True, True]
