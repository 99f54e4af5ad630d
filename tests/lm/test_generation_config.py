"""What a model directory says about generation is kept, and obeyed."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_lm import gpt, tokenizer

from firstlight import progress
from firstlight.errors import CheckpointError, ConfigError
from firstlight.lm import LM, GenerationConfig
from firstlight.stages.generate import generate, settings_of


def saved(folder: Path, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None) -> Path:
    """A model directory whose two files say these things."""
    words = tokenizer("byte")
    LM(gpt("llama", words.vocab_size), words).save(folder)
    for name, changes in (("config.json", config), ("generation_config.json", generation)):
        if changes is not None:
            table = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**table, **changes}))
    return folder


def tables(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    names = ("config.json", "generation_config.json")
    first, second = (json.loads((folder / name).read_text()) for name in names)
    return first, second


CHOSEN = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1}


def test_what_both_files_say_is_kept(tmp_path: Path) -> None:
    generation = {"bos_token_id": 3, "eos_token_id": [7, 256], "pad_token_id": 9, "max_new_tokens": 6, **CHOSEN}
    folder = saved(tmp_path / "a", {"bos_token_id": 3, "eos_token_id": 7}, generation)
    lm = LM.load_fp32(folder)
    assert lm.eos_ids == {7, 256}
    lm.save(tmp_path / "b")
    before, after = tables(folder), tables(tmp_path / "b")
    assert [before[0][k] == after[0][k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")] == [True] * 3
    assert {**generation, "max_length": 32} == {**after[1], "max_length": 32}


def test_ids_that_the_model_lacks_are_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"bos_token_id": 50256, "eos_token_id": 50256}, {"eos_token_id": [50256]})
    lm = LM.load_fp32(folder)
    assert lm.eos_ids == {lm.tokenizer.eot_id}
    lm.save(tmp_path / "b")
    assert tables(tmp_path / "b")[0]["eos_token_id"] == lm.tokenizer.eot_id


def test_the_settings_of_the_file_are_defaults_and_said(tmp_path: Path) -> None:
    lm = LM.load_fp32(saved(tmp_path, None, {**CHOSEN, "max_new_tokens": 6}))
    told: list[progress.Event] = []
    with progress.listen(told.append):
        found = settings_of(lm, {"top_k": 3})
    assert (found.temperature, found.top_p, found.top_k, found.max_new_tokens) == (0.6, 0.9, 3, 6)
    assert [event.text for event in told] == [
        "temperature 0.6, top_p 0.9, max_new_tokens 6: from the model's generation_config.json; options override them",
        "the model's generation_config.json has repetition_penalty 1.1, which has no effect here",
    ]
    assert len(generate(lm, "a", stop=["nothing"])) == 1


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [
        ("stop_strings", ["\n"], None),
        ("suppress_tokens", [3], []),
        ("bad_words_ids", [[3]], None),
        ("min_new_tokens", 9, 0),
    ],
)
def test_settings_without_effect_are_said(tmp_path: Path, key: str, value: Any, neutral: Any) -> None:
    assert LM.load_fp32(saved(tmp_path / "a", None, {key: value})).generation.unsupported == {key: value}
    assert not LM.load_fp32(saved(tmp_path / "b", None, {key: neutral})).generation.unsupported


@pytest.mark.parametrize(("table", "wanted"), [({"temperature": 0.6}, 1.0), ({"do_sample": False}, 0.0), ({}, 1.0)])
def test_sampling_is_of_the_file_where_it_samples(tmp_path: Path, table: dict[str, Any], wanted: float) -> None:
    assert settings_of(LM.load_fp32(saved(tmp_path, None, table)), {}).temperature == wanted


def test_an_invalid_setting_names_the_file(tmp_path: Path) -> None:
    lm = LM.load_fp32(saved(tmp_path, None, {"do_sample": True, "temperature": -1}))
    with pytest.raises(CheckpointError, match="generation_config.json: temperature: .*-1"):
        settings_of(lm, {})


def test_another_tokenizer_has_other_ids() -> None:
    kept = GenerationConfig({"eos_token_id": 7}, {"eos_token_id": [7], "temperature": 0.5})
    words = tokenizer("byte")
    assert kept.with_tokenizer(words, words.with_special_tokens(["<|x|>"])) is kept
    changed = kept.with_tokenizer(words, tokenizer("word"))
    assert changed.eos_ids == frozenset() and changed.table == {"temperature": 0.5}


def test_filters_of_sampling_are_refused_where_decoding_is_greedy(tmp_path: Path) -> None:
    lm = LM.load_fp32(saved(tmp_path / "a", None, CHOSEN))
    assert settings_of(lm, {"temperature": 0.0}).top_k == 0
    with pytest.raises(ConfigError, match="greedy decoding"):
        settings_of(lm, {"temperature": 0.0, "top_k": 3})
    assert settings_of(lm, {"temperature": 0.0, "top_k": 0, "top_p": 1.0}).temperature == 0
    greedy = LM.load_fp32(saved(tmp_path / "b", None, {"do_sample": False}))
    with pytest.raises(ConfigError, match="top_p") as refused:
        settings_of(greedy, {"top_p": 0.5})
    assert "give one above 0" in str(refused.value)
    told: list[str] = []
    with progress.listen(lambda event: told.append(event.text)):
        settings_of(greedy, {"num_samples": 2})
    assert told[0] == "a temperature of 0 is greedy decoding: all 2 samples are the same"
