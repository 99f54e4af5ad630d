"""Rows that share a text, or nearly so, stay on one side of a split."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.finetuning import Example, load_task, read_spec
from firstlight.finetuning.dataset import split
from firstlight.finetuning.related_rows import RelatedRows
from firstlight.finetuning.spec import DataFiles, TaskSpec
from firstlight.store import permute, round_keys

LINE = "the old captain walked slowly along the grey shore and counted every ship that came home before night"
WORDS = LINE.split()


def example(*texts: str, label: int = 0) -> Example:
    return Example(texts, label, "here")


def related(kind: str, *rows: tuple[str, ...]) -> RelatedRows:
    spec = TaskSpec(name="t", kind=kind, data=DataFiles(train="t.csv"))
    return RelatedRows.of(spec, [example(*texts) for texts in rows])


def groups(kind: str, *rows: tuple[str, ...], max_rows: int = 1000) -> list[int]:
    return related(kind, *rows).groups(len(rows), max_rows).tolist()


def test_a_shared_premise_joins_pairs() -> None:
    man = "A man sleeps on a bench."
    rows = [(man, "He rests."), (man.upper().replace(" ", "  "), "He runs."), ("Others run.", man), ("x", "He rests.")]
    assert groups("pair", *rows) == [0, 0, 0, 3]


def test_answers_do_not_join_questions() -> None:
    rows = [("Is it red?", "yes", "no"), ("Is it blue?", "yes", "no"), ("Is it red?", "maybe", "never")]
    assert groups("multiple_choice", *rows) == [0, 1, 0]


def test_a_word_more_is_nearly_the_same_in_a_long_text_and_not_in_a_short_one() -> None:
    long, short = LINE, "good film indeed"
    assert groups("classification", (long,), (f"{long} fell",), (short,), (f"not {short}",)) == [0, 0, 2, 3]
    changed = " ".join(word.upper() if i % 4 else "other" for i, word in enumerate(WORDS))
    assert groups("classification", (long,), (changed,)) == [0, 1]


def test_chinese_is_compared_by_characters() -> None:
    text = "酒店位置很好,服务也不错,房间干净又安静,离地铁站只有五分钟,下次来北京还会住这里的"
    rows = (text, text + "!", text.replace("北京", "上海"), "房间太小了")
    assert groups("classification", *((row,) for row in rows)) == [0, 0, 0, 3]


def test_a_text_beside_others_in_many_rows_is_a_template() -> None:
    rows = [("What is this thing here?", f"thing {i}") for i in range(11)]
    assert len(set(groups("pair", *rows))) == 11
    assert related("pair", *rows).common == {"what is this thing here": 11}
    assert len(set(groups("pair", *rows[:10]))) == 1
    assert groups("classification", *(("good",) for _ in range(30))) == [0] * 30, "a whole row is no template"


def test_rows_that_are_equal_but_for_case_and_punctuation_belong_together() -> None:
    assert groups("pair", ("Yes", "No"), ("yes!", "NO."), ("Yes", "Maybe")) == [0, 0, 2]
    assert groups("classification", ("C",), ("C++",), ("C#",), ("c",)) == [0, 1, 2, 0]
    assert groups("classification", ("3+4",), ("3-4",), ("जाता",), ("जाती",), ("😀",), ("😀",)) == [0, 1, 2, 3, 4, 4]


def test_texts_without_a_word_are_not_the_same() -> None:
    assert groups("classification", ("!!!",), ("???",), ("!!!",)) == [0, 1, 0]


def test_an_instruction_that_all_texts_have_does_not_make_them_near_duplicates() -> None:
    own = [f"{WORDS[i % 18]} {WORDS[i * 7 % 18]} {i}" for i in range(60)]
    rows = [(f"{LINE} {text}",) for text in own]
    assert len(set(groups("classification", *rows))) == 60
    twice = [*rows, (f"{LINE} {own[0]} {LINE} {own[1]}",), (f"{LINE} {own[0]} {LINE} {own[1]} now",)]
    assert groups("classification", *twice)[-2:] == [60, 60]


def test_premises_stay_apart_where_claims_chain_them() -> None:
    rows = [
        (f"Premise number {i} is this one.", f"There is claim number {(i * 4 + k) * 7 % 30} in it.")
        for i in range(40)
        for k in range(4)
    ]
    found = groups("pair", *rows, max_rows=16)
    assert max(Counter(found).values()) <= 16
    assert all(len(set(found[4 * i : 4 * i + 4])) == 1 for i in range(40))


def test_matches_are_rows_that_share_a_text_themselves() -> None:
    chain = [f"{' '.join(WORDS[i:])} {' '.join(WORDS[:i])}" for i in range(3)]
    rows = [("one of them",), (chain[0],), (chain[0] + " x",), ("ONE of them.",), ("others are here",)]
    assert related("classification", *rows).matches([0, 1], [2, 3, 4]) == {2: 1, 3: 0}


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), min_size=1, max_size=12), st.randoms())
@settings(max_examples=50, deadline=None)
def test_groups_are_the_same_in_any_order_of_texts_that_are_equal(texts: list[list[str]], random) -> None:
    rows = [(" ".join(text),) for text in texts]
    order = list(range(len(rows)))
    random.shuffle(order)
    found, shuffled = groups("classification", *rows), groups("classification", *(rows[i] for i in order))
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            if rows[first] == rows[second]:
                assert shuffled[i] == shuffled[j] and found[first] == found[second]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.9), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_without_groups_each_label_gives_the_first_rows_of_its_order(
    labels: list[int], ratio: float, seed: int
) -> None:
    rows = [Example((str(i),), label, str(i)) for i, label in enumerate(labels)]
    expected = set()
    for label in set(labels):
        members = [i for i, other in enumerate(labels) if other == label]
        n = min(len(members) - 1, max(1, round(ratio * len(members))))
        order = permute(np.arange(n), len(members), round_keys(seed, "valid", label))
        expected |= {str(members[i]) for i in order.tolist()}
    train, valid = split(rows, ratio, seed, np.arange(len(rows)))
    assert {row.where for row in valid} == expected
    assert (train, valid) == split(rows, ratio, seed)
    assert Counter(row.where for row in [*train, *valid]) == Counter(map(str, range(len(rows))))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=2, max_size=80), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_label_is_validated_and_trained_and_groups_stay_together_where_they_fit(
    rows: list[tuple[int, int]], seed: int
) -> None:
    examples = [Example((str(i),), label, str(i)) for i, (label, _) in enumerate(rows)]
    numbers = np.array([group for _, group in rows])
    train, valid = split(examples, 0.3, seed, numbers)
    assert Counter(row.where for row in [*train, *valid]) == Counter(map(str, range(len(rows))))
    taken = Counter(row.label for row in valid)
    for label in {label for label, _ in rows}:
        total = sum(other == label for other, _ in rows)
        target = min(total - 1, max(1, round(0.3 * total)))
        assert target / 2 <= taken[label] <= max(target, total // 2)
    sides = {int(row.where) for row in valid}
    apart = [
        g
        for g in set(numbers.tolist())
        if 0 < len(sides & set(np.flatnonzero(numbers == g).tolist())) < sum(numbers == g)
    ]
    assert all(sum(numbers == g) > 1 for g in apart)


def test_a_large_group_is_taken_where_the_others_leave_too_few_rows() -> None:
    rows = [Example((f"{i}",), int(i % 9 < 4), str(i)) for i in range(902)]
    numbers = np.array([min(i // 100, 9) if i < 900 else i for i in range(902)])
    train, valid = split(rows, 0.1, 1, numbers)
    assert 100 <= len(valid) <= 102
    assert len({int(row.where) // 100 for row in valid} - {9}) == 1


def test_a_class_that_is_one_group_is_validated() -> None:
    rows = [Example((f"{i}",), int(i < 100), str(i)) for i in range(200)]
    numbers = np.array([0 if i < 100 else i for i in range(200)])
    train, valid = split(rows, 0.1, 1, numbers)
    assert Counter(row.label for row in valid) == {0: 10, 1: 10}


def test_a_task_says_what_it_joined(tmp_path: Path) -> None:
    lines = ["question,answer,label"]
    for i in range(60):
        lines += [f"What is number {i} of all?,{i},right", f"What is number {i} of all?,{i + 1},wrong"]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.csv").write_text("question,answer,label\nWhat is number 7 of all?,seven,right\nWho?,me,wrong\n")
    (tmp_path / "t.toml").write_text(
        'kind = "pair"\n[data]\ntrain = "train.csv"\ntest = "test.csv"\n'
        '[columns]\ntext = "question"\ntext2 = "answer"\nlabel = "label"\n'
    )
    data = load_task(read_spec(tmp_path / "t.toml"), seed=1)
    assert {row.texts[0] for row in data.train}.isdisjoint(row.texts[0] for row in data.valid)
    assert len(data.valid) == 12
    notes = "\n".join(data.notes)
    assert "stay on one side of the split" in notes
    assert "1 of 2 test rows share a text with a training row" in notes
    assert "test.csv:2 with" in notes


def test_a_task_says_what_it_could_not_keep_apart(tmp_path: Path) -> None:
    lines = ["premise,claim,label"]
    for i in range(300):
        lines.append(f"Premise number {i % 10} is long enough.,claim {i} of them all,{'abc'[i % 3]}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "t.toml").write_text(
        'kind = "pair"\n[data]\ntrain = "train.csv"\n[columns]\ntext = "premise"\ntext2 = "claim"\nlabel = "label"\n'
    )
    data = load_task(read_spec(tmp_path / "t.toml"), seed=1)
    assert len({row.texts[0] for row in data.valid}) == 1, "a premise of 30 rows"
    assert {row.texts[0] for row in data.train}.isdisjoint(row.texts[0] for row in data.valid)
    (tmp_path / "train.csv").write_text("\n".join(line.replace("number 1", "number 0") for line in lines) + "\n")
    notes = "\n".join(load_task(read_spec(tmp_path / "t.toml"), seed=1).notes)
    assert "taken for templates, and those rows for unrelated: 'premise number 0 is long enough' (60 rows)" in notes


def test_rows_that_are_all_related_are_split_all_the_same(tmp_path: Path) -> None:
    lines = ["text,label", *(f"{LINE} {i},{'ab'[i % 2]}" for i in range(20))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "t.toml").write_text(
        'kind = "classification"\n[data]\ntrain = "train.csv"\n[columns]\ntext = "text"\nlabel = "label"\n'
    )
    data = load_task(read_spec(tmp_path / "t.toml"), seed=1)
    assert len(data.valid) == 2
    assert "2 of 2 validation rows share a text with a training row" in "\n".join(data.notes)


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(n: int) -> None:
    assert groups("classification", *[("a",)] * n) == list(range(n))
