"""Answers to choose from: missing ones, their names, and how labels name the right one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.errors import CorpusError
from firstlight.finetuning import (
    Example,
    Preprocessor,
    TaskData,
    collate,
    head_of,
    load_task,
    read_spec,
    read_unlabelled,
)
from small_task import spec, tokenizer

TOML = """
kind = "multiple_choice"
{head}
[data]
train = "a.jsonl"
valid = "a.jsonl"
[columns]
question = "q"
label = "a"
{columns}
"""


def read(folder: Path, rows: list[dict[str, object]], columns: str = 'choices = "c"', head: str = "") -> TaskData:
    (folder / "a.jsonl").write_text("".join(json.dumps({"q": f"q{i}"} | row) + "\n" for i, row in enumerate(rows)))
    (folder / "t.toml").write_text(TOML.format(columns=columns, head=head))
    return load_task(read_spec(folder / "t.toml"), seed=0)


def labels(data: TaskData) -> list[object]:
    return [row.label for row in data.train]


FOUR = ["v", "w", "x", "y"]


@pytest.mark.parametrize(
    ("given", "answers", "answer_format"),
    [
        ([0, 1, 2], [0, 1, 2], "zero_based"),
        ([1, 2, 4], [0, 1, 3], "one_based"),
        (["1", "2", "4"], [0, 1, 3], "one_based"),
        ([1.0, 0.0, None], [1, 0, None], "zero_based"),
        (["1.0", "0.0", "3.0"], [1, 0, 3], "zero_based"),
        (["A", "D", "c"], [0, 3, 2], "letter"),
        (["(A)", "B.", "C)"], [0, 1, 2], "letter"),
        (["w", "y", "w"], [1, 3, 1], "text"),
    ],
)
def test_one_way_fits_all_rows(tmp_path: Path, given: list[object], answers: list[object], answer_format: str) -> None:
    rows = [{"c": FOUR, "a": label} for label in given]
    if None in given:
        with pytest.raises(CorpusError, match=r"a.jsonl:3: has no label"):
            read(tmp_path, rows)
        rows, answers = rows[:2], answers[:2]
    data = read(tmp_path, rows)
    assert labels(data) == answers
    assert data.spec.answer_format == answer_format, "stored in the task of the run"


@pytest.mark.parametrize(
    ("choices", "given", "told"),
    [
        (FOUR, [1, 2, 1], "an index from 0, or a number from 1.*zero_based.*one_based"),
        (FOUR, ["1", "2", "1"], "an index from 0, or a number from 1"),
        (["B", "C", "A", "D"], ["B", "C", "A"], "the text of an answer, or a letter"),
        (["2", "3", "1", "0"], ["1", "2", "3"], "the text of an answer, or an index from 0"),
    ],
)
def test_what_fits_in_several_ways_is_refused(
    tmp_path: Path, choices: list[str], given: list[object], told: str
) -> None:
    rows = [{"c": choices, "a": label} for label in given]
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, rows)
    decided = read(tmp_path, rows, head='answer_format = "text"' if given[0] == "B" else 'answer_format = "one_based"')
    assert labels(decided)[0] == 0


def test_several_ways_in_one_file_are_refused_unless_the_answers_have_names(tmp_path: Path) -> None:
    names = [["A", "B", "C", "D"], ["1", "2", "3", "4"]]
    rows = [{"t": FOUR, "n": names[i % 2], "a": names[i % 2][i % 4]} for i in range(8)]
    with pytest.raises(CorpusError, match=r"a.jsonl:2: .*letters, which fits 8 of 16 rows .*found '2'.*choice_labels"):
        read(tmp_path, rows, 'choices = "t"')
    assert labels(read(tmp_path, rows, 'choices = "t"\nchoice_labels = "n"')) == [0, 1, 2, 3] * 2


NAMES = ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ({"text": FOUR, "label": NAMES}, "c"),
        ({"text": FOUR, "label": NAMES}, "c.text"),
        (dict(zip(NAMES, FOUR, strict=True)), "c"),
        ([{"label": n, "text": t} for n, t in zip(NAMES, FOUR, strict=True)], "c"),
    ],
)
def test_names_of_answers_that_come_with_them(tmp_path: Path, value: object, column: str) -> None:
    reordered = {"text": FOUR, "label": ["4", "3", "2", "1"]}
    rows: list[dict[str, object]] = [{"c": value, "a": "B"}, {"c": value, "a": "D"}]
    rows += [{"c": reordered, "a": "1"}] if isinstance(value, dict) and "text" in value else []
    data = read(tmp_path, rows, f'choices = "{column}"')
    assert labels(data) == [1, 3, 3][: len(rows)] and data.spec.answer_format == "choice_labels"


def test_a_label_that_names_the_column_of_the_answer(tmp_path: Path) -> None:
    rows = [{"opt1": "x", "opt2": "y", "a": "opt2"}, {"opt1": "x", "opt2": "y", "a": "opt1"}]
    assert labels(read(tmp_path, rows, 'choices = ["opt1", "opt2"]')) == [1, 0]


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
def test_a_missing_answer_is_left_out_and_the_others_keep_their_index(tmp_path: Path, missing: object) -> None:
    rows = [{"c": ["v", missing, "x", "y"], "a": "C"}, {"c": FOUR, "a": "B"}, {"c": FOUR, "a": "A"}]
    data = read(tmp_path, rows)
    assert labels(data) == [2, 1, 0]
    assert any("2 rows have an empty answer, which is left out" in note for note in data.notes)
    extended = tokenizer()
    row = data.train[0]
    (encoded,) = Preprocessor(data.spec, extended, 48)([row])
    assert [extended.decode(ids[-2:-1]) for ids in encoded.sequences] == ["v", "x", "y"]
    assert collate(data.spec, [encoded]).labels.tolist() == [1], "the second of three sequences"
    head = head_of(data.spec)
    assert head is not None
    ((label, probabilities),) = head.predict(torch.tensor([[0.0, 1.0, 0.0]]), [encoded])
    assert label == 2 and np.flatnonzero(probabilities == 0).tolist() == [1]
    rows[0]["a"] = "B"
    with pytest.raises(CorpusError, match=r"a.jsonl:1: has a right answer that is empty .*found 'B'"):
        read(tmp_path, rows)


def test_numbers_as_answers_are_their_digits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "q0", "c": [1, 1.50, true], "a": "true"}\n' * 2)
    (tmp_path / "t.toml").write_text(TOML.format(columns='choices = "c"', head=""))
    data = load_task(read_spec(tmp_path / "t.toml"), seed=0)
    assert data.train[0].texts == ("q0", "1", "1.50", "true") and data.train[0].label == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"c": [None, "x"], "a": 1}, "an empty answer, and fewer than two others"),
        ({"c": "A or B", "a": 1}, "fewer than two answers .*expected a list"),
        ({"c": ["x", {"url": "y"}], "a": 1}, "is not text .*an object with url"),
        ({"c": ["x", "y"], "n": ["A"], "a": 1}, "does not have one label per answer"),
    ],
)
def test_what_is_not_a_list_of_answers(tmp_path: Path, row: dict[str, object], told: str) -> None:
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, [row, row], 'choices = "c"' + ('\nchoice_labels = "n"' if "n" in row else ""))


def test_arc(shared_cases: Path, tmp_path: Path) -> None:
    toml = (shared_cases / "choice/arc.toml").read_text().replace('"choice"', '"multiple_choice"')
    for columns in (toml, toml + 'choice_labels = "choices.label"\n'):
        (tmp_path / "arc.toml").write_text(columns)
        data = load_task(read_spec(tmp_path / "arc.toml", data=shared_cases / "choice"), seed=0)
        rows = [json.loads(line) for line in (shared_cases / "choice/arc.jsonl").read_text().splitlines()]
        expected = {row["question"]: row["choices"]["label"].index(row["answerKey"]) for row in rows}
        assert {row.texts[0]: row.label for row in [*data.train, *data.valid]} == expected


def test_null_choices(shared_cases: Path, tmp_path: Path) -> None:
    toml = (shared_cases / "choice/null.toml").read_text().replace('"choice"', '"multiple_choice"')
    (tmp_path / "null.toml").write_text(toml)
    data = load_task(read_spec(tmp_path / "null.toml", data=shared_cases / "choice"), seed=0)
    assert {len(list(filter(None, row.texts))) for row in [*data.train, *data.valid]} == {4, 5}
    first = next(read_unlabelled(data.spec, shared_cases / "choice/null.jsonl"))
    assert first == Example(("Which colour is number 0?", "red", "blue", "green", ""), None, first.where)
    assert spec("multiple_choice").answer_format == "auto"
