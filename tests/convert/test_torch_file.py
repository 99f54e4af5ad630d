"""Files of torch.save: no code runs, and nothing larger than the file is allocated."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from reference_files import model, write_meta, write_nanogpt

from firstlight.convert import read_model
from firstlight.convert.nanogpt import read_meta
from firstlight.convert.torch_file import load
from firstlight.errors import CheckpointError


class Bomb:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path, zipped):
    torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="not a readable torch.save file"):
        load(tmp_path / "ckpt.pt")
    assert not (tmp_path / "ran").exists()


def test_code_in_plain_pickles_is_not_run(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        read_model(str(tmp_path / "x.bin"))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": {0: Bomb(tmp_path / "ran")}}))
    with pytest.raises(CheckpointError, match=r"refers to code, which is not run: (posix|nt)\.mkdir"):
        read_meta(tmp_path / "meta.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_compressed_zip_is_refused_before_it_grows(tmp_path):
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for member in whole.infolist():
            out.writestr(member.filename, whole.read(member))
    assert (tmp_path / "b.pt").stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match="is compressed"):
        load(tmp_path / "b.pt")


def test_legacy_layout_with_a_storage_larger_than_the_file(tmp_path):
    torch.save({"x": torch.zeros(4)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path / "a.pt")["x"], torch.zeros(4))
    whole = (tmp_path / "a.pt").read_bytes()
    at = whole.index(b"cpu") + 3
    # The storage's size follows as BININT1 4 behind the memo's opcode; make it BININT of a thousand million.
    small = whole.index(b"K\x04", at)
    (tmp_path / "b.pt").write_bytes(whole[:small] + b"J\x00\xca\x9a\x3b" + whole[small + 2 :])
    with pytest.raises(CheckpointError, match="larger than the file"):
        load(tmp_path / "b.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_expanded_tensors_are_refused(tmp_path, zipped):
    torch.save({"x": torch.zeros(1).expand(1 << 20)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="larger than (its storage|the file)"):
        load(tmp_path / "a.pt")
    torch.save({str(i): torch.zeros(100)[:99] for i in range(3)}, tmp_path / "b.pt")
    held = torch.zeros(2000)
    torch.save({str(i): held for i in range(50)}, tmp_path / "c.pt")
    assert len(load(tmp_path / "b.pt")) == 3
    with pytest.raises(CheckpointError, match="larger than (its storage|the file)"):
        load(tmp_path / "c.pt")


def test_files_that_are_not_nanogpt_checkpoints(tmp_path):
    torch.save({"model": {}, "model_args": {"n_layer": 1}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of nanoGPT.*n_embd"):
        read_model(str(tmp_path / "a.pt"))
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="weights without a config"):
        read_model(str(tmp_path / "b.pt"))
    torch.save(
        {"model_args": dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size", "vocab_size"), 4)}, tmp_path / "c"
    )
    with pytest.raises(CheckpointError, match="does not contain a state dict"):
        read_model(str(tmp_path / "c"))
    path = write_nanogpt(tmp_path / "d.pt", model("gpt2"))
    held = torch.load(path)
    held["model"]["transformer.wte.weight"][0, 0] = float("inf")
    torch.save(held, path)
    with pytest.raises(CheckpointError, match="not finite"):
        read_model(str(path))


def test_invalid_meta_pkl(tmp_path):
    assert read_meta(write_meta(tmp_path / "meta.pkl", "ba")).encode("ab") == [1, 0]
    for held, message in (
        ([1], "does not contain itos"),
        ({"itos": {1: "a"}}, "does not contain itos"),
        ({"itos": {0: "abc"}}, "not single characters"),
        ({"itos": {0: "a", 1: "a"}}, "duplicate"),
    ):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(held))
        with pytest.raises(Exception, match=message):
            read_meta(tmp_path / "meta.pkl")
    (tmp_path / "meta.pkl").write_bytes(bytes(20 << 20))
    with pytest.raises(CheckpointError, match="too large"):
        read_meta(tmp_path / "meta.pkl")


def test_a_persistent_id_in_a_meta_pkl_is_refused(tmp_path):
    class Outside(pickle.Pickler):
        def persistent_id(self, obj):
            return "elsewhere" if obj == "x" else None

    held = io.BytesIO()
    Outside(held).dump({"itos": "x"})
    (tmp_path / "meta.pkl").write_bytes(held.getvalue())
    with pytest.raises(CheckpointError, match="unsupported instruction: BINPERSID"):
        read_meta(tmp_path / "meta.pkl")
