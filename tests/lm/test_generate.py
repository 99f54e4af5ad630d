from dataclasses import asdict

import pytest
import torch
from tiny_lm import FAMILIES, KINDS, gpt, lm, tokenizer

from firstlight import progress
from firstlight.errors import CheckpointError, CompatibilityError, UsageError
from firstlight.lm import LM, GenerateSettings, GenerationConfig
from firstlight.lm import lm as lm_module

PROMPTS = ["The sun", "", "不亦说乎", "All the rivers run into the sea, yet the sea", "The sun"]
GREEDY = GenerateSettings(max_new_tokens=15, temperature=0)
SAMPLED = GenerateSettings(max_new_tokens=15, temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_texts_one_by_one(family):
    model = lm(family, "bpe")
    together = model.generate(PROMPTS, GREEDY)
    assert [made.prompt for made in together] == PROMPTS
    assert together == [model.generate(prompt, GREEDY)[0] for prompt in PROMPTS]
    assert len({made.text for made in together}) == 4


def test_a_sampled_text_depends_on_seed_prompt_and_place_only():
    model = lm("modern", "byte")
    texts = [made.text for made in model.generate(PROMPTS, SAMPLED)]
    assert texts[0] != texts[4], "the same prompt at another place has other numbers"
    assert [made.text for made in model.generate(PROMPTS[:2], SAMPLED)] == texts[:2]
    assert [made.text for made in model.generate(["x", "y", "z", "", "The sun"], SAMPLED)][4] == texts[4]
    assert model.generate("The sun", SAMPLED)[0].text == texts[0]
    assert model.generate("The sun", SAMPLED.model_copy(update={"seed": 4}))[0].text != texts[0]


def test_little_memory_changes_nothing(monkeypatch):
    model = lm("gpt2", "bpe")
    settings = SAMPLED.model_copy(update={"num_samples": 3})
    whole = model.generate(PROMPTS, settings)
    for positions in (1, 60, 200):
        monkeypatch.setattr(lm_module, "_CACHE_BYTES", {"cpu": positions * 2 * 3 * 24 * 4})
        assert model.generate(PROMPTS, settings) == whole


def test_num_samples_follow_each_prompt_in_turn():
    model = lm("modern", "byte")
    settings = SAMPLED.model_copy(update={"num_samples": 3})
    made = model.generate(["a", "b"], settings)
    assert [one.prompt for one in made] == ["a", "a", "a", "b", "b", "b"]
    assert len({one.text for one in made}) == 6
    assert model.generate([], settings) == []


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "bpe" else pytest.mark.slow) for kind in KINDS]
)
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_joined_is_the_first_text(kind, settings):
    model = lm("gpt2", kind)
    for prompt in PROMPTS[:4]:
        for stop in ([], ["e"], ["乎", "\n"]):
            asked = settings.model_copy(update={"stop": stop})
            pieces = list(model.stream(prompt, asked))
            assert all(pieces)
            assert "".join(pieces) == model.generate(prompt, asked)[0].text


def test_stops_and_end_of_text_end_single_rows():
    model = lm("modern", "byte")
    free = model.generate(PROMPTS, SAMPLED)
    stop = free[0].text[6:8]
    made = model.generate(PROMPTS, SAMPLED.model_copy(update={"stop": [stop]}))
    assert made[0].finish_reason == "stop"
    assert made[0].text == free[0].text[: free[0].text.find(stop)]
    assert stop.encode()[-1] == made[0].ids[-1]
    for one, whole in zip(made, free, strict=True):
        assert whole.text.startswith(one.text)
        assert (one.finish_reason == "stop") == (stop in whole.text)


def test_each_end_token_ends():
    model = lm("gpt2", "byte")
    free = model.generate("The sun", GREEDY)[0]
    assert free.finish_reason == "length"
    assert len(free.ids) == 15
    model = LM(model.model, model.tokenizer, generation=GenerationConfig.of_ids(eos=[free.ids[4]]))
    assert model.tokenizer.eot_id in model.eos_ids
    made = model.generate("The sun", GREEDY)[0]
    assert (made.finish_reason, made.ids) == ("eos", free.ids[: free.ids.index(free.ids[4])])


@pytest.mark.parametrize("block", [1, 2, 5])
def test_more_tokens_than_the_block_has(block):
    model = lm("llama", "byte", block_size=block)
    events: list[progress.Event] = []
    with progress.listen(events.append):
        made = model.generate("The", GenerateSettings(max_new_tokens=30, seed=1))[0]
    assert len(made.ids) == 30 or made.finish_reason == "eos"
    assert any("slides" in event.text for event in events)


def test_nothing_is_left_behind():
    model = lm("gpt2", "byte", dropout=0.3)
    model.model.train()
    before = torch.get_rng_state()
    model.generate(PROMPTS, SAMPLED)
    stream = model.stream("The", SAMPLED)
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert model.model.training, "also while a text is only half written"
    x = torch.ones(1, requires_grad=True)
    (x * 2).backward()
    del stream
    assert torch.get_rng_state().equal(before)
    assert all(p.grad is None and p.requires_grad for p in model.model.parameters())
    ids = torch.tensor([[1, 2, 3]])
    model.model.loss(ids, ids).sum.backward()


def test_the_default_begins_a_text_after_end_of_text():
    model = lm("modern", "byte")
    assert model.encode("") == [model.tokenizer.eot_id]
    assert model.encode("a") == [97]


def test_a_model_without_words_says_so():
    bare = LM(gpt("gpt2", 11), None)
    for act in (lambda: bare.generate("a"), lambda: list(bare.stream("a")), lambda: bare.score([("a", "b")])):
        with pytest.raises(UsageError, match="has no tokenizer"):
            act()


def test_a_token_that_the_model_lacks_is_refused_by_name():
    short = LM(gpt("gpt2", 200), tokenizer("byte"))
    assert short.generate("a", GREEDY)[0].ids
    with pytest.raises(CompatibilityError, match=r"a token that the model does not have .*ids below 200"):
        short.generate("子", GREEDY)
    assert short.generate("", GREEDY)[0].ids, "a text begins behind a line end where there is no end-of-text"
    with pytest.raises(CompatibilityError, match="a token that the model does not have"):
        short.score([("a", "子")])


def test_a_model_may_have_more_ids_than_its_tokenizer():
    wide = LM(gpt("gpt2", 2000), tokenizer("byte"))
    made = wide.generate("The sun", GenerateSettings(max_new_tokens=40))[0]
    assert max(made.ids) > wide.tokenizer.vocab_size
    assert made.text == wide.tokenizer.decode([i for i in made.ids if i < wide.tokenizer.vocab_size])


def test_a_model_that_is_not_finite_says_so():
    model = lm("gpt2", "byte")
    with torch.no_grad():
        model.model.embed.weight[5] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        model.generate("a", SAMPLED)


def test_generated_is_plain():
    assert asdict(lm("gpt2", "byte").generate("a", GREEDY)[0]).keys() == {
        "prompt",
        "text",
        "ids",
        "finish_reason",
        "logprobs",
    }
