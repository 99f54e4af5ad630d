"""Models whose texts begin with a token of their own, and models that were trained without end-of-text."""

import torch
from tiny_lm import gpt, tokenizer
from tokenizers import Tokenizer as Inner
from tokenizers.processors import TemplateProcessing

from firstlight.evaluation import encode_text, text_likelihood
from firstlight.lm import LM, GenerateSettings
from firstlight.model import to_hf_state_dict
from firstlight.tokenizer import END_OF_TEXT, Tokenizer, build_char_level
from firstlight.types import Document


def with_begin() -> Tokenizer:
    inner = Inner.from_str(tokenizer("byte")._inner.to_str())
    inner.add_special_tokens(["<s>"])
    inner.post_processor = TemplateProcessing("<s> $A", None, [("<s>", 257)])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def test_the_token_stands_before_prompts_and_contexts():
    words = with_begin()
    lm = LM(gpt("modern", 258), words)
    assert lm.encode("ab") == [257, 97, 98] and lm.encode("") == [257] and words.encode("ab") == [97, 98]
    greedy = GenerateSettings(temperature=0, max_new_tokens=3)
    ids = torch.tensor([[257, 97, 98]])
    assert lm.generate("ab", greedy)[0].ids[0] == int(lm.model(ids)[0, -1].argmax())
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([[257, 97, 98, 99]])).log_softmax(-1)[0]
    for context, continuation, wanted in (
        ("ab", "c", logprobs[2, 99]),
        ("", "abc", logprobs[0, 97] + logprobs[1, 98] + logprobs[2, 99]),
    ):
        score = lm.score([(context, continuation)])[0]
        torch.testing.assert_close(score.logprob, float(wanted), rtol=1e-5, atol=1e-5)


def test_it_is_kept_when_the_model_is_saved(tmp_path):
    LM(gpt("modern", 258), with_begin()).save(tmp_path)
    assert LM.load_fp32(tmp_path).encode("a") == [257, 97]


def test_a_model_without_end_of_text_begins_behind_a_line_end(tmp_path):
    words = build_char_level("ab\n")
    lm = LM(gpt("gpt2", 3), words)
    assert words.eot_id == 3 and lm.start_id == 2 and lm.encode("") == [2]
    lm.save(tmp_path)
    read = LM.load_fp32(tmp_path)
    assert to_hf_state_dict(read.model).keys() == to_hf_state_dict(lm.model).keys()
    assert '"eos_token_id": null' in (tmp_path / "config.json").read_text()
    stream = encode_text("x", [Document("ab", "x"), Document("ba", "x")], words, read.start_id)
    assert stream.ids.tolist() == [2, 0, 1, 2, 1, 0, 2]
    assert text_likelihood(read, stream, stride=32)[0].loss > 0
    without = LM(gpt("gpt2", 2), build_char_level("ab"))
    assert without.start_id == 0, "nor has it line ends"
