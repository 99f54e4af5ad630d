"""Keys of config.json that can contradict each other: the model computes what transformers computes, or is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from firstlight.errors import FirstlightError
from firstlight.lm import LM

V, T = 61, 18
LLAMA = dict(
    vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip
GPT2 = dict(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3)
NEO = dict(
    vocab_size=V, hidden_size=16, num_layers=2, num_heads=2, max_position_embeddings=32, window_size=4,
    attention_types=[[["global", "local"], 1]], initializer_range=0.3,
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {"llama": LLAMA, "qwen3": LLAMA, "gpt2": GPT2, "gpt_neo": NEO, "openai-gpt": GPT2}
LINEAR = {"type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL = "original_max_position_embeddings"
DROP = object()  # a key that config.json lacks

ACCEPTED = [
    # rope_scaling replaces rope_parameters, with its rope_theta.
    ("llama", dict(rope_scaling=LINEAR)),
    ("qwen3", dict(rope_scaling=LINEAR)),
    ("llama", dict(rope_scaling=LINEAR, rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
    ("llama", dict(rope_scaling=LINEAR, rope_theta=500.0)),
    ("llama", dict(rope_scaling={**LINEAR, "rope_theta": 700.0}, rope_theta=500.0)),
    ("llama", dict(rope_scaling={}, rope_parameters={"rope_type": "linear", "factor": 4.0})),
    ("llama", dict(rope_scaling=None, rope_parameters=None, rope_theta=500.0)),
    ("llama", dict(rope_parameters={"rope_type": "default"}, rope_theta=500.0)),
    ("llama", dict(rope_parameters={"rope_type": "default", "rope_theta": 700.0}, rope_theta=500.0)),
    ("llama", dict(rope_parameters=DROP)),
    # rope_type before type; neither is the default type.
    ("llama", dict(rope_scaling={"rope_type": "default", "type": "linear", "factor": 2.0})),
    ("llama", dict(rope_scaling={"rope_type": "linear", "type": "default", "factor": 2.0})),
    ("llama", dict(rope_scaling={"factor": 2.0})),
    # The original context length: at the top level, in the parameters, else the context length.
    ("llama", dict(rope_scaling={**LLAMA3, ORIGINAL: 16})),
    ("llama", dict(rope_scaling={**LLAMA3, ORIGINAL: 16}, original_max_position_embeddings=32)),
    ("llama", dict(rope_scaling=LLAMA3)),
    ("qwen3", dict(rope_scaling=LLAMA3)),
    ("llama", dict(num_key_value_heads=4)),
    ("llama", dict(num_key_value_heads=None)),
    ("llama", dict(num_key_value_heads=DROP)),
    ("llama", dict(head_dim=None)),
    ("llama", dict(head_dim=DROP)),
    ("qwen3", dict(head_dim=DROP)),
    ("llama", dict(rms_norm_eps=DROP)),
    ("llama", dict(rms_norm_eps=0.1, layer_norm_eps=0.5)),
    ("llama", dict(hidden_act="swish")),
    ("llama", dict(hidden_act="silu", hidden_activation="gelu")),
    ("llama", dict(tie_word_embeddings=DROP)),
    ("llama", dict(tie_word_embeddings=True)),
    ("llama", dict(sliding_window=4, use_sliding_window=True)),
    ("llama", dict(attn_logit_softcapping=1.0, final_logit_softcapping=1.0)),
    ("llama", dict(torch_dtype="bfloat16", dtype="float32")),
    ("qwen3", dict(sliding_window=4, use_sliding_window=False, layer_types=DROP)),
    ("qwen3", dict(sliding_window=4, use_sliding_window=True, max_window_layers=2, layer_types=DROP)),
    ("qwen3", dict(sliding_window=None, use_sliding_window=True, max_window_layers=0, layer_types=DROP)),
    ("gpt2", dict(n_ctx=8)),
    ("gpt2", dict(num_attention_heads=4)),
    ("gpt2", dict(max_position_embeddings=32, n_positions=16)),
    ("gpt2", dict(n_inner=None)),
    ("gpt2", dict(n_inner=24)),
    ("gpt2", dict(layer_norm_epsilon=DROP, layer_norm_eps=0.5)),
    ("gpt2", dict(layer_norm_epsilon=0.1, layer_norm_eps=0.5)),
    ("gpt2", dict(hidden_act="relu")),
    ("gpt2", dict(activation_function="gelu")),
    ("gpt2", dict(activation_function="gelu_pytorch_tanh")),
    ("gpt2", dict(activation_function=DROP)),
    ("gpt2", dict(tie_word_embeddings=False)),
    ("gpt2", dict(tie_word_embeddings=DROP)),
    ("openai-gpt", dict(num_attention_heads=4, layer_norm_epsilon=0.1)),
    ("gpt_neo", dict(num_attention_heads=4, attention_layers=["global", "local"])),
    ("gpt_neo", dict(intermediate_size=None)),
]  # fmt: skip

REFUSED = [
    ("llama", dict(rope_scaling={"type": "yarn", "factor": 2.0})),
    ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2.0})),
    ("llama", dict(attention_bias=True)),
    ("llama", dict(tie_word_embeddings=None)),
    ("qwen3", dict(sliding_window=4, use_sliding_window=True, max_window_layers=1, layer_types=DROP)),
    ("qwen3", dict(sliding_window=4, use_sliding_window=True, layer_types=["full_attention", "sliding_attention"])),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True)),
    ("gpt2", dict(pruned_heads={"0": [1]})),
    ("gpt_neo", dict(attention_layers=["global", "global"])),
]


def _write(folder: Path, kind: str, change: dict[str, Any]) -> None:
    """Write a random model that has the weights which ``change`` needs, then change its config.json."""
    torch.manual_seed(0)
    known = {k: v for k, v in change.items() if v is not DROP and k in ("n_inner", "tie_word_embeddings") and v}
    known |= {"num_key_value_heads": 4} if change.get("num_key_value_heads", 2) != 2 else {}
    known |= {"head_dim": 128} if kind == "qwen3" and change.get("head_dim", 8) is DROP else {}
    known |= {"tie_word_embeddings": False} if change.get("tie_word_embeddings") is False else {}
    config = transformers.AutoConfig.for_model(kind, **{**KINDS[kind], **known})
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    table = {**json.loads((folder / "config.json").read_text()), **change}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in table.items() if v is not DROP}))


def _name(value: object) -> str:
    return (
        str(value).replace(" ", "").replace(str(DROP).replace(" ", ""), "-") if isinstance(value, dict) else str(value)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "change"), ACCEPTED, ids=_name)
def test_logits_are_those_of_transformers(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    _write(tmp_path, kind, change)
    ids = torch.randint(0, V, (2, T), generator=torch.Generator().manual_seed(2))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = LM.load_fp32(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)
    # And what we write from it is the same model.
    ours.save(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "change"), REFUSED, ids=_name)
def test_what_is_not_computed_is_refused(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    _write(tmp_path, kind, change)
    with pytest.raises(FirstlightError) as caught:
        LM.load_fp32(tmp_path)
    assert any(key in str(caught.value) for key in (*change, "attention_types"))


def test_keys_of_other_classes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path, "llama", dict(attn_logit_softcapping=30.0, sliding_window=None, rope_scaling={"factor": 2.0}))
    with caplog.at_level(logging.WARNING, "firstlight"):
        LM.load_fp32(tmp_path)
    assert "attn_logit_softcapping: ignored, as by LlamaForCausalLM" in caplog.text
    assert "factor: ignored, as by transformers for the rope_type default" in caplog.text
    assert "sliding_window" not in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("variant", ["head alone", "same head", "other head"])
def test_a_tied_head_as_in_transformers(kind: str, variant: str, tmp_path: Path) -> None:
    _write(tmp_path, kind, dict(tie_word_embeddings=True))
    state = load_file(tmp_path / "model.safetensors")
    name = next(n for n in state if "wte" in n or "embed_tokens" in n)
    head = state[name].clone() if variant != "other head" else state[name].flip(0).contiguous()
    if variant == "head alone":
        del state[name]
    save_file({**state, "lm_head.weight": head}, tmp_path / "model.safetensors", {"format": "pt"})
    ids = torch.arange(T)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = LM.load_fp32(tmp_path)
    assert ours.config.tied is (variant != "other head")
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)
