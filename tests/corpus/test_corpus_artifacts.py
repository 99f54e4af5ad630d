"""What is made from a corpus is refused by what it is, and a corpus that only looks like it is read."""

from pathlib import Path

import pytest

from firstlight.corpus.artifacts import check_not_artifact
from firstlight.errors import UsageError


def write(path: Path, data: bytes = b"{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["config.json", "model.safetensors"], "a model directory"),
        (["config.json", "pytorch_model.bin", "vocab.txt"], "a model directory"),
        (["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"], "a model directory"),
        (["tokenizer.json", "tokenizer_config.json"], "a tokenizer"),
        (["tokenizer.model", "README.md", ".gitattributes"], "a tokenizer"),
        (["train.idx", "train.bin", "valid.idx"], "a token store"),
        (["run.toml", ".firstlight-run"], "a run directory"),
        (["run.toml", "checkpoints/step-00000004/config.json"], "a run directory"),
    ],
)
def test_a_folder_is_named(tmp_path: Path, files: list[str], what: str) -> None:
    for name in files:
        write(tmp_path / "it" / name)
    with pytest.raises(UsageError, match=f"is {what}, not a corpus"):
        check_not_artifact(tmp_path / "it")


@pytest.mark.parametrize(
    "files",
    [
        ["checkpoints/notes.txt", "book.txt"],
        ["tokenizer.json", "book.txt"],
        ["config.json", "records.jsonl"],
        ["train.bin", "val.bin", "meta.pkl"],
        ["run.toml", "book.txt"],
        [],
    ],
)
def test_a_folder_of_data_is_read(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "it").mkdir()
    for name in files:
        write(tmp_path / "it" / name)
    check_not_artifact(tmp_path / "it")


@pytest.mark.parametrize(
    ("name", "data", "is_artifact"),
    [
        ("model.gguf", b"GGUF\x03\0\0\0", True),
        ("model.pt", b"PK\x03\x04", True),
        ("model.pth", b"\x80\x02cos", True),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{", True),
        ("model.h5", b"\x89HDF\r\n", True),
        ("europarl.pt", "Declaro reaberta a sessão".encode(), False),
        ("wide.pt", "Declaro".encode("utf-16"), False),
        ("book.txt", b"\0", False),
    ],
)
def test_a_file(tmp_path: Path, name: str, data: bytes, is_artifact: bool) -> None:
    path = write(tmp_path / name, data)
    if not is_artifact:
        check_not_artifact(path)
        return
    with pytest.raises(UsageError, match="is a file of weights, not a corpus"):
        check_not_artifact(path)
