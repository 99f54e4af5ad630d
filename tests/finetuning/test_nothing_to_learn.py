"""Rows without a target are left out and counted; long texts are split; of long chats, what is lost is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstlight.errors import ConfigError, CorpusError
from firstlight.finetuning import Example, Preprocessor, TaskData, TaskSpec, encode_task, load_task, read_spec
from firstlight.tokenizer import Tokenizer
from small_task import spec, tokenizer

T = 24
LONG = "the film was lovely and warm and bright and fine and the song was dull and grim and cold and the day was flat"


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tokenizer()


def chat(*messages: tuple[str, str], where: str = "x:1") -> Example:
    return Example(tuple(text for _, text in messages), None, where, tuple(role for role, _ in messages))


GOOD = chat(("user", "the day"), ("assistant", "was fine"))
SILENT = chat(("user", "the day"), ("assistant", " "), where="x:2")
ASKED = chat(("user", "the day"), where="x:3")
CUT = chat(("user", LONG), ("assistant", "was fine"), where="x:4")
WORDS = Example(("the", " day"), (0, 1), "x:1")
ONE_LONG_WORD = Example((LONG.replace(" ", ""),), (1,), "x:2")


def data(task: TaskSpec, train, valid=(), test=(), seed: int | None = None) -> TaskData:
    return TaskData(task, list(train), list(valid), list(test), [], "", seed)


def test_rows_without_a_target_are_left_out_and_counted(words: Tokenizer) -> None:
    found = encode_task(data(spec("chat"), [GOOD, SILENT, ASKED, CUT, GOOD], [GOOD, SILENT], [CUT, GOOD]), words, T)
    assert [len(rows) for rows in (found.train, found.valid, found.test)] == [2, 1, 1]
    assert all(row.n_targets for row in [*found.train, *found.valid, *found.test])
    assert found.notes[0] == "3 of 5 training rows have nothing to learn and are left out: x:2, x:3, x:4"
    assert "1 of 2 validation rows" in found.notes[1] and "1 of 2 test rows" in found.notes[2]
    assert found.notes[3].startswith(f"2 inputs longer than {T} tokens were truncated (truncation = tail); ")
    assert found.notes[3].endswith(" targets were lost")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("chat", GOOD, SILENT), ("chat", GOOD, CUT), ("token_classification", WORDS, ONE_LONG_WORD)],
)
@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_a_split_with_nothing_to_learn_is_refused(words: Tokenizer, kind: str, good, bad, split: str) -> None:
    splits = [[bad] if name == split else [good] for name in ("training", "validation", "test")]
    with pytest.raises(CorpusError, match=f"{bad.where}: task t: none of the {split} rows has anything to learn"):
        encode_task(data(spec(kind), *splits), words, T)


def test_other_rows_are_drawn_where_those_of_validation_have_nothing_to_learn(words: Tokenizer) -> None:
    found = encode_task(data(spec("chat"), [GOOD] * 8, [SILENT], seed=1), words, T)
    assert len(found.valid) == 1 and len(found.train) == 7 and "1 other training rows" in found.notes[1]
    with pytest.raises(CorpusError, match="none of the validation rows"):
        encode_task(data(spec("chat"), [GOOD], [SILENT], seed=1), words, T)


def test_an_empty_message_of_the_assistant_is_no_target_among_others(words: Tokenizer) -> None:
    messages = ("user", "the day"), ("assistant", ""), ("user", "and"), ("assistant", "was fine")
    (row,) = Preprocessor(spec("chat"), words, 99)([chat(*messages)])
    learned = [i for i, is_target in zip(row.sequences[0].tolist(), row.loss_mask, strict=True) if is_target]
    assert learned == [*words.encode("was fine"), words.eot_id]


def test_a_long_text_is_split_and_every_token_is_a_target_once(words: Tokenizer) -> None:
    preprocess = Preprocessor(spec("text"), words, 9)
    rows = preprocess([Example((LONG,), None, "x:1"), Example(("the day",), None, "x:2")])
    assert all(row.sequences[0][0] == words.start_id and len(row.sequences[0]) <= 9 for row in rows)
    targets = np.concatenate([row.sequences[0][1:] for row in rows])
    assert targets.tolist() == [*words.encode(LONG), words.eot_id, *words.encode("the day"), words.eot_id]
    assert sum(row.n_targets for row in rows) == len(targets)
    assert preprocess.describe_long_rows() == [f"1 texts longer than 9 tokens were split into {len(rows) - 1} rows"]


@pytest.mark.parametrize(("truncation", "n_targets"), [("tail", 0), ("head", 3), ("middle", 3)])
def test_a_long_chat_is_cut_where_the_task_says(words: Tokenizer, truncation: str, n_targets: int) -> None:
    (row,) = Preprocessor(spec("chat", truncation=truncation), words, T)([CUT])
    assert len(row.sequences[0]) == T and row.sequences[0][0] == words.start_id
    assert row.n_targets == (0 if n_targets == 0 else len(words.encode("was fine")) + 1)


@pytest.mark.parametrize(("kind", "truncation"), [("text", "head"), ("token_classification", "middle")])
def test_a_truncation_that_would_not_be_obeyed_is_refused(kind: str, truncation: str, tmp_path: Path) -> None:
    columns = 'text = "a"' if kind == "text" else 'tokens = "a"\nlabel = "b"'
    (tmp_path / "t.toml").write_text(
        f'kind = "{kind}"\ntruncation = "{truncation}"\n[data]\ntrain = "x.jsonl"\n[columns]\n{columns}\n'
    )
    with pytest.raises(ConfigError, match=f"truncation {truncation} does not fit .*; expected tail or error"):
        read_spec(tmp_path / "t.toml")


def test_the_handed_chat_whose_answers_are_all_cut_off(shared_cases: Path, words: Tokenizer) -> None:
    task = read_spec(shared_cases / "chat" / "allcut.toml")
    loaded = load_task(task, seed=1)
    with pytest.raises(CorpusError, match='allcut.jsonl:1: .*none of the training rows .*set truncation = "head"'):
        encode_task(loaded, words, 32)
    kept = replace(loaded, spec=task.model_copy(update={"truncation": "head"}))
    assert encode_task(kept, words, 32).train[0].n_targets > 1
