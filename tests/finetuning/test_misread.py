"""Files of tasks that can be read in a wrong way: refused, or named in a note."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from firstlight import progress
from firstlight.errors import ConfigError, CorpusError
from firstlight.finetuning import TaskData, load_task, read_spec

COLUMNS = 'text = "text"\nlabel = "label"'
ROWS = "a,x\nb,y\nc,x\nd,y\n"


def read(
    folder: Path,
    content: str | bytes,
    name: str = "a.csv",
    *,
    kind: str = "classification",
    columns: str = COLUMNS,
    data: str = "",
    head: str = "",
) -> TaskData:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    toml = folder / "t.toml"
    toml.write_text(f'kind = "{kind}"\n{head}\n[data]\ntrain = "{name}"\n{data}\n[columns]\n{columns}\n', "utf-8")
    return load_task(read_spec(toml), seed=0)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(names: list[str], *columns: list[Any]) -> bytes:
    table = pyarrow.Table.from_arrays([pyarrow.array(column) for column in columns], names=names)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def test_columns_of_a_parquet_file_with_the_same_name_are_refused(tmp_path: Path) -> None:
    content = parquet(["text", "label", "label"], list("abcd"), [1, 0, 1, 0], [0, 1, 0, 1])
    with pytest.raises(CorpusError, match="two columns have the same name"):
        read(tmp_path, content, "a.parquet")


def test_items_of_parquet_lists_become_rows(tmp_path: Path) -> None:
    content = parquet(["label", "texts"], ["x", "y"], [[{"t": "a"}, {"t": "b"}], [{"t": "c"}, {"t": "d"}]])
    data = read(tmp_path, content, "a.parquet", data='explode = "texts"', columns='text = "item.t"\nlabel = "label"')
    assert {row.texts for row in [*data.train, *data.valid]} == {("a",), ("b",), ("c",), ("d",)}
    with pytest.raises(CorpusError, match="has no lists"):
        read(tmp_path, f"text,label\n{ROWS}", data='explode = "texts"')


TOKENS = 'tokens = "w"\nlabel = "t"'


def test_words_without_context_are_refused(tmp_path: Path) -> None:
    conll = "EU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\nran VBD O\n"
    with pytest.raises(CorpusError, match="has one word, as every other row"):
        read(
            tmp_path,
            conll,
            "a.txt",
            kind="token_classification",
            columns="tokens = 0\nlabel = 2",
            data='delimiter = " "\nheader = false',
        )


def test_labels_of_words_that_transformers_leaves_out_are_named(tmp_path: Path) -> None:
    rows = lines([{"w": ["a", "b"], "t": [-100, 1]}, {"w": ["a", "c"], "t": [0, -100]}])
    data = read(tmp_path, rows, "a.jsonl", kind="token_classification", columns=TOKENS)
    assert any("'-100'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("kind", "columns", "head", "data", "named"),
    [
        ("token_classification", TOKENS, "", 'drop_labels = ["B"]', "data.drop_labels"),
        ("chat", 'messages = "m"', "", 'drop_labels = ["B"]', "data.drop_labels"),
        ("text", 'text = "text"', 'labels = ["a", "b"]', "", "labels"),
        ("regression", COLUMNS, 'labels = ["a", "b"]', "", "labels"),
        ("classification", COLUMNS, "scale = [0, 1]", "", "scale"),
        ("classification", COLUMNS, 'answer_format = "letter"', "", "answer_format"),
    ],
)
def test_settings_that_a_kind_does_not_read_are_refused(
    tmp_path: Path, kind: str, columns: str, head: str, data: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=f"{named} does not fit a task of kind {kind}"):
        read(tmp_path, "", kind=kind, columns=columns, head=head, data=data)


def test_rows_without_a_label_are_left_out_by_an_empty_name(tmp_path: Path) -> None:
    content = f"text,label\n{ROWS}e,\n"
    with pytest.raises(CorpusError, match="has no label") as refused:
        read(tmp_path, content)
    assert refused.value.fix is not None
    assert 'data.drop_labels = [""]' in refused.value.fix
    data = read(tmp_path, content, data='drop_labels = [""]')
    assert len(data.train) + len(data.valid) == 4
    assert any("1 rows whose label is in data.drop_labels" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (f"text,label\n{ROWS}e,X\nf,X\n", "'X' and 'x'"),
        (f"text,label\n{ROWS}e,caf\u00e9\nf,cafe\u0301\n", "written in two ways"),
        (f"text,label\n{ROWS}nan,x\n", "1 rows have a text such as nan"),
        (f"text,label\n{ROWS}e,1\nf,true\n", "'1' and 'true'"),
        (f"text,label\n{ROWS}e,\"['x', 'y']\"\n", "each of these lists is a class"),
        (f"text,label\n{ROWS}b'e',y\n", "1 rows have a text that Python printed"),
        (f"text,label\n{ROWS}e,unsup\nf,unsup\n", 'data.drop_labels = ["unsup"]'),
    ],
)
def test_labels_and_texts_that_may_be_others_are_named(tmp_path: Path, content: str, note: str) -> None:
    assert any(note in found for found in read(tmp_path, content).notes)


def test_a_file_that_is_named_twice_is_named(tmp_path: Path) -> None:
    data = read(tmp_path, f"text,label\n{ROWS}", data='test = ["a.csv", "*.csv"]')
    assert any("a.csv: named more than once" in note for note in data.notes)


def test_a_typo_in_drop_labels_is_named(tmp_path: Path) -> None:
    data = read(tmp_path, f"text,label\n{ROWS}", data='drop_labels = ["yy"]')
    assert any('no row has a label of data.drop_labels = ["yy"]' in note for note in data.notes)


def test_tables_in_folders_and_zip_files_are_not_texts(tmp_path: Path) -> None:
    (tmp_path / "d" / "en").mkdir(parents=True)
    (tmp_path / "d" / "en" / "a.csv").write_text(f"text,label\n{ROWS}")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.csv", f"text,label\n{ROWS}")
    (tmp_path / "t.toml").write_text('kind = "classification"\n[data]\ntrain = "d"\nformat = "folders"\n')
    with pytest.raises(CorpusError, match="is a table"):
        load_task(read_spec(tmp_path / "t.toml"), seed=0)
    with pytest.raises(CorpusError, match="is a table"):
        read(tmp_path, file.getvalue(), "a.zip")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", 'text,label\na, "x"\nb, "y"\nc, "x"\nd, "y"\n', "4 rows have a space before a quote"),
        ("a.csv", f"text,label\n{ROWS}text,label\n", "a.csv:6: left out, since it repeats the header"),
        ("a.csv", "text,label\n'a',x\n'b',y\n'c',x\n'd',y\n", "single quotes enclose a field of every row"),
        ("a.tsv", "text\tlabel\n'a'\tx\n'b'\ty\n'c'\tx\n'd'\ty\n", "single quotes enclose a field of every row"),
    ],
)
def test_what_a_table_leaves_in_or_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, said: str
) -> None:
    notices: list[str] = []
    monkeypatch.setattr(progress, "notice", notices.append)
    read(tmp_path, content, name)
    assert any(said in notice for notice in notices)


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("a.txt", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n', 'data.format = "jsonl"'),
        ("a.jsonl", '[{"text": "a", "label": 1}]', 'data.format = "json"'),
        ("a.json", '{"data": [{"text": "a", "label": 1}]}', 'data.field = "data"'),
    ],
)
def test_json_under_another_suffix_is_named(tmp_path: Path, name: str, content: str, fix: str) -> None:
    with pytest.raises(CorpusError) as refused:
        read(tmp_path, content, name)
    assert refused.value.fix is not None
    assert fix in refused.value.fix


def test_messages_left_out_of_the_loss_and_keys_that_are_not_read(tmp_path: Path) -> None:
    def chat(**more: object) -> dict[str, Any]:
        return {"m": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes", **more}]}

    with pytest.raises(CorpusError, match="is left out of the loss by 'training'"):
        read(tmp_path, lines([chat(), chat(training=False)]), "a.jsonl", kind="chat", columns='messages = "m"')
    rows = lines([chat(), chat(reasoning_content="so"), chat(name=None)])
    data = read(tmp_path, rows, "a.jsonl", kind="chat", columns='messages = "m"')
    assert "keys of messages that are not used: reasoning_content (1 rows)" in data.notes


@pytest.mark.parametrize("score", ["1_0", "1,5", "50%"])
def test_scores_are_numbers_as_files_have_them(tmp_path: Path, score: str) -> None:
    with pytest.raises(CorpusError, match="is not a score"):
        read(tmp_path, f'text,label\na,"{score}"\nb,2\nc,3\n', kind="regression")


CHOICES = 'question = "q"\nchoices = {}\nlabel = "a"'


@pytest.mark.parametrize(
    ("names", "labels"),
    [(["opt_b", "opt_a"], "AABB"), (["choice2", "choice1"], "1122"), (["end1", "end0"], "0011")],
)
def test_answers_are_found_by_the_end_of_their_names(tmp_path: Path, names: list[str], labels: str) -> None:
    """By their order, the first answer would be the one with the name that ends with b."""
    rows = [{"q": f"q{i}", names[0]: "x", names[1]: "y", "a": label} for i, label in enumerate(labels)]
    columns = CHOICES.format(json.dumps(names))
    data = read(tmp_path, lines(rows), "a.jsonl", kind="multiple_choice", columns=columns)
    found = {row.where.rpartition(":")[2]: row.label for row in [*data.train, *data.valid]}
    assert found == {"1": 1, "2": 1, "3": 0, "4": 0}


def test_marks_of_answers_are_not_their_texts(tmp_path: Path) -> None:
    rows = [{"q": "q", "c": {"it is red": 1, "it is blue": 0}, "a": "it is red"}] * 3
    with pytest.raises(CorpusError, match="has a mark for each answer"):
        read(tmp_path, lines(rows), "a.jsonl", kind="multiple_choice", columns=CHOICES.format('"c"'))
