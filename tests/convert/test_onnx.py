"""The ONNX model, as onnxruntime runs it."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from random_models import BLOCK, FAMILIES, V, lm, text, tokenizer

from firstlight import tokenizer as tokenizers
from firstlight.convert import get_exporter
from firstlight.errors import MissingExtra, UsageError
from firstlight.lm import LM

Past = list[np.ndarray]


class Session:
    """A model in onnxruntime."""

    def __init__(self, file: Path, model: LM) -> None:
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.config = model.config

    def empty(self, B: int) -> Past:
        c = self.config
        return [np.zeros((B, c.kv_heads, 0, c.head_dim), np.float32) for _ in range(2 * c.n_layer)]

    def __call__(
        self, ids: torch.Tensor, past: Past, mask: np.ndarray | None = None, positions: np.ndarray | None = None
    ) -> tuple[torch.Tensor, Past]:
        (B, T), P = ids.shape, past[0].shape[2]
        names = [f"past_key_values.{i}.{kind}" for i in range(self.config.n_layer) for kind in ("key", "value")]
        feed = {
            "input_ids": ids.numpy(),
            "attention_mask": np.ones((B, P + T), np.int64) if mask is None else mask,
            "position_ids": np.tile(np.arange(P, P + T), (B, 1)) if positions is None else positions,
            **dict(zip(names, past, strict=True)),
        }
        logits, *present = self.session.run(None, feed)
        return torch.from_numpy(logits), present


# Each takes seconds; the same graph of the others is tested in torch's own form.
EACH = [family if family == "modern" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


@pytest.fixture(scope="module", params=EACH)
def written(request, tmp_path_factory) -> tuple[LM, Path]:
    folder = tmp_path_factory.mktemp("onnx") / request.param
    model = lm(request.param)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    kinds = [type(module) for module in model.model.modules()]
    files = get_exporter("onnx").export(model, folder)
    assert set(files) == {
        "model.onnx",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(Path(path).is_file() for path in files.values())
    assert [type(module) for module in model.model.modules()] == kinds, "the model stays as it is"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())
    return model, folder


@pytest.fixture(scope="module")
def session(written) -> Session:
    model, folder = written
    return Session(folder / "model.onnx", model)


@torch.no_grad()
def expected(model: LM, ids: torch.Tensor) -> torch.Tensor:
    return model.model(ids)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_graph_is_sound_and_has_the_usual_names(written):
    model, folder = written
    held = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(held, full_check=True)
    c = model.config

    def axes(values) -> dict[str, list]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    inputs, outputs = axes(held.graph.input), axes(held.graph.output)
    assert list(inputs)[:4] == ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key"]
    assert list(outputs)[:3] == ["logits", "present.0.key", "present.0.value"]
    assert len(inputs) == 3 + 2 * c.n_layer and len(outputs) == 1 + 2 * c.n_layer
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    assert inputs["past_key_values.0.value"] == ["batch_size", c.kv_heads, "past_sequence_length", c.head_dim]
    assert outputs["logits"] == ["batch_size", "sequence_length", V]


def test_config_and_tokenizer_lie_beside(written):
    model, folder = written
    assert tokenizers.load(folder).hash == tokenizer().hash
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.vocab_size == V and config.eos_token_id == tokenizer().eot_id


@pytest.mark.parametrize(("B", "T"), [(3, BLOCK), (1, 1), (2, 7)])
def test_whole_texts(written, session, B, T):
    model, _ = written
    ids = text(B, T)
    assert expected(model, ids).std() > 0.1
    close(session(ids, session.empty(B))[0], expected(model, ids))


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("parts", [[1] * BLOCK, [9, 1, 1, 6, 1, 5], [1, 22]])
def test_part_by_part_with_the_cache(written, session, B, parts):
    model, _ = written
    ids = text(B, BLOCK)
    logits, past, done = [], session.empty(B), 0
    for n in parts:
        out, past = session(ids[:, done : done + n], past)
        logits.append(out)
        done += n
        assert past[0].shape[2] == done
    close(torch.cat(logits, 1), expected(model, ids))


def test_rows_of_different_lengths_are_padded_at_the_left(written, session):
    model, _ = written
    lengths, T = [11, 4, 1], 11
    texts = [text(1, n + 1)[0] for n in lengths]
    ids = torch.stack(
        [torch.cat((torch.zeros(T - n, dtype=torch.long), t[:n])) for t, n in zip(texts, lengths, strict=True)]
    )
    mask = np.stack([[0] * (T - n) + [1] * n for n in lengths]).astype(np.int64)
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    logits, past = session(ids, session.empty(3), mask, positions)
    for row, (words, n) in enumerate(zip(texts, lengths, strict=True)):
        close(logits[row, T - n :], expected(model, words[None, :n])[0])
    last = torch.stack([words[-1:] for words in texts])
    mask = np.concatenate((mask, np.ones((3, 1), np.int64)), 1)
    logits, _ = session(last, past, mask, np.array(lengths)[:, None])
    for row, words in enumerate(texts):
        close(logits[row, 0], expected(model, words[None])[0, -1])


@pytest.mark.slow
def test_large_weights_lie_in_a_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1 << 10)
    model, ids = LM(lm("gpt2").model, None), text(2, 5)
    files = get_exporter("onnx").export(model, tmp_path / "m")
    assert set(files) == {"model.onnx", "model.onnx.data", "config.json", "generation_config.json"}
    data = Path(files["model.onnx.data"])
    assert data.stat().st_size > 4 * V * model.config.n_embd > Path(files["model.onnx"]).stat().st_size / 10
    moved = (tmp_path / "m").rename(tmp_path / "elsewhere")
    session = Session(moved / "model.onnx", model)
    close(session(ids, session.empty(2))[0], expected(model, ids))


def test_unsupported_exports(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="int8"):
        get_exporter("onnx").export(lm("modern").quantize_int8(), tmp_path / "m")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"pip install .*onnx"):
        get_exporter("onnx").export(lm("modern"), tmp_path / "m")
    assert not (tmp_path / "m").exists()
