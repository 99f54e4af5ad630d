"""An import keeps the tokens of its source, and so do exports: end tokens, added tokens, chat templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_lm import gpt, tokenizer

from firstlight.lm import LM, GenerationConfig
from firstlight.stages.convert import export, import_

TEMPLATES = {"default": "{{ messages[0]['content'] }}", "tool_use": "x"}
ENDS = ["<|endoftext|>", "<|eot|>", "<|eom|>"]


def model() -> LM:
    """A model with several end tokens, roles and chat templates."""
    words = tokenizer("bpe").with_special_tokens(
        ["<|begin|>", "<|eot|>", "<|eom|>", "<|pad|>"],
        extra_config={"bos_token": "<|begin|>", "pad_token": "<|pad|>", "chat_template": TEMPLATES},
    )
    ids = [words.token_to_id(token) for token in ENDS]
    generation = GenerationConfig({"eos_token_id": ids}, {"eos_token_id": ids, "do_sample": True, "temperature": 0.5})
    # tied, since nanoGPT knows no other
    return LM(gpt("gpt2", words.vocab_size, tie_embeddings=True), words, generation=generation)


def facts(lm: LM) -> dict[str, Any]:
    words = lm.tokenizer
    assert words is not None
    ends = sorted(words.tokens()[i] for i in lm.eos_ids)
    return {
        "ends": ends,
        "begin": words.named_bos_id,
        "pad": words.pad_id,
        "templates": words.chat_templates,
        "tokens": words.tokens(),
        "ids": words.encode("The sun\n  rises 学而 <|eot|>\t"),
    }


@pytest.mark.parametrize("to", ["hf", "gguf", "keras", "megatron"])
def test_every_format_keeps_what_the_model_has(tmp_path: Path, to: str) -> None:
    pytest.importorskip({"gguf": "gguf", "keras": "h5py"}.get(to, "torch"))
    lm = model()
    lm.save(tmp_path / "a")
    if to != "hf":
        name = {"gguf": "m.gguf", "keras": "m.keras", "megatron": "megatron"}[to]
        export(tmp_path / "a", to, tmp_path / name)
        import_(str(tmp_path / name), out=tmp_path / "b")
    else:
        import_(str(tmp_path / "a"), out=tmp_path / "b")
    back = LM.load_fp32(tmp_path / "b")
    assert facts(back) == facts(lm)
    table = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert table["eos_token_id"] == [lm.tokenizer.token_to_id(token) for token in ENDS]
    assert table.get("temperature") == (None if to == "gguf" else 0.5)


# What each handed model must have: end tokens, begin-of-text, number of tokens, chat templates.
CASES: dict[str, tuple[list[int], int | None, int, list[str]]] = {
    "hf-slow": ([0], 0, 467, []),
    "spm-added": ([500], 1, 502, []),
    "hf-ends": ([0, 464], 0, 465, []),
    "spm-plain": ([2], 1, 500, []),
    "hf-tmpl": ([0, 464], 0, 465, ["default", "tool_use"]),
    "spm-br": ([2], 1, 500, []),
}


@pytest.mark.data
@pytest.mark.parametrize("name", CASES)
def test_handed_models(shared_cases: Path, tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ends, bos, n_tokens, templates = CASES[name]
    import_(str(shared_cases / "import" / name), out=tmp_path / "run")
    lm = LM.load_fp32(tmp_path / "run")
    assert (sorted(lm.eos_ids), lm.tokenizer.vocab_size, list(lm.tokenizer.chat_templates)) == (
        ends,
        n_tokens,
        templates,
    )
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "run")
    source = transformers.GenerationConfig.from_pretrained(shared_cases / "import" / name)
    assert (theirs.eos_token_id, theirs.bos_token_id) == (source.eos_token_id, source.bos_token_id)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (bos, ends if len(ends) > 1 else ends[0])
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "run")) == n_tokens


@pytest.mark.data
def test_tokens_of_a_task_do_not_take_the_ids_of_words(shared_cases: Path, tmp_path: Path) -> None:
    import_(str(shared_cases / "import" / "hf-hole"), out=tmp_path / "run")
    words = LM.load_fp32(tmp_path / "run").tokenizer
    new = words.with_special_tokens(["<|start|>", "<|delimiter|>", "<|extract|>"])
    assert [new.token_to_id(t) for t in ("<|start|>", "<|delimiter|>", "<|extract|>")] == [464, 465, 466]
    assert new.tokens()[:464] == words.tokens()
