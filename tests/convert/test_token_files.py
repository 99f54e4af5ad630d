"""Token stores from token files of nanoGPT, llm.c and Megatron-LM."""

import logging
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from firstlight.convert.token_files import import_token_files, recognizes
from firstlight.errors import StoreError, UsageError
from firstlight.store import TokenStore, write_index
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

EOT = 256


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    made = train([Document("x", "x")], TokenizerSettings(kind="byte"))
    assert made.eot_id == EOT
    return made


class Wide:
    """A tokenizer of many ids, of which the last is end-of-text."""

    def __init__(self, vocab_size: int = 128_256) -> None:
        self.vocab_size, self.eot_id, self.hash = vocab_size, vocab_size - 1, "wide" * 16
        self.unknown_id, self.has_unknown = None, False

    def byte_lengths(self) -> np.ndarray:
        return np.ones(self.vocab_size, np.int32)


def wide_ids(n: int = 500, vocab_size: int = 128_256) -> np.ndarray:
    return np.random.default_rng(n).integers(0, vocab_size - 1, n)


def save(folder: Path, name: str, values: np.ndarray, dtype: str, header: bytes = b"") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(header + values.astype(dtype).tobytes())
    return folder / name


def llmc_header(magic: int, version: int, count: int) -> bytes:
    return struct.pack("<3I", magic, version, count).ljust(1024, b"\0")


def ids(*lengths: int) -> np.ndarray:
    """Documents of these lengths, each ended by end-of-text, which counts."""
    return np.concatenate([np.append(np.arange(n - 1) % 256, EOT) for n in lengths]).astype("<u2")


def lengths_of(store: TokenStore, side: str) -> list[int]:
    split = getattr(store, side)
    return np.diff(split.bounds).tolist()


def test_nanogpt_token_files(tmp_path, encoder):
    (tmp_path / "data").mkdir()
    ids(5, 9, 3).tofile(tmp_path / "data" / "train.bin")
    ids(4, 2).tofile(tmp_path / "data" / "val.bin")
    (tmp_path / "data" / "train.bin.bak").write_bytes(b"")
    store = import_token_files(tmp_path / "data", tmp_path / "store", encoder, 0.1)
    assert np.array_equal(store.train.tokens, ids(5, 9, 3)) and np.array_equal(store.valid.tokens, ids(4, 2))
    assert (lengths_of(store, "train"), lengths_of(store, "valid")) == ([5, 9, 3], [4, 2])
    assert store.valid.n_bytes == 4 and store.tokenizer_hash == encoder.hash


def test_tokens_after_the_last_end_of_text_are_a_document(tmp_path, encoder):
    (np.concatenate([ids(5), [1, 2, 3]])).astype("<u2").tofile(tmp_path / "train.bin")
    ids(4).tofile(tmp_path / "val.bin")
    store = import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [5, 3]


def test_llmc_shards(tmp_path, encoder):
    for name, part in (("x_train_000002", ids(3)), ("x_train_000001", ids(5, 9)), ("x_val_000000", ids(4))):
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(part)
        (tmp_path / f"{name}.bin").write_bytes(header.tobytes() + part.tobytes())
    store = import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [5, 9, 3] and lengths_of(store, "valid") == [4]
    path = tmp_path / "x_val_000000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(StoreError, match="does not match its header"):
        import_token_files(tmp_path, tmp_path / "other", encoder, 0.1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("named", ["all.bin", "all.idx", "all"])
def test_megatron_pair_for_both_splits(tmp_path, encoder, named):
    lengths = [7] * 20
    ids(*lengths).astype("<i4").tofile(tmp_path / "all.bin")
    write_index(tmp_path / "all.idx", np.array(lengths), np.dtype("<i4"))
    store = import_token_files(tmp_path / named, tmp_path / "store", encoder, 0.1)
    assert lengths_of(store, "train") == [7] * 18 and lengths_of(store, "valid") == [7] * 2
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), ids(*lengths))


@pytest.mark.parametrize(("lengths", "ratio"), [([100], 0.2), ([3, 50], 0.1), ([9, 1, 1], 0.5), ([4, 4], 0.9)])
def test_split_keeps_every_token(tmp_path, encoder, lengths, ratio):
    ids(*lengths).tofile(tmp_path / "train.bin")
    store = import_token_files(tmp_path / "train.bin", tmp_path / "store", encoder, ratio)
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), ids(*lengths))
    assert len(store.train.tokens) > 1 and len(store.valid.tokens) > 1


def test_damaged_token_files(tmp_path, encoder):
    with pytest.raises(UsageError, match="no token files for training"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(StoreError, match="whole number of ids"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    np.array([1, 2, 300], "<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(StoreError, match="ids that the tokenizer does not have.*300"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(StoreError, match="holds too little text"):
        import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("dtype", ["<u4", "<i4", "<i8"])
@pytest.mark.parametrize("vocab_size", [300, 50_257, 65_536, 65_537, 128_256])
def test_width_of_raw_ids(tmp_path, vocab_size, dtype, caplog):
    """As wide as the tokenizer needs; wider where the upper halves show it, which is said."""
    values, encoder = wide_ids(800, vocab_size), Wide(vocab_size)
    save(tmp_path, "train.bin", values, dtype)
    save(tmp_path, "val.bin", values[:60], dtype)
    with caplog.at_level(logging.INFO, "firstlight"):
        store = import_token_files(tmp_path, tmp_path / "store", encoder, 0.1)
    assert np.array_equal(store.train.tokens, values) and np.array_equal(store.valid.tokens, values[:60])
    said = vocab_size <= 65_536 or dtype == "<i8"
    assert ("train.bin: read as" in caplog.text) is said


def test_shards_of_mixed_widths(tmp_path):
    values = wide_ids(800, 300)
    for i, dtype in enumerate(["<u2", "<u4", "<u2", "<i8"]):
        save(tmp_path, f"x_train_{i:06}.bin", values[200 * i : 200 * (i + 1)], dtype)
    np.save(tmp_path / "x_train_000004.npy", values.astype("<u4"))
    save(tmp_path, "x_val_000000.bin", values[:50], "<u2", llmc_header(20240520, 1, 50))
    store = import_token_files(tmp_path, tmp_path / "store", Wide(300), 0.1)
    assert np.array_equal(store.train.tokens, np.concatenate([values, values]))
    assert np.array_equal(store.valid.tokens, values[:50])


def test_llmc_shards_of_llama_3(tmp_path):
    values = wide_ids()
    save(tmp_path, "x_train_000000.bin", values, "<u4", llmc_header(20240801, 7, len(values)))
    save(tmp_path, "x_val_000000.bin", values[:50], "<u4", llmc_header(20240801, 7, 50))
    store = import_token_files(tmp_path, tmp_path / "store", Wide(), 0.1)
    assert np.array_equal(store.train.tokens, values) and np.array_equal(store.valid.tokens, values[:50])


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", "<u2", "<i4", "<i8"])
def test_every_type_of_megatron(tmp_path, dtype):
    values = wide_ids(100, 120)
    save(tmp_path, "all.bin", values, dtype)
    write_index(tmp_path / "all.idx", np.array([60, 40]), np.dtype(dtype))
    store = import_token_files(tmp_path / "all", tmp_path / "store", Wide(120), 0.1)
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), values)


def test_the_type_can_be_set(tmp_path):
    values = wide_ids(100, 250)
    save(tmp_path, "train.bin", values, "u1")
    store = import_token_files(tmp_path, tmp_path / "store", Wide(250), 0.1, dtype="uint8")
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), values)


def test_a_type_that_is_set_against_what_the_file_shows_is_said(tmp_path, caplog):
    save(tmp_path, "train.bin", wide_ids(), "<u4")
    with caplog.at_level(logging.WARNING, "firstlight"):
        import_token_files(tmp_path, tmp_path / "store", Wide(), 0.1, dtype="uint16")
    assert "train.bin: read as uint16, as set, but its ids look like uint32" in caplog.text


REFUSED = {
    "16 bits of a small tokenizer": (lambda f: save(f, "train.bin", wide_ids(800, 50_257), "<u2"), "look like 16 bits"),
    "big endian, 32 bits": (lambda f: save(f, "train.bin", wide_ids(), ">u4"), "its ids are big endian"),
    "big endian, 64 bits": (lambda f: save(f, "train.bin", wide_ids(), ">i8"), "its ids are big endian"),
    "an id too high": (
        lambda f: save(f, "train.bin", np.append(wide_ids(700), 128_256), "<u4"),
        r"train.bin: token 700: contains ids that the tokenizer does not have \(found 128256; expected 0 to 128255\)",
    ),
    "a negative id": (lambda f: save(f, "train.bin", np.append(wide_ids(70), -1), "<i4"), "token 70: .*4294967295"),
    "cut": (
        lambda f: save(f, "train.bin", np.zeros(3), "u1", wide_ids().astype("<u4").tobytes()),
        "not a whole number of ids of type uint32",
    ),
    "empty": (lambda f: save(f, "train.bin", wide_ids(1)[:0], "<u4"), "holds too little text"),
    "text": (lambda f: save(f, "train.bin", np.zeros(0), "u1", "To be or not, 海\n".encode() * 99), "a text file"),
    "gzip": (lambda f: save(f, "train.bin", wide_ids(), "<u4", b"\x1f\x8b\x08\0"), "is a gzip file"),
    "lit-gpt": (lambda f: save(f, "train_0.bin", wide_ids(), "<u4", b"LITPKDS".ljust(24, b"\1")), "is a packed data"),
    "llm.c, version": (
        lambda f: save(f, "train.bin", wide_ids(9), "<u4", llmc_header(20240801, 8, 9)),
        r"unsupported version of llm.c's shards \(found 8; expected 7\)",
    ),
    "llm.c, more in the header": (
        lambda f: save(f, "train.bin", wide_ids(9), "<u4", llmc_header(20240801, 7, 10)),
        "does not match its header .*36 bytes.*40, for 10 ids of type uint32",
    ),
    "llm.c, 16 bits by its header": (
        lambda f: save(f, "train.bin", wide_ids(9), "<u2", llmc_header(20240801, 7, 9)),
        "does not match its header",
    ),
    "llm.c, cut header": (lambda f: save(f, "train.bin", np.array([20240801, 7]), "<u4"), "not enough bytes for llm.c"),
    "floats": (lambda f: (f.mkdir(), np.save(f / "train.npy", np.zeros(9))), "no numbers of an accepted type"),
    "rows": (lambda f: (f.mkdir(), np.save(f / "train.npy", np.zeros((3, 3), int))), "not a sequence of ids"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_file_of_these_ids_is_refused(tmp_path, case):
    harm, words = REFUSED[case]
    harm(tmp_path / "data")
    with pytest.raises(StoreError, match=words) as caught:
        import_token_files(tmp_path / "data", tmp_path / "store", Wide(), 0.0)
    assert "data" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_big_endian_ids_of_16_bits_and_the_command_that_converts_them(tmp_path):
    values = wide_ids(800, 50_257)
    path = save(tmp_path / "the data", "train.bin", values, ">u2")
    with pytest.raises(StoreError, match="big endian") as caught:
        import_token_files(path, tmp_path / "store", Wide(50_257), 0.1)
    subprocess.run(caught.value.fix.removeprefix("Convert it: "), shell=True, check=True)
    store = import_token_files(path, tmp_path / "store", Wide(50_257), 0.1)
    assert np.array_equal(np.concatenate([store.train.tokens, store.valid.tokens]), values)


def test_the_manifest_names_the_source(tmp_path):
    save(tmp_path / "data", "train.bin", wide_ids(), "<u4")
    import_token_files(tmp_path / "data", tmp_path / "store", Wide(), 0.1)
    assert f'"name": "{tmp_path / "data"}"' in (tmp_path / "store" / "manifest.json").read_text()


@pytest.mark.parametrize("case", ["ids-uint32", "llmc-uint32"])
def test_handed_files(tmp_path, shared_data, case):
    folder = shared_data.parent / "cases" / "import" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    store = import_token_files(folder, tmp_path / "store", Wide(), 0.1)
    assert len(store.train.tokens) == 70_983 and store.train.tokens[:3].tolist() == [18038, 68962, 8547]


def test_training_args_of_a_model_are_not_token_files(tmp_path):
    for name, wanted in (("training_args.bin", False), ("x_train_000001.bin", True)):
        (tmp_path / name).write_bytes(bytes(8))
        assert recognizes(tmp_path) is wanted


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i8"])
def test_width_of_raw_ids_that_are_mostly_zero(tmp_path, encoder, dtype):
    """Padded sequences and images: most numbers are 0 in both halves of an id."""
    values = np.random.default_rng(0).integers(-700, 256, 600).clip(0)
    save(tmp_path / "in", "train.bin", values, dtype)
    save(tmp_path / "in", "val.bin", values[:8], dtype)  # too short to show its type
    store = import_token_files(tmp_path / "in", tmp_path / "store", encoder, 0.1)
    assert (store.train.n_tokens, store.valid.n_tokens) == (600, 8)
    assert np.array_equal(np.fromfile(tmp_path / "store" / "train.bin", "<u2"), values)


def test_files_of_several_splits(tmp_path, encoder, caplog):
    for name in ("train.bin", "val.bin", "test.bin", "extra.bin", "._train.bin"):
        save(tmp_path / "in", name, ids(40, 60), "<u2")
    with caplog.at_level(logging.INFO):
        store = import_token_files(tmp_path / "in", tmp_path / "store", encoder, 0.1)
    assert (store.train.n_tokens, store.valid.n_tokens) == (100, 100)
    assert "left out: extra.bin, test.bin" in caplog.text and "_train" not in caplog.text
    save(tmp_path / "in", "train_val.bin", ids(40), "<u2")
    with pytest.raises(UsageError, match=r"train_val.bin: is named for training and for validation"):
        import_token_files(tmp_path / "in", tmp_path / "other", encoder, 0.1)


def test_a_width_of_8_bits_for_more_ids_is_said(tmp_path, encoder, caplog):
    save(tmp_path / "in", "train.bin", ids(400), "<u2")
    import_token_files(tmp_path / "in", tmp_path / "store", encoder, 0.1, "uint8")
    assert "read as uint8, as set, which has 256 ids: the tokenizer has 257" in caplog.text
