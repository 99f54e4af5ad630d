"""JSON lines, JSON and Parquet: what counts as a document, and what is wrong where."""

import builtins
import json
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.corpus import CorpusSettings, Tally
from firstlight.corpus.readers.records import JsonLinesReader, JsonReader, ParquetReader
from firstlight.errors import CorpusError, MissingExtra
from firstlight.files.json_stream import JsonStream

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(plain, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(path: Path, tally: Tally | None = None, **settings: Any) -> list[str]:
    found = JsonLinesReader().read(path, CorpusSettings.model_validate(settings), tally or Tally())
    return [str(d.content) for d in found]


def entries(path: Path, tally: Tally | None = None, **settings: Any) -> list[str]:
    found = JsonReader().read(path, CorpusSettings.model_validate(settings), tally or Tally())
    return [str(d.content) for d in found]


def test_blank_lines_are_none_and_strings_are_texts(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '\n{"text": "one"}\n  \n"two"\n')
    found = list(JsonLinesReader().read(path, CorpusSettings(), Tally()))
    assert [(d.content, d.source) for d in found] == [("one", f"{path}:2"), ("two", f"{path}:4")]


@pytest.mark.parametrize("bad", ['{"text": "cut', "{'text': 1}", "nonsense", "[" * 100_000, "9" * 5000])
def test_a_bad_line_is_named(tmp_path: Path, bad: str):
    path = write(tmp_path, "a.jsonl", f'{{"text": "one"}}\n{bad}\n')
    with pytest.raises(CorpusError, match="is not valid JSON") as caught:
        lines(path)
    assert caught.value.where == f"{path}:2"
    assert len(str(caught.value)) < 500


NAME, OBJECT = " Name the field: corpus.text_field=", "found an object with a, b"
SKIP = " Fix it, or leave out such documents: corpus.on_bad_document=skip"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": 3}, "field 'text' is not text (found int; expected a string)." + SKIP),
        ({"texts": "x"}, "has no field 'text' (found fields texts). Name the field: corpus.text_field=texts"),
        ({"a": 1, "doc": {"text": "x"}}, "has no field 'text' (found fields a, doc)." + NAME + "doc.text"),
        ({"text": {"a": 1, "b": "x"}}, f"field 'text' is not text ({OBJECT}; expected a string)." + NAME + "text.b"),
        (
            {"id": "7", "title": "x", "body": "xyz"},
            "has no field 'text' (found fields id, title, body)." + NAME + "body",
        ),
        (
            {"a b;c": "x"},
            "has no field 'text' (found fields a b;c)." + " Name the field: 'corpus.text_field=\"a b;c\"'",
        ),
        ({"text": ["a", "b"]}, "field 'text' is not text (found a list of 2 items; expected a string)." + SKIP),
        ({}, "has no field 'text' (found no fields). Name the field: corpus.text_field=NAME"),
        (["x"], "has no field 'text' (found list; expected a record)." + SKIP),
        (17, "has no field 'text' (found int; expected a record)." + SKIP),
    ],
)
def test_a_record_without_text_is_named(tmp_path: Path, record: Any, problem: str):
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "x"}) + "\n" + json.dumps(record))
    with pytest.raises(CorpusError) as caught:
        lines(path)
    assert str(caught.value) == f"{path}:2: {problem}"


def test_a_wide_record_does_not_fill_the_message(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", json.dumps({f"{i} {'long ' * 100}": 1 for i in range(100)}))
    with pytest.raises(CorpusError) as caught:
        lines(path)
    assert len(str(caught.value.found)) < 800


def test_null_is_dropped_and_counted(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"a": {"b": null}}\n{"a": null}\n{"a": {"b": "x"}}')
    tally = Tally()
    assert lines(path, tally, text_field="a.b") == ["x"]
    assert (tally.seen, tally.dropped) == (2, {"null": 2})


def test_a_nested_field_and_one_with_a_dot(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"a": {"b": "nested"}}\n{"a.b": "dotted", "a": 1}')
    assert lines(path, text_field="a.b") == ["nested", "dotted"]
    with pytest.raises(CorpusError, match="has no field 'c' .found fields b."):
        lines(path, text_field="a.c")


def test_nan_is_null_and_parts_of_text_are_joined(tmp_path: Path):
    parts = '[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]'
    tally = Tally()
    assert lines(write(tmp_path, "a.jsonl", f'{{"text": NaN}}\n{{"text": {parts}}}'), tally) == ["a\nb"]
    assert tally.dropped == {"null": 1}


def test_several_fields_are_joined(tmp_path: Path):
    path = write(
        tmp_path, "a.jsonl", '{"a": "one", "b": {"c": "two"}}\n{"a": null, "b": {"c": "x"}}\n{"a": null, "b": null}'
    )
    tally = Tally()
    assert lines(path, tally, text_field=["a", "b.c"]) == ["one\ntwo", "x"]
    assert tally.dropped == {"null": 1}


def test_escaped_line_ends_are_made_one(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", r'{"text": "a\r\nb\rc\n"}')
    assert lines(path) == ["a\nb\nc\n"]
    assert lines(path, newlines="keep") == ["a\r\nb\rc\n"]


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"text": "ok \\ud83d\\ude42"}\n{"text": "bad \\ud83d \\udc00"}')
    with pytest.raises(CorpusError, match="half a surrogate pair") as caught:
        lines(path)
    assert (caught.value.where, caught.value.found) == (f"{path}:2", "\\ud83d")
    tally = Tally()
    assert lines(path, tally, on_bad_bytes="replace") == ["ok 🙂", "bad \ufffd \ufffd"]
    assert (tally.n_bad, tally.bad_bytes) == (2, [f"{path}:2"])
    assert lines(path, on_bad_bytes="skip") == ["ok 🙂", "bad  "]


# ---- JSON


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"text": "a"}, "b"]', ["a", "b"]),
        ("[]", []),
        ("", []),
        (' {"version": 1, "data": [{"text": "a"}, {"text": "b"}], "more": {}} ', ["a", "b"]),
        ('{"tags": ["x", "y"], "text": "a"}', ["a"]),
        ('{"text": "a", "tags": ["x", "y"]}', ["a"]),
        ('{"text": "a"}', ["a"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('"a"', ["a"]),
        ('{"data": []}', []),
    ],
)
def test_what_a_document_of_json_is(tmp_path: Path, text: str, found: list[str]):
    assert entries(write(tmp_path, "a.json", text)) == found


def test_entries_are_numbered(tmp_path: Path):
    path = write(tmp_path, "a.json", '[{"text": "a"}, {"text": 4}]')
    with pytest.raises(CorpusError) as caught:
        entries(path)
    assert caught.value.where == f"{path}: entry 2"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ('[{"text": "a"}, {"text": "b"}', 29, "Expecting ',' or ']'"),
        ('[{"text": "a"}, {"text": "b', 25, "Unterminated string"),
        ('[{"text": "a"} {"text": "b"}]', 15, "Expecting ',' or ']'"),
        ('[{"text": "a"}, ]', 16, "Expecting value"),
        ("[tru]", 1, "Expecting value"),
        ('{"data": [{"text": "a"}], 3}', 26, "Expecting '\"'"),
        ('{"data" [1]}', 8, "Expecting ':'"),
        ('["a", ' + "[" * 100_000, 6, "nested too deeply"),
        ('["a", {"text": 12.5.3}]', 19, "Expecting ',' delimiter"),
    ],
)
def test_a_broken_json_is_named_by_its_character(tmp_path: Path, text: str, place: int, problem: str):
    path = write(tmp_path, "a.json", text)
    with pytest.raises(CorpusError) as caught:
        entries(path)
    assert problem in caught.value.problem
    assert caught.value.where == f"{path}: character {place}"


@given(st.lists(values, max_size=5), st.integers(1, 12), st.sampled_from([None, 1]))
def test_a_list_is_taken_apart_wherever_the_borders_are(content: list[Any], size: int, indent: int | None):
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    stream = iter([text[i : i + size] for i in range(0, len(text), size)])
    found = JsonStream(stream, Path("a"))
    assert list(found.iter_items()) == content
    assert found.peek() == ""


@given(st.dictionaries(st.text(max_size=5), values, max_size=4), st.integers(1, 12))
def test_an_object_is_taken_apart_wherever_the_borders_are(content: dict[str, Any], size: int):
    text = json.dumps(content)
    found = JsonStream(iter([text[i : i + size] for i in range(0, len(text), size)]), Path("a"))
    assert {key: found.value() for key in found.iter_keys()} == content


def test_one_huge_entry_costs_linear_time():
    text = '["' + "x" * 1000
    before = time.process_time()
    [entry] = JsonStream(iter([text, *["x" * 1000] * 30_000, '"]']), Path("a")).iter_items()
    assert len(entry) == 30_001_000
    # Parsing again for each piece would read 450 GB.
    assert time.process_time() - before < 10


# ---- Parquet


def test_parquet_nested_null_and_missing(tmp_path: Path):
    path = tmp_path / "a.parquet"
    rows = [{"a": {"b": "one", "c": 1}, "n": None}, {"a": None, "n": None}, {"a": {"b": "two", "c": 2}, "n": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1)
    tally = Tally()
    found = list(ParquetReader().read(path, CorpusSettings(text_field="a.b"), tally))
    assert [(d.content, d.source) for d in found] == [("one", f"{path}: row 1"), ("two", f"{path}: row 3")]
    assert tally.dropped == {"null": 1}
    with pytest.raises(CorpusError, match="field 'a.c' is not text"):
        list(ParquetReader().read(path, CorpusSettings(text_field="a.c"), Tally()))


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet_string_types(tmp_path: Path, kind: str):
    kinds = {
        "string": pyarrow.string(),
        "large_string": pyarrow.large_string(),
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    }
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(["a", "b\r\n"]).cast(kinds[kind])}), path)
    assert [d.content for d in ParquetReader().read(path, CorpusSettings(), Tally())] == ["a", "b\n"]


@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_a_cut_parquet_is_named(tmp_path: Path, kept: float):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 1000}), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if kept < 1 else int(kept)])
    with pytest.raises(CorpusError, match="not a readable Parquet file") as caught:
        list(ParquetReader().read(path, CorpusSettings(), Tally()))
    assert caught.value.where == str(path)


def test_pyarrow_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    real = builtins.__import__

    def no_pyarrow(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    with pytest.raises(MissingExtra, match=r"pip install .*pyarrow"):
        list(ParquetReader().read(path, CorpusSettings(), Tally()))
