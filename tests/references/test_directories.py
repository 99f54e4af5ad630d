"""A model directory of each family, written here and read by transformers, and the other way round."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from firstlight.config import preset, resolve
from firstlight.model import (
    GPT,
    ModelConfig,
    count_parameters,
    from_hf_config,
    from_hf_state_dict,
    new_cache,
    to_hf_config,
    to_hf_state_dict,
)
from firstlight.stages.settings import PretrainSettings

V, T = 61, 18
SHAPES = {
    "gpt1": dict(n_layer=2, n_head=2, n_embd=16),
    "gpt2": dict(n_layer=2, n_head=2, n_embd=16, d_ff=37),
    "gpt2 untied": dict(n_layer=2, n_head=2, n_embd=16, tie_embeddings=False),
    "gpt3": dict(n_layer=3, n_head=2, n_embd=16, window=4),
    "llama": dict(n_layer=2, n_head=4, n_kv_head=1, n_embd=16, rope_theta=3e4),
    "llama tied": dict(n_layer=2, n_head=4, n_embd=16, tie_embeddings=True),
    "modern": dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=18, d_head=6),
    "modern tied": dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, tie_embeddings=True),
}
every_shape = pytest.mark.parametrize("name", SHAPES)


def config_of(name: str) -> ModelConfig:
    return ModelConfig(family=name.split()[0], vocab_size=V, block_size=20, init_std=0.3, **SHAPES[name])


def ids() -> torch.Tensor:
    return torch.randint(0, V, (2, T), generator=torch.Generator().manual_seed(2))


@every_shape
def test_transformers_reads_what_was_exported(name: str, tmp_path) -> None:
    model = GPT(config_of(name)).eval()
    model.init_weights(torch.Generator().manual_seed(1))
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(model.config, eot_id=0)))
    state = {k: v.contiguous() for k, v in to_hf_state_dict(model).items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    other, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(ids()).logits, model(ids()), rtol=1e-5, atol=1e-4)


@every_shape
def test_what_transformers_saved_is_read(name: str, tmp_path) -> None:
    torch.manual_seed(3)
    table = to_hf_config(config_of(name), eot_id=0)
    other = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**table)).eval()
    other.save_pretrained(tmp_path)
    config = from_hf_config(json.loads((tmp_path / "config.json").read_text()))
    model = GPT(config).eval()
    model.load_state_dict(from_hf_state_dict(config, load_file(tmp_path / "model.safetensors")))
    with torch.no_grad():
        wanted = other(ids()).logits
        assert wanted.std() > 0.05
        torch.testing.assert_close(model(ids()), wanted, rtol=1e-5, atol=1e-4)


@every_shape
def test_a_cache_continues_as_transformers_does(name: str) -> None:
    model = GPT(config_of(name)).eval()
    model.init_weights(torch.Generator().manual_seed(1))
    table = to_hf_config(model.config, eot_id=0)
    other = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**table)).eval()
    other.load_state_dict(to_hf_state_dict(model), strict=False)
    other.tie_weights()
    with torch.no_grad():
        written = other.generate(
            ids()[:, :4],
            attention_mask=torch.ones(2, 4),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        ours, cache = ids()[:, :4], new_cache(model.config, 2, 20, torch.device("cpu"), torch.float32)
        for _ in range(12):
            ours = torch.cat((ours, model(ours[:, cache.lengths[0] :], cache=cache)[:, -1:].argmax(-1)), 1)
    assert torch.equal(ours, written)


@pytest.mark.parametrize("name", ["gpt1-117m", "gpt2-1.5b", "gpt3-175b", "smollm2-360m", "article", "small"])
def test_parameters_are_counted_as_transformers_counts_them(name: str) -> None:
    settings = resolve(PretrainSettings, preset("firstlight.stages.presets.pretrain", name))
    config = settings.model.complete(int(settings.tokenizer.vocab_size))
    with torch.device("meta"):
        table = to_hf_config(config, eot_id=0)
        other = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**table))
    assert count_parameters(config).total == other.num_parameters()
