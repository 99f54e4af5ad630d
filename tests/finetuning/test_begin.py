"""Training rows, prompts and transformers begin a text alike, id for id, whatever token the tokenizer begins with."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from firstlight.finetuning import Example, Preprocessor, TaskSpec
from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig
from firstlight.stages.finetune_artifacts import _extend_tokenizer
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.tokenizer import Tokenizer
from small_task import like_llama, spec, tokenizer

TEXT = "the day was fine and the film was dull: user\nhi, system"
MESSAGES = [
    ("system", "be"),
    ("user", "the day\nwas"),
    ("assistant", "fine"),
    ("user", " and"),
    ("assistant", "dull\n"),
]


def tuned(made: Tokenizer, task: TaskSpec, adapter: str) -> Tokenizer:
    settings = FinetuneSettings.model_validate({"finetune": {"adapter": {"kind": adapter}}})
    return _extend_tokenizer(made, made.vocab_size, [task], settings)


BASES = {"own": tokenizer, "llama-always": lambda: like_llama("always"), "llama-first": lambda: like_llama("first")}


@pytest.mark.parametrize("base", BASES)
def test_the_ids_of_a_prompt_begin_those_of_the_training_row(base: str, tmp_path: Path) -> None:
    before = BASES[base]()
    made = tuned(before, spec("text"), "none")
    (row,) = Preprocessor(spec("text"), made, 999)([Example((TEXT,), None, "x")])
    ids = row.sequences[0].tolist()
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=made.vocab_size))
    model.init_weights(torch.Generator().manual_seed(0))
    LM(model, made).save(tmp_path)
    lm, theirs = LM.load_fp32(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert lm.encode(TEXT) == ids[:-1] == theirs(TEXT)["input_ids"] and ids[-1] == made.eot_id
    assert lm.encode("the day") == ids[: len(lm.encode("the day"))]
    assert lm.encode("") == ids[:1] == [lm.start_id]
    assert made.hash == before.hash, "its pre-training text is still known as its own"


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", BASES)
def test_the_ids_of_a_chat_are_those_of_its_template(base: str, adapter: str, tmp_path: Path) -> None:
    made = tuned(BASES[base](), spec("chat"), adapter)
    made.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    roles, texts = zip(*MESSAGES, strict=True)
    (row,) = Preprocessor(spec("chat"), made, 999)([Example(texts, None, "x", roles)])
    ids = row.sequences[0].tolist()
    messages = [{"role": role, "content": text} for role, text in MESSAGES]
    assert theirs.apply_chat_template(messages)["input_ids"] == ids
    for n in (2, 4):
        asked = theirs.apply_chat_template(messages[:n], add_generation_prompt=True)["input_ids"]
        assert ids[: len(asked)] == asked and row.loss_mask[len(asked)] and not row.loss_mask[len(asked) - 1]


def test_a_message_that_would_merge_with_its_role_is_learned_as_it_is_generated() -> None:
    made = tuned(tokenizer(), spec("chat"), "lora")
    (row,) = Preprocessor(spec("chat"), made, 999)([Example(("\n\nthe day",), None, "x", ("assistant",))])
    head = [made.start_id, *made.encode("assistant\n")]
    assert row.sequences[0].tolist() == [*head, *made.encode("\n\nthe day"), made.eot_id]
