"""Labels: what a file may give as one, how right answers are read, and texts that may not be taken for labels."""

import json
from pathlib import Path

import pytest

from firstlight.errors import ConfigError, CorpusError, UsageError
from firstlight.finetuning import TaskData, load_task, read_spec, read_unlabelled

TEXT = '[columns]\ntext = "text"\nlabel = "label"\n'
CHOICE = 'kind = "multiple_choice"\n[data]\ntrain = "{}"\n[columns]\nquestion = "q"\nchoices = {}\nlabel = "a"\n'


def read(folder: Path, toml: str, **files: str) -> TaskData:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    (folder / "t.toml").write_text(toml, encoding="utf-8")
    return load_task(read_spec(folder / "t.toml"), seed=0)


def by_text(made: TaskData) -> dict[str, object]:
    return {row.texts[0]: row.label for row in [*made.train, *made.valid]}


def lines(*read_records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in read_records)


def test_a_number_counts_answers_also_where_answers_are_numbers(tmp_path: Path) -> None:
    rows = lines(*({"q": f"q{i}", "c": ["1", "2", "0"], "a": i} for i in (0, 1, 2, 0)))
    made = read(tmp_path, CHOICE.format("a.jsonl", '"c"'), a_jsonl=rows)
    assert by_text(made) == {"q0": 0, "q1": 1, "q2": 2}


def test_one_reading_of_words_holds_for_all_rows(tmp_path: Path) -> None:
    columns = '["x", "y", "z"]'
    numbers = "q,x,y,z,a\nsmall,1,2,3,1\nlarge,7,8,9,1\nnone,u,v,w,0\nlast,u,v,w,2\n"
    made = read(tmp_path, CHOICE.format("a.csv", columns), a_csv=numbers)
    assert by_text(made) == {"small": 1, "large": 1, "none": 0, "last": 2}
    answers = "q,x,y,z,a\nsmall,1,2,3,1\nlarge,7,8,9,8\nnone,u,v,w,u\nlast,u,v,w,w\n"
    made = read(tmp_path, CHOICE.format("a.csv", columns), a_csv=answers)
    assert by_text(made) == {"small": 0, "large": 1, "none": 0, "last": 2}


@pytest.mark.parametrize("kind", ["chat", "multiple_choice"])
def test_a_column_called_text_that_no_one_asked_for_is_left_alone(tmp_path: Path, kind: str) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    row = {"text": "unused", "messages": turns, "q": "which?", "c": ["x", "y"], "a": 1}
    toml = 'kind = "chat"\n[data]\ntrain = "a.jsonl"\n[columns]\nmessages = "messages"\n'
    toml = toml if kind == "chat" else 'answer_format = "zero_based"\n' + CHOICE.format("a.jsonl", '"c"')
    made = read(tmp_path, toml, a_jsonl=lines(*[row] * 4))
    expected = ("hi", "hello") if kind == "chat" else ("which?", "x", "y")
    assert {r.texts for r in made.train} == {expected}
    assert [r.texts for r in read_unlabelled(made.spec, tmp_path / "a.jsonl")] == [expected] * 4


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (
            ["p", "q"],
            r"a.jsonl:1: has no single label .*'p', 'q'.*Several labels per row need a kind of your own: docs",
        ),
        ({"x": 1}, r"a.jsonl:1: has no single label"),
        (float("nan"), r"a.jsonl:1: has no label"),
        (None, r"a.jsonl:1: has no label"),
    ],
)
def test_what_is_no_label(tmp_path: Path, label: object, told: str) -> None:
    rows = lines({"text": "a", "label": label}, {"text": "b", "label": 1}, {"text": "c", "label": 0})
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, 'kind = "classification"\n[data]\ntrain = "a.jsonl"\n' + TEXT, a_jsonl=rows)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("x,1\ny,1\n", "has the same label as every other row, so .*found 1"),
        ("x,\ny,\n", "a.csv:2: has no label, and no other row has one"),
        ("x,1\ny,0\n", "has too few rows to take validation rows .*found 2"),
    ],
)
def test_files_that_teach_nothing_although_labels_are_declared(tmp_path: Path, rows: str, told: str) -> None:
    head = 'kind = "classification"\nlabel_values = ["0", "1"]\n[data]\ntrain = "a.csv"\n'
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, head + TEXT, a_csv="text,label\n" + rows)


def test_a_score_outside_the_scale_that_was_declared(tmp_path: Path) -> None:
    head = 'kind = "regression"\nscale = [0.0, 5.0]\n[data]\ntrain = "a.csv"\n'
    with pytest.raises(CorpusError, match=r"a.csv:3: score is outside scale .*found 9.0; expected 0.0 to 5.0"):
        read(tmp_path, head + TEXT, a_csv="text,label\na,1\nb,9\nc,3\n")


def test_an_input_without_the_label_that_leads_its_lines_keeps_its_words(tmp_path: Path) -> None:
    toml = (
        'kind = "classification"\n[data]\ntrain = "a.txt"\nheader = false\ndelimiter = " "\nmax_fields = 2\n'
        "[columns]\nlabel = 0\ntext = 1\n"
    )
    made = read(tmp_path, toml, a_txt="0 so so\n1 very good\n0 no good\n1 fine day\n")
    (tmp_path / "new.txt").write_text("1 a fine film\n0 1 of 10\n")
    assert [row.texts for row in read_unlabelled(made.spec, tmp_path / "new.txt")] == [("a fine film",), ("1 of 10",)]
    (tmp_path / "new.txt").write_text("1 a fine film\nA fine film\n")
    rows = read_unlabelled(made.spec, tmp_path / "new.txt")
    assert next(rows).texts == ("a fine film",)
    with pytest.raises(CorpusError, match=r"new.txt:2: has no label where .*found A; expected one of 0, 1"):
        next(rows)


@pytest.mark.parametrize("score", ["9" * 400, "1e400", "nan"])
def test_a_score_that_no_float_holds_is_refused(tmp_path: Path, score: str) -> None:
    toml = 'kind = "regression"\n[data]\ntrain = "a.jsonl"\n' + TEXT
    rows = "".join(f'{{"text": "row {i}", "label": {i}}}\n' for i in range(20))
    files = {"a_jsonl": rows + f'{{"text": "last", "label": {score}}}\n'.replace("nan", "NaN")}
    with pytest.raises(CorpusError, match="is not a score|has no label|not valid"):
        read(tmp_path, toml, **files)


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_f1_is_refused_where_there_are_not_two_labels(tmp_path: Path, kind: str) -> None:
    column = "tokens" if kind == "token_classification" else "text"
    toml = (
        f'kind = "{kind}"\nmetric = "f1"\n[data]\ntrain = "rows.csv"\n[columns]\n{column} = "text"\nlabel = "label"\n'
    )
    words, label = ("t u", "a {}") if kind == "token_classification" else ("t", "{}")
    rows = [f"{words}{i},{label.format('bca'[i % 3])}" for i in range(30)]
    with pytest.raises(ConfigError, match=r"second of two labels \(found 3 labels\).*macro_f1"):
        read(tmp_path, toml, rows_csv="\n".join(["text,label", *rows]))
    two = [f"{words}{i},{label.format('ba'[i % 2])}" for i in range(30)]
    assert read(tmp_path, toml, rows_csv="\n".join(["text,label", *two])).spec.metric == "f1"


def test_a_table_is_not_a_task(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is a table, not a task .*TASK.toml"):
        read_spec(tmp_path / "rows.csv")


def test_a_misspelt_metric_has_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean accuracy"):
        read(tmp_path, 'kind = "classification"\nmetric = "acuracy"\n[data]\ntrain = "x.csv"\n' + TEXT)


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    toml = 'kind = "regression"\n[data]\ntrain = "rows.csv"\ndelimiter = ";"\n' + TEXT
    with pytest.raises(CorpusError, match=r"is not a score .*'2,6'.*decimals with a point"):
        read(tmp_path, toml, rows_csv="text;label\na;2,6\nb;1\n")


def test_a_class_of_the_test_rows_alone_can_be_left_out(tmp_path: Path) -> None:
    toml = 'kind = "classification"\n[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\n' + TEXT
    rows = lines(*({"text": f"t{i}", "label": "xy"[i % 2]} for i in range(20)))
    test = lines({"text": "u", "label": "x"}, {"text": "v", "label": "something else"})
    with pytest.raises(CorpusError, match=r'b.jsonl:2: .*data.drop_labels = \["something else"\]'):
        read(tmp_path, toml, a_jsonl=rows, b_jsonl=test)


def test_decimals_with_a_comma_are_read_where_the_task_says_so(tmp_path: Path) -> None:
    toml = 'kind = "regression"\n[data]\ntrain = "a.csv"\nvalid = "a.csv"\ndelimiter = ";"\n' + TEXT
    rows = "text;label\na;1,5\nb;2\nc;3,5\n"
    with pytest.raises(CorpusError, match=r'a.csv:2: is not a score .*data.decimal = "," reads them'):
        read(tmp_path, toml, a_csv=rows)
    toml = toml.replace('";"\n', '";"\ndecimal = ","\n')
    made = read(tmp_path, toml, a_csv=rows)
    assert made.spec.scale == (1.5, 3.5) and [row.label for row in made.train] == [0, 0.25, 1]
    with pytest.raises(
        CorpusError, match=r"a.csv:3: is not a score \(found '1.234'; expected a number with ',' for dec"
    ):
        read(tmp_path, toml, a_csv=rows.replace(";2", ";1.234"))


def test_data_sets_that_the_library_datasets_saved_are_to_be_written_as_parquet(tmp_path: Path) -> None:
    stream = bytes.fromhex("ffffffff780100001000000000000a000e00060005000800")
    toml = 'kind = "classification"\n[data]\ntrain = "{}"\n' + TEXT
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(stream)
    (tmp_path / "saved" / "state.json").write_text("{}")
    for name in ("saved", "saved/data-00000-of-00001.arrow"):
        with pytest.raises(CorpusError, match=r"load_from_disk.*to_parquet"):
            read(tmp_path, toml.format(name))


def test_texts_with_two_labels_are_named(tmp_path: Path) -> None:
    toml = 'kind = "classification"\n[data]\ntrain = "a.csv"\nvalid = "b.csv"\n' + TEXT
    made = read(tmp_path, toml, a_csv="text,label\na,x\na,y\na,x\nb,y\nb,y\n", b_csv="text,label\nc,x\nd,y\n")
    (note,) = [note for note in made.notes if "another label" in note]
    assert note.startswith("1 training rows have") and note.endswith("a.csv:3 (y)") and "a.csv:2 (x) and" in note
