"""A classifier in transformers answers a padded batch as predict does, whatever special tokens its rows have."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from firstlight.finetuning import PAD, Example, Preprocessor, predict, special_tokens
from firstlight.lm import Classifier, save_pretrained
from firstlight.model import to_hf_state_dict
from firstlight.parallel import HardwareSettings, resolve_hardware
from firstlight.stages.finetune_artifacts import _extend_tokenizer
from firstlight.stages.finetune_settings import FinetuneSettings
from small_task import like_llama, model, spec, tokenizer

TEXTS = ["the day was fine", "dull", "the film was dull and the day was fine"]
BASES = {
    "own": tokenizer,
    "pads with end-of-text": lambda: tokenizer().with_special_tokens([], extra_config={"pad_token": tokenizer().eot}),
    "has padding": lambda: tokenizer().with_special_tokens(["[P]"], extra_config={"pad_token": "[P]"}),
    "begins with another token": lambda: like_llama("first"),
    "fine-tuned before": lambda: tokenizer().with_special_tokens(special_tokens([spec()])),
}


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("settings", [{"adapter": {"kind": "lora"}}, {"special_tokens": "eot"}, {}], ids=str)
@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_a_padded_batch_is_answered_as_single_rows_are(base: str, settings: dict, tmp_path: Path) -> None:
    before, table = BASES[base](), FinetuneSettings.model_validate({"finetune": settings})
    task = spec(pool="last")
    made = _extend_tokenizer(before, before.vocab_size, [task], table)
    assert made.pad_id is not None and (made.tokens()[made.pad_id] == "[P]") == (
        base == "has padding" and settings != {}
    )
    mine = model(made.vocab_size)
    mine.add_head("t", 2)
    weights = {name: tensor.detach() for name, tensor in to_hf_state_dict(mine).items()}
    save_pretrained(tmp_path, mine.config, weights, made, {}, Classifier("t", ["a", "b"]))
    rows = Preprocessor(task, made, 48)([Example((text,), None, "x") for text in TEXTS])
    cpu = resolve_hardware(HardwareSettings.model_validate({"device": "cpu"}))
    ours = torch.tensor([prediction.probabilities.tolist() for prediction in predict(mine, task, rows, cpu)])
    theirs, their_tokenizer = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), AutoTokenizer
    batch = their_tokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    found = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


def test_several_tasks_get_padding_too() -> None:
    specs = [spec(), spec("pair").model_copy(update={"name": "u"})]
    lora = FinetuneSettings.model_validate({"finetune": {"adapter": {"kind": "lora"}}})
    before = tokenizer()
    made = _extend_tokenizer(before, before.vocab_size, specs, lora)
    assert made.pad_id == made.token_to_id(PAD) is not None


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("truncation", ["tail", "head"])
@torch.no_grad()
def test_long_texts_are_cut_as_predict_cuts_them(truncation: str, tmp_path: Path) -> None:
    """Whatever sides the model's own tokenizer names."""
    sides = {"padding_side": "left", "truncation_side": "left" if truncation == "tail" else "right"}
    before, task = tokenizer().with_special_tokens([], extra_config=sides), spec(truncation=truncation)
    made = _extend_tokenizer(before, before.vocab_size, [task], FinetuneSettings())
    made.save(tmp_path, model_max_length=48)
    text = "the day was dull and the film was fine " * 9 + "warm"
    (row,) = Preprocessor(task, made, 48)([Example((text,), None, "x")])
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded([text, "dull"], truncation=True, padding=True)["input_ids"][0] == row.sequences[0].tolist()
    assert loaded.padding_side == "right"


def test_the_card_of_a_classifier_loads_it_and_has_the_scale(tmp_path: Path) -> None:
    mine = model(tokenizer().vocab_size)
    mine.add_head("t", 1)
    weights = {name: tensor.detach() for name, tensor in to_hf_state_dict(mine).items()}
    save_pretrained(tmp_path, mine.config, weights, tokenizer(), {}, Classifier("t", (), (1.0, 5.0)))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert 'pipeline("text-classification", model=".")' in card
    assert "the score is 1 + 4 × output" in card
    save_pretrained(tmp_path, mine.config, weights, tokenizer(), {})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert 'pipeline("text-generation", model=".")' in card
    assert "which Firstlight reads and transformers does not" in card
