"""Every family with one head against its transformers class for sequences, from a directory that was saved."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from firstlight.finetuning import DELIMITER, EXTRACT, PAD, START, TaskSpec, special_tokens
from firstlight.lm import LM, Classifier, save_pretrained
from firstlight.model import GPT, ModelConfig, to_hf_state_dict
from firstlight.tokenizer import TokenizerSettings, train
from firstlight.types import Document

PAIR = TaskSpec.model_validate({"name": "t", "kind": "pair", "data": {"train": "x.csv"}})
FAMILIES = ["gpt1", "gpt2", "gpt3", "llama", "modern"]


@pytest.fixture(scope="module")
def tokenizer():
    text = "the day was fine and the film was dull " * 40
    made = train([Document(text, "x")], TokenizerSettings(vocab_size=270))
    return made.with_special_tokens(
        special_tokens([PAIR]), template=(START, DELIMITER, EXTRACT), extra_config={"pad_token": PAD}
    )


def save(folder: Path, family: str, tokenizer, labels: list[str]) -> GPT:
    config = ModelConfig(
        family=family, n_layer=2, n_head=2, n_embd=16, block_size=32, vocab_size=tokenizer.vocab_size, init_std=0.3
    )
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model.add_head("mood", max(1, len(labels)))
    weights = {name: t.detach() for name, t in to_hf_state_dict(model).items()}
    save_pretrained(folder, model.config, weights, tokenizer, {}, Classifier("mood", labels))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("labels", [["bad", "so so", "good"], []])
@torch.no_grad()
def test_the_class_gives_the_same_logits(family: str, labels: list[str], tokenizer, tmp_path: Path) -> None:
    model = save(tmp_path, family, tokenizer, labels)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the day was fine", "dull", "the film and the day was dull"]
    batch = their_tokenizer(texts, return_tensors="pt", padding=True)
    found = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    marks = [tokenizer.token_to_id(token) for token in (START, EXTRACT)]
    for row, text in enumerate(texts):
        ids = torch.tensor([[marks[0], *tokenizer.encode(text), marks[1]]])
        ours = model.heads["mood"](model.hidden(ids)[:, -1])
        torch.testing.assert_close(found[row], ours[0], rtol=1e-4, atol=1e-4)
    assert theirs.config.id2label == ({i: n for i, n in enumerate(labels)} if labels else {0: "LABEL_0"})


def test_pairs_are_joined_as_here(tokenizer, tmp_path: Path) -> None:
    save(tmp_path, "gpt2", tokenizer, ["a", "b"])
    ids = AutoTokenizer.from_pretrained(tmp_path)("the day", "the film")["input_ids"]
    names = [tokenizer.tokens()[i] for i in ids]
    assert names[0] == START and names[-1] == EXTRACT and names.count(DELIMITER) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_directory_is_a_language_model(family: str, tokenizer, tmp_path: Path) -> None:
    model = save(tmp_path, family, tokenizer, ["a", "b"])
    ids = torch.arange(1, 12)[None]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits
        torch.testing.assert_close(theirs, model(ids), rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"][0].endswith("ForSequenceClassification")


def test_a_model_with_heads_is_read_back(tokenizer, tmp_path: Path) -> None:
    model = save(tmp_path, "modern", tokenizer, ["a", "b"])
    back = LM.load_fp32(tmp_path).model
    assert back.heads["mood"].weight.equal(model.heads["mood"].weight)
    back_state, state = back.state_dict(), model.state_dict()
    assert all(back_state[name].equal(tensor) for name, tensor in state.items())
