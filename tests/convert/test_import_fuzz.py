"""Damaged and malicious files of every format: one-line errors, no code is run, and memory stays bounded.

Valid files are changed at random: bits flipped, numbers in headers made huge or negative, parts cut, inserted or
swapped. Every importer must read the result or raise a FirstlightError; any other exception fails the test, and so does
memory far beyond the size of the files.
"""

import os
import random
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from reference_files import (
    model,
    pieces,
    write_gpt1,
    write_gpt2,
    write_hf_bin,
    write_llama2c,
    write_llama2c_tokenizer,
    write_llmc,
    write_llmc_tokenizer,
    write_meta,
    write_nanogpt,
)
from test_gguf import file_with
from tiny_lm import lm

from firstlight.convert import get_exporter, read_model
from firstlight.convert.nanogpt import read_meta
from firstlight.convert.token_files import import_token_files
from firstlight.errors import FirstlightError
from firstlight.lm import LM
from firstlight.store import write_index
from firstlight.tokenizer import import_tokenizer

HUGE = [0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1, 10**9, 127, 255, 65535]


def load_model(path: Path) -> None:
    found, where = read_model(str(path))
    found.to_lm(where)


def load_store(path: Path) -> None:
    out = path.with_name("out-store")
    shutil.rmtree(out, ignore_errors=True)
    import_token_files(path, out, lm("gpt2", "byte").tokenizer, 0.1)


def _dir(folder: Path, family: str) -> Path:
    LM(model(family), None).save(folder)
    return folder


def _gguf(folder: Path, family: str) -> Path:
    get_exporter("gguf").export(lm(family, "bpe", n_layer=1), folder / "m.gguf", "q8_0")
    return folder / "m.gguf"


def _bare_gguf(folder: Path) -> Path:
    file_with(folder / "m.gguf")
    return folder / "m.gguf"


def _megatron(folder: Path) -> Path:
    get_exporter("megatron").export(LM(model("llama", n_layer=1), None), folder / "m")
    return folder / "m"


def _keras(folder: Path) -> Path:
    get_exporter("keras").export(LM(model("gpt2", n_layer=1, n_head=1, n_embd=8), None), folder / "m.keras")
    return folder / "m.keras"


def _ids(folder: Path) -> Path:
    part = np.arange(60) % 257
    part.astype("<i4").tofile(folder / "x.bin")
    write_index(folder / "x.idx", np.array([20, 40]), np.dtype("<i4"))
    return folder / "x.bin"


def _llama(**shape) -> Callable:
    return model("llama", n_layer=1, n_head=2, n_kv_head=2, n_embd=16, d_ff=20, **shape)


# By name: what makes a file or folder, and what reads it.
CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "llama2c": (lambda f: write_llama2c(f / "m.bin", _llama()), load_model),
    "llama2c-1": (lambda f: write_llama2c(f / "m.bin", _llama(), 1), load_model),
    "llama2c-2": (lambda f: write_llama2c(f / "m.bin", _llama(), 2), load_model),
    "llmc": (lambda f: write_llmc(f / "m.bin", model("gpt2", n_layer=1, n_head=1, n_embd=8)), load_model),
    "nanogpt": (lambda f: write_nanogpt(f / "c.pt", model("gpt2", n_layer=1, n_head=1, n_embd=8)), load_model),
    "hf-bin": (lambda f: write_hf_bin(f / "m", model("gpt2", n_layer=1, n_head=1, n_embd=8), shards=2), load_model),
    "hf-old-bin": (lambda f: write_hf_bin(f / "m", model("gpt1", n_layer=1), old=True), load_model),
    "hf": (lambda f: _dir(f / "m", "modern"), load_model),
    "gpt1": (lambda f: write_gpt1(f / "m", model("gpt1", n_layer=1, n_head=1, n_embd=8)), load_model),
    "gpt2": (lambda f: write_gpt2(f / "m", model("gpt2", n_layer=1, n_head=1, n_embd=8)), load_model),
    "gguf-llama": (lambda f: _gguf(f, "llama"), load_model),
    "gguf-gpt2": (lambda f: _gguf(f, "gpt2"), load_model),
    "gguf-bare": (_bare_gguf, load_model),
    "keras": (_keras, load_model),
    "megatron": (_megatron, load_model),
    "meta.pkl": (lambda f: write_meta(f / "meta.pkl", "abc\n d"), read_meta),
    "tokenizer-llama2c": (lambda f: write_llama2c_tokenizer(f / "tokenizer.bin", pieces()), import_tokenizer),
    "tokenizer-llmc": (
        lambda f: write_llmc_tokenizer(f / "t.bin", [*(bytes([b]) for b in range(256)), b"ab", b"abc", b"<end>"], 258),
        import_tokenizer,
    ),
    "ids": (_ids, load_store),
}


def changed(data: bytes, dice: random.Random) -> bytes:
    """One to four changes; most of them near the beginning, where headers are."""
    held = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        n = len(held)
        reach = n if dice.random() < 0.4 else min(n, dice.choice((32, 300, 1500)))
        at = dice.randrange(reach) if reach else 0
        kind = dice.randrange(7)
        if kind == 0 and n:
            held[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and n:
            held[at] = dice.randrange(256)
        elif kind == 2:
            form, value = dice.choice(("<I", "<Q", ">I")), dice.choice(HUGE)
            size = struct.calcsize(form)
            held[at : at + size] = struct.pack(form, value % (1 << 8 * size))
        elif kind == 3:
            del held[at:]
        elif kind == 4:
            del held[at : at + dice.randrange(1, 40)]
        elif kind == 5:
            held[at:at] = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 40)))
        else:
            other = dice.randrange(n) if n else 0
            held[at : at + 8] = held[other : other + 8]
    return bytes(held)


def changed_text(text: str, dice: random.Random) -> str:
    """Exchange a number, or a word, of a JSON file."""
    words = text.split(" ")
    at = dice.randrange(len(words))
    words[at] = dice.choice([*map(str, HUGE), "1e400", "null", '"x"', "[]", "{}", "../x", "-1", "true", "NaN,", ""])
    return " ".join(words)


@contextmanager
def little_memory():
    """Let this process take half a GiB more than it has, so that a file's claims cannot be allocated."""
    if sys.platform != "linux":
        yield
        return
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + (512 << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attack(name: str, folder: Path, rounds: int, seed: int) -> int:
    """Change a file of the form again and again; return how many of the results were refused."""
    make, load = CASES[name]
    (folder / "right").mkdir()
    target = make(folder / "right").relative_to(folder / "right")
    files = sorted(p.relative_to(folder / "right") for p in (folder / "right").rglob("*") if p.is_file())
    whole = {file: (folder / "right" / file).read_bytes() for file in files}
    load(folder / "right" / target)  # else nothing would be tested
    dice, refused, wrong = random.Random(seed), 0, folder / "wrong"
    shutil.copytree(folder / "right", wrong)
    before = set(folder.iterdir())
    with little_memory():
        for number in range(rounds):
            file = dice.choice(files)
            is_text = file.suffix == ".json" and dice.random() < 0.7
            made = changed_text(whole[file].decode(), dice).encode() if is_text else changed(whole[file], dice)
            (wrong / file).write_bytes(made)
            try:
                load(wrong / target)
            except FirstlightError as error:
                refused += 1
                message = str(error)
                assert "\n" not in message and len(message) < 1000, (name, number, message)
            except BaseException as error:
                kept = Path(os.environ.get("FIRSTLIGHT_FUZZ_KEEP", str(folder))) / f"{name}-{seed}-{number}-{file.name}"
                kept.write_bytes(made)
                raise AssertionError(f"{name}, change {number} of {file}: {type(error).__name__}: {error}") from error
            (wrong / file).write_bytes(whole[file])
            stray = set(folder.iterdir()) - before
            assert not stray, stray
    return refused


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_refused_in_one_line(tmp_path, name):
    assert attack(name, tmp_path, 60, 0) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_thousand_damaged_files_are_refused(tmp_path, name):
    rounds = -(-100_000 // len(CASES))
    assert attack(name, tmp_path, rounds, 1) > rounds // 20
