"""Rows of task files: what training is told about them holds at predict, and what a task does not say is found out."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from firstlight.errors import ConfigError, CorpusError
from firstlight.finetuning import TaskData, load_task, read_spec, read_unlabelled
from firstlight.finetuning.kinds import EmptyTextError

COLUMNS = '[columns]\ntext = "text"\nlabel = "label"\n'


def read(folder: Path, data: str, columns: str = COLUMNS, head: str = 'kind = "classification"') -> TaskData:
    (folder / "t.toml").write_text(f"{head}\n[data]\n{data}\n{columns}", encoding="utf-8")
    return load_task(read_spec(folder / "t.toml"), seed=0)


def predicted(data: TaskData, path: Path) -> list[tuple[str, ...]]:
    return [row.texts for row in read_unlabelled(data.spec, path)]


NUMBERED = "[columns]\ntext = {}\nlabel = {}\n"
JSON = '[{"text": "a", "label": 1}, {"text": "b", "label": 0}]'
TSV = 'text\tlabel\n"a ""b"""\t1\nb\t0\n'


@pytest.mark.parametrize(
    ("name", "content", "data", "columns", "new", "expected"),
    [
        ("a.csv", "text;label\na;1\nb;0\n", 'delimiter = ";"', COLUMNS, "text;id\na,b;1\n", "a,b"),
        ("a.csv", "a,1\nb,0\n", "header = false", NUMBERED.format(0, 1), "a;b,1\n", "a;b"),
        ("a.csv", "text,label\ncafé,1\nb,0\n", 'encoding = "latin-1"', COLUMNS, "text\ncafé\n", "café"),
        ("a.tsv", TSV, "", COLUMNS, 'text\n"c"\n', "c"),
        ("a.tsv", TSV, "quotes = false", COLUMNS, 'text\n"c"\n', '"c"'),
        ("a.json", f'{{"d": {JSON}}}', 'field = "d"', COLUMNS, '{"d": [{"text": "c"}]}', "c"),
        (
            "a.json",
            f'[{{"d": {JSON}}}]',
            'explode = "d"',
            COLUMNS.replace('= "', '= "item.'),
            '[{"d": [{"text": "c"}]}]',
            "c",
        ),
        (
            "a.txt",
            "1 a b\n0 b\n",
            'header = false\ndelimiter = " "\nmax_fields = 2',
            NUMBERED.format(1, 0),
            "0 c d\n",
            "c d",
        ),
        ("a.log", '{"text": "a", "label": 1}\n' * 2, 'format = "jsonl"', COLUMNS, '{"text": "c"}\n', "c"),
    ],
)
def test_options_of_files_hold_at_predict(
    tmp_path: Path, name: str, content: str, data: str, columns: str, new: str, expected: str
) -> None:
    encoding = "latin-1" if "latin-1" in data else "utf-8"
    (tmp_path / name).write_bytes(content.replace("1}\n", "0}\n", 1).encode(encoding))
    (tmp_path / f"new{Path(name).suffix}").write_bytes(new.encode(encoding))
    made = read(tmp_path, f'train = "{name}"\nvalid = "{name}"\n{data}', columns)
    assert predicted(made, tmp_path / f"new{Path(name).suffix}") == [(expected,)]


@pytest.mark.parametrize("value", ["null", "NaN", '""', '"  "', "[]"])
def test_a_row_without_text_has_no_texts_at_predict_where_training_drops_it(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.jsonl").write_text(
        f'{{"text": "a", "label": 1}}\n{{"text": "b", "label": 0}}\n{{"text": {value}, "label": 1}}\n'
    )
    with pytest.raises(EmptyTextError, match=r"a.jsonl:3: column text: is empty"):
        read(tmp_path, 'train = "a.jsonl"')
    made = read(tmp_path, 'train = "a.jsonl"\nvalid = "a.jsonl"\non_empty = "drop"')
    assert predicted(made, tmp_path / "a.jsonl") == [("a",), ("b",), ()]


def test_rows_are_left_out_by_their_label(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(["a", "-", "b", "a", "b", -1])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = read(tmp_path, 'train = "a.jsonl"')
    assert whole.spec.label_values == ["-1", "-", "a", "b"]
    assert sum("may stand for a missing label" in note for note in whole.notes) == 2
    assert any("no validation row has the class '-1' (1 training rows), '-'" in note for note in whole.notes)
    made = read(tmp_path, 'train = "a.jsonl"\ndrop_labels = ["-", "-1"]')
    assert made.spec.label_values == ["a", "b"] and len(made.train) + len(made.valid) == 4
    assert any(note.startswith("2 rows whose label is in data.drop_labels") for note in made.notes)


@pytest.mark.parametrize(
    ("name", "content", "columns", "told"),
    [
        ("a.csv", "text;label\na;1\n", COLUMNS, r'a.csv:2: has no such column .*Set data.delimiter = ";"'),
        ("a.csv", "text;label\na, b;1\n", COLUMNS, r'a.csv:2: has more fields .*Set data.delimiter = ";"'),
        ("a.csv", "text\tlabel\na\t1\n", COLUMNS, r'Set data.delimiter = "\\t"'),
        ("a.csv", "text，label\na，1\n", COLUMNS, r'has no such column .*Set data.delimiter = "，"'),
        ("a.csv", "味道好。\n太咸，不吃。\n", COLUMNS, "If the first line is a row, set data.header=false"),
        (
            "a.csv",
            "a;1\nb;0\n",
            "[columns]\ntext = 0\nlabel = 1\n",
            "has no such column .*Set data.header = false|delimiter",
        ),
        ("a.csv", "a,1\nb,0\n", NUMBERED.format(0, 1), "has no such column .*Set data.header = false"),
        ("a.jsonl", '{"doc": {"text": "a"}, "label": 1}\n', COLUMNS, "Did you mean 'doc.text'"),
        (
            "a.jsonl",
            '{"doc": {"text": "a"}, "label": 1}\n',
            '[columns]\ntext = "doc.txt"\nlabel = "label"',
            "'doc.text'",
        ),
        ("a.jsonl", '{"text": {"body": "a"}, "label": 1}\n', COLUMNS, r'is not text .*"text.body"'),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', COLUMNS, r"has half a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": Infinity}\n', COLUMNS, "has no label that is finite"),
    ],
)
def test_advice_names_the_right_setting(tmp_path: Path, name: str, content: str, columns: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, f'train = "{name}"', columns)


def test_words_that_are_numbers_and_lists_that_were_printed(tmp_path: Path) -> None:
    columns = '[columns]\ntokens = "w"\nlabel = "l"\n'
    kind = 'kind = "token_classification"'
    (tmp_path / "a.jsonl").write_text('{"w": ["In", 1999, 1.50], "l": [0, 1.0, "1"]}\n' * 2)
    made = read(tmp_path, 'train = "a.jsonl"\nvalid = "a.jsonl"', columns, kind)
    assert made.train[0].texts == ("In", " 1999", " 1.50") and made.train[0].label == (0, 1, 1)
    (tmp_path / "a.csv").write_text("w,l\n\"['The', 'cat']\",\"[0, 1]\"\n")
    with pytest.raises(CorpusError, match=r"column w: is a list written as text .*JSON lines or Parquet"):
        read(tmp_path, 'train = "a.csv"', columns, kind)
    (tmp_path / "a.csv").write_text('w,l\nThe cat,"[0, 1]"\n')
    with pytest.raises(CorpusError, match="is a list written as text"):
        read(tmp_path, 'train = "a.csv"', columns, kind)


def test_labels_of_a_parquet_file_with_nulls_are_those_of_one_without(tmp_path: Path) -> None:
    table = {"text": ["a", "b", "c"], "label": pyarrow.array([1.0, 0.0, None])}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "x", "label": 1}\n{"text": "y", "label": "0"}\n{"text": "z", "label": false}\n'
    )
    made = read(tmp_path, 'train = "b.jsonl"\nvalid = "b.jsonl"\ntest = "a.parquet"')
    assert made.spec.label_values == ["0", "1", "false"]
    assert [row.label for row in made.test] == [1, 0]


def test_names_of_labels_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffwater\nschool\nfactory\n\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("one\t0\ntwo\t2\nthree\t0\n")
    columns, head = "[columns]\ntext = 0\nlabel = 1\n", 'kind = "classification"\nlabels = "{}"'
    data = 'train = "a.tsv"\nvalid = "a.tsv"\nheader = false'
    made = read(tmp_path, data, columns, head.format("names.txt"))
    assert made.spec.labels == ["water", "school", "factory"] and made.spec.label_values == ["0", "1", "2"]
    assert [row.label for row in made.train] == [0, 2, 0]
    (tmp_path / "a.tsv").write_text("one\t1\ntwo\t2\n")
    with pytest.raises(CorpusError, match="a label that the task does not list .*found 1; expected one of water"):
        read(tmp_path, data, columns, head.format("names.txt"))
    with pytest.raises(ConfigError, match=r"t.toml: labels: no such file .*name.txt"):
        read(tmp_path, data, columns, head.format("name.txt"))


OPENAI = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "prompt", "columns"),
    [
        ({"messages": OPENAI}, "a", 'messages = "messages"'),
        ({"conversations": SHAREGPT}, "a", 'messages = "conversations"'),
        ({"instruction": "a", "input": "", "output": "b", "origin": "s"}, "a", 'text2 = "output"; not used: origin'),
        ({"instruction": "a", "input": "c", "output": "b"}, "a\nc", 'text = ["instruction", "input"]'),
        ({"prompt": "a", "completion": "b"}, "a", 'text = ["prompt"], text2 = "completion"'),
    ],
)
def test_columns_of_chats_have_usual_names(tmp_path: Path, row: dict[str, object], prompt: str, columns: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    made = read(tmp_path, 'train = "a.json"', "", 'kind = "chat"')
    assert made.train[0].texts == (prompt, "b")
    assert any(columns in note for note in made.notes)
    (tmp_path / "a.json").write_text('[{"a": "b"}]')
    with pytest.raises(CorpusError, match="has no columns of a known name .*expected messages, or text and text2"):
        read(tmp_path, 'train = "a.json"', "", 'kind = "chat"')


@pytest.mark.parametrize("toml", ["task/quotes_tsv", "task/nan"])
def test_cases(shared_cases: Path, toml: str) -> None:
    spec = read_spec(shared_cases / f"{toml}.toml")
    if toml == "task/nan":
        with pytest.raises(EmptyTextError, match=r"nan.jsonl:8: column text: is empty"):
            load_task(spec, seed=0)
        return
    made = load_task(spec, seed=0)
    assert 'The film number 0 was dull said "no"' in {row.texts[0] for row in [*made.train, *made.valid]}


@pytest.mark.parametrize("name", ["alpaca", "sharegpt"])
def test_chats_that_newcomers_have(shared_cases: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "t.toml").write_text(f'kind = "chat"\n[data]\ntrain = "{name}.json"\n')
    made = load_task(read_spec(tmp_path / "t.toml", data=shared_cases / "newcomer"), seed=0)
    assert len(made.train) + len(made.valid) == 60
