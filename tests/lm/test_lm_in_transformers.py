"""A saved directory in transformers, without remote code: the same ids and greedy text (issue 3, done when 3)."""

import pytest
import torch
import transformers
from tiny_lm import FAMILIES, KINDS, TEXT, lm

from firstlight.lm import LM, GenerateSettings

PROMPTS = ["The sun", "不亦说乎", "All the rivers run into the sea, yet", "x"]
N = 12


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _theirs(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_the_same_ids_and_greedy_text(tmp_path, family, kind):
    ours = lm(family, kind, block_size=64)
    ours.save(tmp_path)
    model, words = _theirs(tmp_path)
    assert type(model).__module__.startswith("transformers.")
    for text in [*PROMPTS, TEXT, "", "  two  spaces\n\tand a tab", "<|endoftext|>", "é\u0301 😀"]:
        if text != "<|endoftext|>":  # in transformers the name of a special token in a text is that token
            assert words(text)["input_ids"] == ours.tokenizer.encode(text)
    texts = set()
    for prompt in PROMPTS:
        ids = words(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=N, do_sample=False)[0].tolist()
        mine = ours.generate(prompt, GenerateSettings(max_new_tokens=N, temperature=0))[0]
        n = ids["input_ids"].shape[1]
        end = [ours.tokenizer.eot_id] if mine.finish_reason == "eos" else []
        assert made[n:] == mine.ids + end
        # Bytes that are not UTF-8, as random weights give, would spoil those of the prompt before them.
        parts = (made[n:], []) if kind == "char" else (made, made[:n])
        whole, beginning = (words.decode(i, skip_special_tokens=True) for i in parts)
        assert whole.startswith(beginning)
        # Theirs has U+FFFD for the bytes of a character that is incomplete at the end, which ours leaves out.
        rest = whole[len(beginning) :].removeprefix(mine.text)
        assert whole[len(beginning) :].startswith(mine.text) and set(rest) <= {"\ufffd"} and len(rest) <= 1
        texts.add(mine.text)
    assert len(texts) > 1, "the texts must differ for this to show anything"


@pytest.mark.parametrize("family", ["gpt2", "gpt3"])
def test_the_exact_gelu_is_transformers_gelu(tmp_path, family):
    ours = lm(family, "byte", mlp="gelu")
    ours.save(tmp_path)
    theirs, ids = _theirs(tmp_path)[0], torch.arange(40, 60)[None]
    with torch.no_grad():
        mine = ours.model(ids)
        torch.testing.assert_close(mine, theirs(ids).logits, rtol=0, atol=1e-4)
        tanh = lm(family, "byte").model(ids)
    assert (mine - tanh).abs().max() > 1e-4, "the two forms must differ for this to show anything"
    assert LM.load_fp32(tmp_path).config.mlp == "gelu"


STRETCHED = [{"factor": 4.0}, {"factor": 8.0, "original": 20}, {"factor": 2.5, "original": 64, "low": 0.5, "high": 3.0}]


@pytest.mark.parametrize("scaling", STRETCHED)
@pytest.mark.parametrize("family", ["llama", "modern"])
def test_stretched_positions_are_transformers(tmp_path, family, scaling):
    ours = lm(family, "byte", block_size=64, rope_scaling=scaling, d_head=16)
    ours.save(tmp_path)
    theirs, ids = _theirs(tmp_path)[0], torch.arange(40, 100)[None]
    with torch.no_grad():
        mine = ours.model(ids)
        torch.testing.assert_close(mine, theirs(ids).logits, rtol=0, atol=1e-4)
        plain = lm(family, "byte", block_size=64, d_head=16).model(ids)
    assert (mine - plain).abs().max() > 1e-2, "stretched positions must differ for this to show anything"
    assert LM.load_fp32(tmp_path).config.rope_scaling == ours.config.rope_scaling


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_read(tmp_path, family):
    ours = lm(family, "bpe")
    ours.save(tmp_path / "ours")
    model, words = _theirs(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    words.save_pretrained(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    back = LM.load_fp32(tmp_path / "theirs")
    assert back.tokenizer.encode(TEXT) == ours.tokenizer.encode(TEXT)
    assert back.config == ours.config.model_copy(
        update={"init_std": back.config.init_std, "window": back.config.window}
    )
    ids = torch.tensor([ours.tokenizer.encode(TEXT)[:20]])
    with torch.no_grad():
        torch.testing.assert_close(back.model(ids), ours.model(ids), rtol=0, atol=0)


def test_transformers_stops_at_end_of_text_as_we_do(tmp_path):
    ours = lm("gpt2", "byte")
    eot = ours.tokenizer.eot_id
    first = ours.generate("The sun", GenerateSettings(max_new_tokens=N, temperature=0))[0].ids
    with torch.no_grad():  # swap two rows of the tied embedding: what was written sixth is now end-of-text
        rows = ours.model.embed.weight[[first[5], eot]].clone()
        ours.model.embed.weight[[eot, first[5]]] = rows
    ours.save(tmp_path)
    mine = ours.generate("The sun", GenerateSettings(max_new_tokens=N, temperature=0))[0]
    assert mine.finish_reason == "eos"
    model, words = _theirs(tmp_path)
    made = model.generate(**words("The sun", return_tensors="pt"), max_new_tokens=N, do_sample=False)[0].tolist()
    assert made[len("The sun") :] == [*mine.ids, eot]


def test_a_batch_of_texts_is_as_in_transformers(tmp_path):
    ours = lm("modern", "bpe", block_size=64)
    ours.save(tmp_path)
    model, words = _theirs(tmp_path)
    words.pad_token, words.padding_side = words.eos_token, "left"
    batch = words(PROMPTS, return_tensors="pt", padding=True)
    made = model.generate(**batch, max_new_tokens=N, do_sample=False, pad_token_id=words.eos_token_id)
    mine = ours.generate(PROMPTS, GenerateSettings(max_new_tokens=N, temperature=0))
    for row, one in zip(made[:, batch["input_ids"].shape[1] :].tolist(), mine, strict=True):
        assert row[: len(one.ids)] == one.ids
