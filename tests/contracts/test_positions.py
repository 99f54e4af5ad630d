"""The contract of position schemes, norms and MLPs; every entry of their tables is tested here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.config import Settings, resolve
from firstlight.convert import get_exporter
from firstlight.errors import CheckpointError, ConfigError, UsageError
from firstlight.lm import LM, download_from_hub
from firstlight.model import (
    GPT,
    MLPS,
    NORMS,
    POSITIONS,
    ModelConfig,
    StaticCache,
    flops_per_token,
    from_hf_config,
    fused_splits,
    hf_mismatch,
    new_cache,
    to_hf_config,
)
from firstlight.model.cache import new_store
from firstlight.model.decoders import Segment, new_decoder
from firstlight.model.positions import PositionScheme, alibi_slopes, position_scheme

pytestmark = pytest.mark.usefixtures("trust_files")

V, BLOCK_SIZE = 23, 16
FAMILIES = ("gpt1", "gpt2", "gpt3", "llama", "modern")
PARTS = [(part, name) for part, table in (("positions", POSITIONS), ("norm", NORMS), ("mlp", MLPS)) for name in table]
CASES = [(family, part, name) for family in FAMILIES for part, name in PARTS]
every_case = pytest.mark.parametrize(("family", "part", "name"), CASES)
every_scheme = pytest.mark.parametrize("name", POSITIONS)


class Root(Settings):
    model: ModelConfig = ModelConfig()


def config(family: str = "llama", **more: object) -> ModelConfig:
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 16, "window": 5, "vocab_size": V, "block_size": BLOCK_SIZE}
    return ModelConfig(family=family, init_std=0.3, **{**shape, **more})


def build(family: str = "llama", **more: object) -> GPT:
    model = GPT(config(family, **more))
    model.init_weights(torch.Generator().manual_seed(5))
    return model.double().eval()


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@every_case
def test_is_causal(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}), ids(1, 12)
    changed = text.clone()
    changed[0, 7:] = (changed[0, 7:] + 5) % V
    with torch.no_grad():
        one, two = model(text), model(changed)
    torch.testing.assert_close(one[:, :7], two[:, :7], rtol=0, atol=1e-12)
    assert (one[:, 7:] - two[:, 7:]).abs().amax() > 1e-3


@every_case
def test_cached_equals_uncached(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}), ids(2, BLOCK_SIZE)
    cache = new_cache(model.config, 2, BLOCK_SIZE, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        parts = [model(text[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 11), (11, 12), (12, BLOCK_SIZE))]
        torch.testing.assert_close(torch.cat(parts, 1), model(text), rtol=0, atol=1e-10)


@every_case
def test_packing_changes_nothing(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}), ids(1, 9)
    starts = torch.zeros(1, 13, dtype=torch.bool)
    starts[0, [0, 4]] = True
    with torch.no_grad():
        packed = model(torch.cat([ids(1, 4, 1), text], 1), starts=starts)
        torch.testing.assert_close(packed[:, 4:], model(text), rtol=0, atol=1e-10)


@every_case
def test_decoders_compute_what_the_model_computes(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}).float(), ids(1, 12)[0].tolist()
    with torch.no_grad():
        expected = model(torch.tensor([text]))[0]
    for decoder in (new_decoder(model, native=native) for native in (None, False)):
        cache = decoder.new_cache(12)
        first = decoder.forward([Segment(cache, 0, text[:7], 7)])
        found = [first, *(decoder.forward([Segment(cache, i, [text[i]], 1)]) for i in range(7, 12))]
        torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)


@every_case
def test_bf16_is_close_and_has_gradients(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}).float(), ids(2, 12)
    exact = model.loss(text, text.roll(-1, 1)).sum.detach()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(text, text.roll(-1, 1)).sum
    rounded.backward()
    assert abs(rounded.detach().item() / exact.item() - 1) < 0.02
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@every_case
def test_compiled_equals_eager(family: str, part: str, name: str) -> None:
    model, text = build(family, **{part: name}).float(), ids(2, 12)
    losses = [
        loss(text, text.roll(-1, 1)).sum.detach() for loss in (model.loss, torch.compile(model.loss, dynamic=False))
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


@every_case
def test_splits_and_flops_match_the_parameters(family: str, part: str, name: str) -> None:
    model = build(family, **{part: name})
    shapes = {k: p.shape for k, p in model.named_parameters()}
    assert all(sum(rows) == shapes[k][0] for k, rows in fused_splits(model).items())
    matrices = sum(p.numel() for k, p in model.named_parameters() if p.ndim > 1 and k.startswith("blocks."))
    assert flops_per_token(model.config, 1) == 6 * (matrices + V * 16) + 12 * 16 * model.config.n_layer


@every_case
def test_config_json_comes_back_and_names_a_class_that_can_express_it(family: str, part: str, name: str) -> None:
    complete = config(family, **{part: name}).complete(V)
    table = to_hf_config(complete, eot_id=0)
    assert (table["model_type"] == "firstlight") == (hf_mismatch(complete) is not None)
    drop = {"window"} if family != "gpt3" else set()
    assert from_hf_config(table).complete(V).model_dump(exclude=drop) == complete.model_copy(
        update={"window": complete.window}
    ).model_dump(exclude=drop)


@every_case
def test_saved_weights_come_back(family: str, part: str, name: str, tmp_path: Path) -> None:
    model = build(family, **{part: name}).float()
    LM(model, None).save(tmp_path)
    back = LM.load_fp32(tmp_path).model
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back(ids(2, 12)), model(ids(2, 12)))


@every_scheme
def test_longer_than_block_size_works_or_raises_by_name(name: str) -> None:
    model, text = build(positions=name), ids(1, BLOCK_SIZE + 5)
    if not model.positions.extrapolates:
        with pytest.raises(ValueError, match=f"{BLOCK_SIZE + 5} tokens.*block_size={BLOCK_SIZE}.*{name}"):
            model(text)
        return
    store = new_store(model.config, 1, BLOCK_SIZE + 5, torch.device("cpu"), torch.float64)
    cache = StaticCache(store, [0], [0])
    with torch.no_grad():
        parts = [model(text[:, :BLOCK_SIZE], cache=cache), model(text[:, BLOCK_SIZE:], cache=cache)]
        torch.testing.assert_close(torch.cat(parts, 1), model(text), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in POSITIONS if position_scheme(config(positions=name)).is_relative])
def test_relative_schemes_are_unchanged_by_a_shift(name: str) -> None:
    model, T = build(positions=name), 8
    q, k = torch.randn(2, 1, T, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = []
    for positions in (torch.arange(T), torch.arange(T) + 7):
        rotation, bias = model.positions.rotation(positions), model.positions.bias(positions, positions)
        rotated = [model.positions.rotate(x, *rotation).transpose(1, 2) for x in (q, k)]
        scores.append(rotated[0] @ rotated[1].transpose(-1, -2) + (0 if bias is None else bias))
    # Tables of angles are in fp32.
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_head", [1, 2, 3, 4, 6, 8, 12, 16, 20, 40])
def test_alibi_slopes_are_the_papers(n_head: int) -> None:
    """The recursive formula of Press et al.'s code in float64, and the slopes of Bloom and MPT in transformers."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    def slopes(n: int) -> list[float]:
        if n & (n - 1) == 0:
            start = 2.0 ** (-(2.0 ** -(np.log2(n) - 3)))
            return [start * start**i for i in range(n)]
        closest = 2 ** int(np.log2(n))
        return slopes(closest) + slopes(2 * closest)[0::2][: n - closest]

    ours = alibi_slopes(n_head).double()
    torch.testing.assert_close(ours, torch.tensor(slopes(n_head), dtype=torch.float64), rtol=1e-6, atol=0)
    bloom = build_alibi_tensor(torch.ones(1, 3), n_head, torch.float32)  # slope times position
    torch.testing.assert_close(ours, bloom[:, 0, 1].double(), rtol=1e-6, atol=0)
    mpt = -build_mpt_alibi_tensor(n_head, 3)[:, 0, 1].double()  # minus slope times distance
    assert sorted(mpt.tolist()) == pytest.approx(sorted(ours.tolist()), rel=1e-6)


def test_alibi_attention_equals_the_formula_in_float64() -> None:
    model, T, D = build(positions="alibi", n_layer=1, n_kv_head=2), 10, 4
    attention, x = model.blocks[0].attention, torch.randn(1, 10, 16, dtype=torch.float64)
    q, k, v = attention.qkv(x).split((16, 8, 8), -1)
    out = []
    for head, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        group = head // 2
        keys, values = k[0, :, group * D : (group + 1) * D], v[0, :, group * D : (group + 1) * D]
        scores = q[0, :, head * D : (head + 1) * D] @ keys.t() / D**0.5
        for i in range(T):
            for j in range(T):
                scores[i, j] = scores[i, j] - slope * (i - j) if j <= i else -torch.inf
        out.append(scores.softmax(-1) @ values)
    expected = attention.out(torch.cat(out, -1))
    positions = torch.arange(T)
    mask = model.positions.bias(positions, positions).masked_fill(
        ~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf
    )
    torch.testing.assert_close(attention(x, (), mask, None)[0], expected, rtol=1e-12, atol=1e-12)


def test_settings_of_other_schemes_and_unknown_names_are_refused_by_key() -> None:
    for table, words in (
        ({"positions": "alibbi"}, ("model.positions", "unknown position scheme", "alibi", "package.module")),
        ({"norm": "torch.nn:Linear"}, ("model.norm", "Norm")),
        ({"mlp": "nowhere.at_all:X"}, ("model.mlp", "cannot be loaded", "PYTHONPATH")),
        ({"positions": "alibi", "rope_scaling": {"factor": 2.0}}, ("rope_scaling does not apply to alibi",)),
        ({"positions": "rotary", "n_embd": 9, "n_head": 3}, ("even d_head",)),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve(Root, {"model": table})
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_transformers_and_other_formats_refuse_it_by_name(tmp_path: Path) -> None:
    from transformers import AutoConfig

    lm = LM(build("gpt2", positions="alibi").float(), None)
    lm.save(tmp_path / "m")
    with pytest.raises(ValueError, match="firstlight"):
        AutoConfig.from_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match="does not support model.positions=alibi.*gpt2 has learned"):
        get_exporter("gguf").export(lm, tmp_path / "m.gguf")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "model.positions=alibi" in card and "library_name: firstlight" in card


OUTSIDE = """
import torch
from firstlight.model import PositionScheme

class Distance(PositionScheme):
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.zeros(config.n_head, 8))

    def bias(self, queries, keys):
        far = (queries[..., :, None] - keys[..., None, :]).clamp(0, 7)
        bias = self.table[:, far].movedim(0, -3)
        return bias if bias.ndim == 4 else bias[None]
"""


@pytest.mark.slow
def test_a_scheme_from_outside_trains_resumes_and_generates_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "outside_scheme.py").write_text(OUTSIDE)
    (tmp_path / "text.txt").write_text("The sun also rises, and the sun goes down. " * 200)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def call(*words: str, expected: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "firstlight", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr

    sizes = ["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.block_size=16", "tokenizer.kind=byte"]
    steps = ["train.batch_tokens=64", "train.checkpoint_every=2", "hardware.device=cpu"]
    name = "model.positions=outside_scheme:Distance"
    call("pretrain", "text.txt", "--out", "run", *sizes, *steps, name, "train.steps=4")
    call("pretrain", "run/run.toml", "--resume", "train.steps=6", "--trust")
    generated = call("generate", "run", "The sun", "--trust", "--max-new-tokens", "24")
    assert "The sun" in generated
    refused = call("export", "run", "--to", "gguf", "out.gguf", "--trust", expected=2)
    assert "model.positions=outside_scheme:Distance" in refused


def test_a_downloaded_model_cannot_name_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    LM(build("gpt2", positions="alibi").float(), None).save(tmp_path)
    file = tmp_path / "config.json"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert download_from_hub("someone/thing") == tmp_path
    file.write_text(file.read_text().replace('"alibi"', '"antigravity:fly"'))
    with pytest.raises(CheckpointError, match="names Python code.*antigravity:fly"):
        download_from_hub("someone/thing")
    assert "antigravity" not in sys.modules


def test_a_bias_of_integers_is_added_as_numbers() -> None:
    class Distance(PositionScheme):
        def bias(self, queries, keys):
            return -(queries[:, None] - keys[None, :]).abs()[None, None]

    model = GPT(ModelConfig(family="llama", n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=10))
    model.positions = Distance(model.config)
    assert torch.isfinite(model(torch.arange(8)[None])).all()
