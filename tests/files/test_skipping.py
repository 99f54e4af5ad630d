"""What a folder holds for programs is skipped and counted; what is named is read; nothing walks a whole system."""

import os
import socket
from pathlib import Path

import pytest

from firstlight import progress
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import CorpusError, UsageError
from firstlight.files.folders import list_folder, list_glob
from firstlight.finetuning.folders import read_folders
from firstlight.finetuning.spec import DataFiles


def write(folder: Path, *names: str, text: str = "text\n") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def listed(folder: Path, **options: bool) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_folder(folder, **options).files]


def test_what_is_not_data_is_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b/c.txt", ".DS_Store", "._a.txt", "Thumbs.db", "b/desktop.ini", "__MACOSX/a.txt")
    write(tmp_path, ".git/config", ".git/objects/1", "node_modules/x/README.md", "b/__pycache__/x.pyc")
    write(tmp_path, "env/pyvenv.cfg", "env/lib/x.txt", "runs/a/.firstlight-run", "runs/a/run.toml", "runs/a/log.txt")
    write(tmp_path, "store/manifest.json", "store/train.bin", "store/train.idx", "tok/tokenizer.json", "tok/README.md")
    write(tmp_path, "gpt2/config.json", "gpt2/model.safetensors", "gpt2/merges.txt")
    found = list_folder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == ["a.txt", "b/c.txt"]
    assert found.skipped == {
        "hidden": 4,
        "of the operating system": 3,
        "in node_modules, __pycache__ and the like": 2,
        "in virtual environments": 2,
        "in run directories": 3,
        "in token stores, tokenizers and models": 8,
    }
    everything = list_folder(tmp_path, skip=False)
    assert len(everything.files) == 2 + sum(found.skipped.values()) and not everything.skipped


def test_what_is_named_is_read(tmp_path: Path) -> None:
    write(tmp_path, ".hidden/a.txt", ".b.txt", "node_modules/c.txt", "env/pyvenv.cfg", "env/d.txt", "e.txt")
    (tmp_path / ".gitignore").write_text("*\n")
    assert listed(tmp_path / ".hidden") == ["a.txt"]
    assert listed(tmp_path / "node_modules") == ["c.txt"]
    assert listed(tmp_path / "env") == ["d.txt", "pyvenv.cfg"]
    for name in (".b.txt", "e.txt", "*.txt"):  # a pattern without ** names files
        assert len(list(open_corpus([str(tmp_path / name)]))) == 1
    assert list_glob(f"{tmp_path}/**/*.txt").files == []
    assert len(list_glob(f"{tmp_path}/**/*.txt", skip=False).files) == 5


def test_gitignore_is_read_as_git_reads_it(tmp_path: Path) -> None:
    write(tmp_path, "a.log", "keep.log", "build/x.txt", "b/build/x.txt", "only/1.txt", "b/only/1.txt", "b/a.log")
    write(tmp_path, "b/drop.txt", "b/c/drop.txt", "b/c/stay.txt", "é.txt", "b/[x].txt")
    (tmp_path / ".gitignore").write_bytes(
        "\ufeff# comment\r\n*.log\r\n!keep.log\r\nbuild/\r\n/only\r\né.txt\r\n!\n".encode()
    )
    (tmp_path / "b" / ".gitignore").write_text("drop.txt\n!a.log\n\\[x].txt\n")
    (tmp_path / "b" / "c" / ".gitignore").write_text("!drop.txt\nstay.txt")
    assert listed(tmp_path) == ["b/a.log", "b/c/drop.txt", "b/only/1.txt", "keep.log"]
    found = list_folder(tmp_path)
    assert found.skipped == {"named by .gitignore": 8, "hidden": 3}
    # A .gitignore above the folder that is named says nothing about it.
    assert listed(tmp_path / "build") == ["x.txt"]


def test_a_corpus_says_what_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "c", "a.txt", ".b.txt", "d/e.txt")
    (tmp_path / "c/.gitignore").write_text("d\n")
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        corpus = open_corpus([str(tmp_path / "c")])
    assert (
        f"{tmp_path}/c: 3 files skipped: 2 hidden, 1 named by .gitignore ({tmp_path}/c/d); corpus.skip=false" in said[0]
    )
    assert corpus.sources[0].skipped == {"hidden": 2, "named by .gitignore": 1}
    assert len(list(open_corpus([str(tmp_path / "c")], CorpusSettings(skip=False)))) == 3
    (tmp_path / "c/.gitignore").write_text("*\n")
    with pytest.raises(CorpusError, match=r"holds no file.*skipped: .*\.gitignore.*corpus\.skip=false"):
        open_corpus([str(tmp_path / "c")])


def test_folders_of_labels_are_walked_alike(tmp_path: Path) -> None:
    write(tmp_path, "good/1.txt", "bad/1.txt", "good/desktop.ini", ".cache/x/1.txt", "good/._1.txt")
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        rows = list(read_folders(tmp_path, DataFiles(train="x")))
    assert sorted(row["label"] for _, row in rows) == ["bad", "good"]
    assert any("3 files skipped: 2 hidden, 1 of the operating system" in text for text in said)


@pytest.mark.skipif(os.name == "nt", reason="pipes and sockets of POSIX")
def test_pipes_and_sockets_in_a_folder_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.txt")
        for skip in (True, False):
            found = list_folder(tmp_path, skip=skip, follow_symlinks=True)
            assert [path.name for path in found.files] == ["a.txt"]
            assert found.skipped == {"devices, pipes and sockets": 3}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")
def test_the_whole_system_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("/")
    for name in ("/", "//", "/../", "/**", "/**/*.txt", f"{tmp_path}/root", "/proc", "/sys/kernel", "/dev", "/run"):
        with pytest.raises(UsageError, match="root of the file system|of the kernel"):
            open_corpus([name])
    with pytest.raises(UsageError, match="root of the file system"):
        list(read_folders(Path("/"), DataFiles(train="/")))
    write(tmp_path, "in/a.txt")
    (tmp_path / "in/sys").symlink_to("/proc")
    assert listed(tmp_path / "in", follow_symlinks=True) == ["a.txt"]


def test_the_order_does_not_depend_on_how_names_are_composed(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    orders = []
    for folder, name in (("nfc", composed), ("nfd", decomposed)):
        write(tmp_path / folder, f"{name}.txt", text="accent")
        write(tmp_path / folder, "cafz.txt", text="z")
        write(tmp_path / folder, "B.txt", "a.txt", text="plain")
        orders.append([str(document.content) for document in open_corpus([str(tmp_path / folder)])])
    assert orders[0] == orders[1]
    hashes = {open_corpus([str(tmp_path / folder)]).sources[0].fingerprint() for folder in ("nfc", "nfd")}
    assert len(hashes) == 1
