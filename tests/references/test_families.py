"""Every family against its transformers class: logits, loss and gradients, both directions."""

import pytest
import torch
import transformers

from firstlight.model import GPT, ModelConfig, from_hf_config, from_hf_state_dict, to_hf_config, to_hf_state_dict

SHAPES = {
    "gpt1": [dict(n_layer=3, n_head=3, n_embd=24)],
    "gpt2": [dict(n_layer=3, n_head=3, n_embd=24), dict(n_layer=2, n_head=1, n_embd=10, d_ff=37)],
    "gpt3": [dict(n_layer=3, n_head=3, n_embd=24, window=5), dict(n_layer=4, n_head=2, n_embd=20, window=3)],
    "llama": [
        dict(n_layer=3, n_head=6, n_kv_head=2, n_embd=30, d_head=8, d_ff=50),
        dict(n_layer=2, n_head=3, n_embd=24, tie_embeddings=True),
    ],
    "modern": [
        dict(n_layer=3, n_head=6, n_kv_head=3, n_embd=30, d_head=10, d_ff=50, rope_theta=5e4),
        dict(n_layer=2, n_head=3, n_embd=24, tie_embeddings=True),
    ],
}
CASES = [(family, shape) for family, shapes in SHAPES.items() for shape in shapes]
V, T = 97, 19


def build(family: str, shape: dict) -> GPT:
    model = GPT(ModelConfig(family=family, vocab_size=V, block_size=23, init_std=0.2, **shape))
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            if p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return model.eval()


def theirs(model: GPT):
    table = to_hf_config(model.config, eot_id=0)
    config = transformers.AutoConfig.for_model(**table)
    config._attn_implementation = "eager"
    other = transformers.AutoModelForCausalLM.from_config(config).eval()
    missing, unexpected = other.load_state_dict(to_hf_state_dict(model), strict=False)
    assert not unexpected
    assert all("lm_head" in name or "bias" in name and "attn" in name for name in missing)
    other.tie_weights()
    return other


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_logits_equal_transformers(family, shape):
    model = build(family, shape)
    other = theirs(model)
    ids = torch.randint(0, V, (2, T), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, ref = model(ids), other(ids).logits
    assert ref.std() > 0.05
    torch.testing.assert_close(ours, ref, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_weights_and_config_come_back(family, shape):
    model = build(family, shape)
    other = theirs(model)
    config = from_hf_config(other.config.to_dict())
    assert config.complete(V).model_dump(exclude={"init_std", "window"}) == model.config.model_dump(
        exclude={"init_std", "window"}
    )
    back = GPT(config)
    back.load_state_dict(from_hf_state_dict(config, other.state_dict()))
    for (name, a), (_, b) in zip(model.state_dict().items(), back.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_loss_and_gradients_equal_transformers(family, shape):
    model = build(family, shape)
    other = theirs(model)
    ids = torch.randint(0, V, (2, T + 1), generator=torch.Generator().manual_seed(3))
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    (loss.sum / loss.count).backward()
    logits = other(ids[:, :-1]).logits
    ref = torch.nn.functional.cross_entropy(logits.reshape(-1, V), ids[:, 1:].reshape(-1))
    ref.backward()
    torch.testing.assert_close(loss.sum / loss.count, ref, atol=1e-6, rtol=1e-6)
    grads = {name: p.grad for name, p in other.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad)
    for name, ours in to_hf_state_dict(model).items():
        torch.testing.assert_close(ours, grads[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
