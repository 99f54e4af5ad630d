"""The decoder in C++ against the model's own forward pass, and how it is built."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstlight.errors import UsageError
from firstlight.model import GPT, ModelConfig, StaticCache
from firstlight.model.cache import CacheGroup
from firstlight.model.decoders import NativeDecoder, PlainDecoder, Segment, build, new_decoder, why_not_native
from firstlight.model.factorized_embedding import factorize_embedding
from firstlight.model.quantized import Int8Linear, to_int8

V, T = 61, 50
FAMILIES = ("gpt1", "gpt2", "gpt3", "llama", "modern")


def model_of(family: str, **more: object) -> GPT:
    """Widths that are no multiple of a vector, more than one query head for a key, a window within the text."""
    grouped = {"n_kv_head": 2} if family in ("llama", "modern") else {}
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 72, "window": 7, "vocab_size": V, "block_size": T}
    model = GPT(ModelConfig(family=family, init_std=0.1, **{**shape, **grouped, **more}))
    generator = torch.Generator().manual_seed(1)
    model.init_weights(generator)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()


def text(n: int = T, seed: int = 0) -> list[int]:
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(decoder: NativeDecoder | PlainDecoder, ids: list[int], cuts: list[int] | None = None) -> torch.Tensor:
    """The logits of every position of a text that is read in pieces."""
    cache = decoder.new_cache(len(ids))
    edges = [0, *sorted(set(cuts or [])), len(ids)]
    return torch.cat([decoder.forward([Segment(cache, a, ids[a:b], b - a)]) for a, b in pairwise(edges) if a < b])


@pytest.mark.parametrize("d_head", [None, 10, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models(family: str, d_head: int | None) -> None:
    if d_head and family not in ("llama", "modern"):
        pytest.skip("heads of any width: llama and modern")
    model = model_of(family, d_head=d_head)
    with torch.no_grad():
        expected = model(torch.tensor([text()]))[0]
    for decoder in (NativeDecoder(model), PlainDecoder(model)):
        torch.testing.assert_close(read(decoder, text()), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(read(decoder, text(), [1, 2, 17, 49]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_head", [16, 17, 24, 71])
def test_many_query_heads_share_a_key_head(n_head: int) -> None:
    model = model_of("llama", n_head=n_head, n_kv_head=1, d_head=6)
    with torch.no_grad():
        expected = model(torch.tensor([text()]))[0]
    torch.testing.assert_close(read(NativeDecoder(model), text()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_numbers_that_are_not_finite_are_passed_on(precision: str) -> None:
    model = model_of("modern")
    with torch.no_grad():
        model.blocks[0].norm2.weight[3] = torch.nan
    decoder = NativeDecoder(PRECISIONS[precision](model))
    assert not read(decoder, text(4)).isfinite().any()


def test_what_does_not_fit_is_refused() -> None:
    decoder = NativeDecoder(model_of("gpt2"))
    with pytest.raises(ValueError, match="51 positions do not fit block_size=50"):
        decoder.new_cache(51)
    for bad in (-1, V, 10**9):
        with pytest.raises(IndexError, match="the model has 61"):
            decoder.forward([Segment(decoder.new_cache(3), 0, [1, bad], 1)])


@pytest.mark.parametrize("family", ["gpt2", "gpt3", "modern"])
def test_the_plain_decoder_reads_all_rows_at_once_on_a_gpu(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = model_of(family), [text(20, seed) for seed in range(4)]
    expected = [read(PlainDecoder(model), ids) for ids in texts]
    monkeypatch.setattr(StaticCache, "groups", lambda cache: [CacheGroup(0, len(cache.rows), tuple(cache.lengths))])
    decoder = PlainDecoder(model)
    monkeypatch.setattr(decoder, "_is_cpu", False)
    caches = [decoder.new_cache(20) for _ in texts]
    for cache, ids, n in zip(caches, texts, (3, 9, 1, 15), strict=True):
        for i in range(n):  # each alone, while others have rows too
            decoder.forward([Segment(cache, i, [ids[i]], 1)])
    for step in range(5):
        at = [(i, n + step) for i, n in ((0, 3), (1, 9), (3, 15))]
        found = decoder.forward([Segment(caches[i], n, [texts[i][n]], 1) for i, n in at])
        torch.testing.assert_close(found, torch.stack([expected[i][n] for i, n in at]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_16_bit_weights_are_read_as_they_are(family: str) -> None:
    model = model_of(family)
    for p in model.parameters():
        p.data = p.data.bfloat16()
    exact = model_of(family)
    exact.load_state_dict({name: t.float() for name, t in model.state_dict().items()})
    with torch.no_grad():
        expected = exact(torch.tensor([text()]))[0]
    for decoder in (NativeDecoder(model), PlainDecoder(model)):
        torch.testing.assert_close(read(decoder, text()), expected, rtol=1e-5, atol=1e-5)


def quantized_product(layer: Int8Linear, x: np.ndarray) -> np.ndarray:
    """The definition in float64: activations in groups of 32, the largest of which is 127."""
    y = np.zeros((len(x), layer.rows))
    weight, scale = layer.quantized[: layer.rows].double().numpy(), layer.scale[: layer.rows].double().numpy()
    for first in range(0, layer.columns, 32):
        part = x[:, first : first + 32].astype(np.float64)
        step = np.maximum(np.abs(part).max(1, keepdims=True) / 127, 1e-30)
        y += np.rint(part / step) @ weight[:, first : first + part.shape[1]].T * step
    return y * scale


def test_int8_products_are_sums_of_integers() -> None:
    """A model of one matrix: logits of its normalised embeddings."""
    model = model_of("modern", n_layer=1, positions="none", tie_embeddings=False)
    with torch.no_grad():
        for p in (model.blocks[0].attention.out.weight, model.blocks[0].mlp.down.weight):
            p.zero_()
    to_int8(model)
    with torch.no_grad():
        x = model.norm(model.embed(torch.tensor(text()))).numpy()
    expected = torch.from_numpy(quantized_product(model.head, x)).float()
    torch.testing.assert_close(read(NativeDecoder(model), text()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_close_to_the_models(family: str) -> None:
    model = to_int8(model_of(family))
    with torch.no_grad():
        expected = model(torch.tensor([text()]))[0]
    found = read(NativeDecoder(model), text())
    assert (found - expected).norm() < 0.03 * expected.norm()


PRECISIONS = {
    "fp32": lambda model: model,
    "bf16": lambda model: [setattr(p, "data", p.data.bfloat16()) for p in model.parameters()] and model,
    "int8": to_int8,
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_bits_depend_neither_on_pieces_nor_on_other_sequences_nor_on_threads(family, precision, data) -> None:
    model = PRECISIONS[precision](model_of(family))
    decoder, texts = NativeDecoder(model), [text(n, seed=n) for n in (50, 31, 7)]
    cuts = data.draw(st.lists(st.integers(1, 49), max_size=6))
    expected = [read(decoder, ids) for ids in texts]
    decoder.threads = data.draw(st.integers(1, 3))
    assert read(decoder, texts[0], cuts).equal(expected[0])
    caches = [decoder.new_cache(50) for _ in texts]
    found = decoder.forward([Segment(c, 0, ids, len(ids)) for c, ids in zip(caches, texts, strict=True)])
    assert found.equal(torch.cat(expected))


def test_a_prefix_is_copied() -> None:
    model, ids = model_of("modern"), text()
    for decoder in (NativeDecoder(model), PlainDecoder(model)):
        first, second = decoder.new_cache(50), decoder.new_cache(30)
        decoder.forward([Segment(first, 0, ids, 0)])
        decoder.copy_prefix(first, second, 20)
        found = decoder.forward([Segment(second, 20, ids[20:30], 10)])
        torch.testing.assert_close(found, read(decoder, ids)[20:30], rtol=1e-5, atol=1e-5)


def test_rows_of_the_plain_decoder_move_when_others_leave() -> None:
    model, texts = model_of("gpt2"), [text(12, seed) for seed in range(4)]
    decoder = PlainDecoder(model)
    caches = [decoder.new_cache(12) for _ in texts]
    for cache, ids in zip(caches, texts, strict=True):
        decoder.forward([Segment(cache, 0, ids[:8], 0)])
    decoder.free(caches[0])
    decoder.free(caches[3])
    decoder.new_cache(40)
    found = decoder.forward([Segment(caches[i], 8, [texts[i][8]], 1) for i in (2, 1)])
    expected = [read(decoder, texts[i])[8] for i in (2, 1)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


class _Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_what_it_does_not_know_is_named_and_decoded_plainly() -> None:
    model = model_of("gpt2")
    assert why_not_native(model) is None
    assert isinstance(new_decoder(model), NativeDecoder)
    model.blocks[1].mlp = _Double()
    assert why_not_native(model) == "blocks.1.mlp is a _Double"
    assert isinstance(new_decoder(model), PlainDecoder)
    hooked = model_of("gpt2")
    handle = hooked.blocks[0].register_forward_hook(lambda *_: None)
    assert why_not_native(hooked) == "blocks.0 has a hook"
    handle.remove()
    assert why_not_native(hooked) is None
    assert why_not_native(model_of("gpt2").double()) == "embed.weight is torch.float64"
    with pytest.raises(UsageError, match=r"embed\.weight is torch\.float64"):
        NativeDecoder(model_of("gpt2").double())
    assert why_not_native(model_of("gpt2").to("meta")) == "the model is on meta"
    mixed = model_of("gpt2")
    mixed.blocks[1].mlp = model_of("gpt2", mlp="gelu").blocks[1].mlp
    assert why_not_native(mixed) == "blocks.1.mlp is a GeluMLP"
    wide = model_of("gpt2")
    wide.blocks[1].mlp = model_of("gpt2", d_ff=300).blocks[1].mlp
    assert why_not_native(wide) == "blocks.1.mlp.up has the shape (300, 72)"
    transposed = model_of("gpt2")
    transposed.blocks[0].attention.out.weight = nn.Parameter(torch.zeros(72, 72).t())
    assert why_not_native(transposed) == "blocks.0.attention.out.weight is not contiguous"
    factorized = model_of("gpt2")
    factorize_embedding(factorized, 8)
    assert why_not_native(factorized) == "embed is a FactorizedEmbedding"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No library is loaded, and the cache is empty."""
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_FLAGS", ("-std=c++17", "-O0", "-w"))  # which compiles sooner
    build.load_library.cache_clear()
    yield monkeypatch
    build.load_library.cache_clear()


def fake_compiler(folder: Path, script: str) -> None:
    folder.mkdir()
    path = folder / "g++"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{script}\n')
    path.chmod(0o755)


@pytest.mark.usefixtures("fresh")
class TestBuild:
    def test_it_is_compiled_once(self, tmp_path: Path) -> None:
        assert not isinstance(build.load_library(), str)
        (library,) = (tmp_path / "cache" / "native").iterdir()
        before = library.stat().st_mtime_ns
        build.load_library.cache_clear()
        assert not isinstance(build.load_library(), str)
        assert library.stat().st_mtime_ns == before

    def test_without_a_compiler_generation_is_plain(self, fresh: pytest.MonkeyPatch) -> None:
        fresh.setenv("PATH", "/nowhere")
        fresh.delenv("CXX", raising=False)
        assert build.load_library() == "no C++ compiler: install g++ or clang++"
        assert why_not_native(model_of("gpt2")) == build.load_library()
        assert isinstance(new_decoder(model_of("gpt2")), PlainDecoder)

    def test_it_can_be_turned_off(self, fresh: pytest.MonkeyPatch) -> None:
        fresh.setenv("FIRSTLIGHT_NATIVE", "0")
        assert isinstance(new_decoder(model_of("gpt2")), PlainDecoder)

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            ("exit 1", "its output does not run on this processor"),
            ("echo 'x.h:1: error: no such thing' >&2; exit 1", "x.h:1: error: no such thing"),
            ('while [ "$1" != -o ]; do shift || exit 0; done; echo junk > "$2"', "does not run on this processor"),
        ],
    )
    def test_a_compiler_that_fails_is_reported(self, fresh, tmp_path: Path, script: str, told: str) -> None:
        fake_compiler(tmp_path / "bin", script)
        fresh.setattr(build, "_compilers", lambda: [[str(tmp_path / "bin" / "g++")]])
        found = build.load_library()
        assert isinstance(found, str)
        assert told in found
        assert isinstance(new_decoder(model_of("gpt2")), PlainDecoder)

    def test_a_compiler_that_fails_leaves_it_to_the_next(self, fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake_compiler(tmp_path / "bin", "exit 1")
        fresh.setenv("CXX", f"{tmp_path / 'bin' / 'g++'} -m64")
        assert not isinstance(build.load_library(), str)

    def test_a_damaged_library_is_compiled_again(self, tmp_path: Path) -> None:
        build.load_library()
        (library,) = (tmp_path / "cache" / "native").iterdir()
        library.unlink()
        library.write_bytes(b"\x7fELF")
        library.chmod(0o600)
        build.load_library.cache_clear()
        assert not isinstance(build.load_library(), str)
        assert library.stat().st_size > 1000

    def test_a_library_that_others_may_write_is_not_loaded(self, tmp_path: Path, fresh: pytest.MonkeyPatch) -> None:
        build.load_library()
        (library,) = (tmp_path / "cache" / "native").iterdir()
        library.chmod(0o666)
        build.load_library.cache_clear()
        fresh.setenv("PATH", "/nowhere")
        fresh.setenv("CXX", shutil.which("g++", path=os.defpath) or "g++")
        fresh.setattr(build, "_compile", lambda *_: (_ for _ in ()).throw(OSError("compiled again")))
        assert "compiled again" in str(build.load_library())

    def test_without_a_home_it_is_compiled_each_time(self, fresh: pytest.MonkeyPatch) -> None:
        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        fresh.setattr(build, "cache_dir", no_home)
        assert not isinstance(build.load_library(), str)

    def test_a_cache_that_cannot_be_written_costs_compiling_each_time(self, fresh, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        fresh.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "file"))
        assert isinstance(new_decoder(model_of("gpt2")), NativeDecoder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_decodes_too() -> None:
    code = """
import os, torch
torch.set_num_threads(2)
import sys; sys.path.insert(0, "tests/model")
from test_decoders import NativeDecoder, model_of, read, text
decoder = NativeDecoder(model_of("gpt2"))
expected = read(decoder, text())
pid = os.fork()
if pid == 0:
    ok = read(decoder, text()).equal(expected) and read(NativeDecoder(model_of("gpt2")), text()).equal(expected)
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=120, env={**os.environ})
