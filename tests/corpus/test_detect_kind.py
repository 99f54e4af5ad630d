"""What a corpus is made of is told by its files; what cannot be told is refused by name."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from arrays import idx, mnist, png

from firstlight.corpus import infer_kind
from firstlight.errors import CorpusError, UsageError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_files_say_it_by_suffix_or_first_bytes():
    mnist(Path())
    np.save("one.npy", np.arange(9))
    np.save("rows.npy", np.zeros((3, 4), np.int64))
    np.save("pictures.npy", np.zeros((3, 4, 4), np.uint8))
    np.save("colored.npy", np.zeros((3, 4, 4, 3), np.uint8))
    Path("packed.npy.gz").write_bytes(gzip.compress(Path("rows.npy").read_bytes()))
    Path("raw.bin").write_bytes(b"\0\0")
    png(Path("a.png"), np.zeros((2, 2))).rename("bare")
    png(Path("a.jpg"), np.zeros((2, 2)))
    Path("a.txt").write_text("text", encoding="utf-8")
    Path("log").write_text("text of an unknown suffix", encoding="utf-8")
    found = {
        name: infer_kind([name])
        for name in (
            "one.npy",
            "rows.npy",
            "packed.npy.gz",
            "raw.bin",
            "pictures.npy",
            "colored.npy",
            "bare",
            "a.jpg",
            "train-images-idx3-ubyte.gz",
            "a.txt",
            "log",
            "-",
            "tinyshakespeare",
            "hf:name",
            "nothere",
        )
    }
    assert [name for name, kind in found.items() if kind == "ids"] == [
        "one.npy",
        "rows.npy",
        "packed.npy.gz",
        "raw.bin",
    ]
    images = ["pictures.npy", "colored.npy", "bare", "a.jpg", "train-images-idx3-ubyte.gz"]
    assert [name for name, kind in found.items() if kind == "images"] == images


def test_folders_and_patterns():
    for i in range(12):
        png(Path(f"pets/cats/{i}.png"), np.zeros((2, 2)))
    assert infer_kind(["pets"]) == infer_kind(["pets/**/*.png"]) == "images"
    Path("pets/README.md").write_text("cats", encoding="utf-8")
    assert infer_kind(["pets"]) == "images"
    png(Path("docs/one.png"), np.zeros((2, 2)))
    for name in "ab":
        Path(f"docs/{name}.md").write_text("text", encoding="utf-8")
    assert infer_kind(["docs"]) == "text"
    Path("arrays").mkdir()
    np.save("arrays/b.npy", np.arange(3))
    assert infer_kind(["arrays"]) == "ids"
    assert infer_kind(["docs", "nothere"]) == "text"


def test_mixtures_are_refused():
    png(Path("both/a.png"), np.zeros((2, 2)))
    Path("both/a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"both: may be text or images .found 1 text files, 1 images"):
        infer_kind(["both"])
    np.save("ids.npy", np.arange(3))
    with pytest.raises(UsageError, match="text, ids or images .found ids.npy: ids, both/a.png: images"):
        infer_kind(["ids.npy", "both/a.png"])


def test_a_damaged_array_is_named_at_once():
    Path("x.npy").write_bytes(b"no array")
    with pytest.raises(CorpusError, match="x.npy: is not an .npy file"):
        infer_kind(["x.npy"])
    Path("y.npy").write_bytes(b"\x93NUMPY\x01\0\xff\xff{")
    with pytest.raises(CorpusError, match="y.npy: has an invalid .npy header"):
        infer_kind(["y.npy"])
    Path("z.npy.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(CorpusError, match="damaged or truncated"):
        infer_kind(["z.npy.gz"])
    Path("labels").write_bytes(idx(np.arange(4)))
    assert infer_kind(["labels"]) == "images"
