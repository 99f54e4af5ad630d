"""What errors and notices advise: it fits the command and the file, and what is advised then works."""

import bz2
import gzip
import json
import shlex
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from firstlight import progress
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import CorpusError, Failure

ROWS = "Write one record per line, as pandas does with to_json(orient='records', lines=True)."


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(name: str | Path, **settings: object) -> list[str]:
    return [str(d.content) for d in open_corpus([str(name)], CorpusSettings.model_validate(settings))]


def put(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fix_of(name: str | Path, **settings: object) -> str:
    with pytest.raises(Failure) as caught:
        texts(name, **settings)
    return caught.value.fix or ""


@pytest.mark.parametrize(
    ("records", "fix"),
    [
        ({"text": {"0": "one two", "1": "three"}, "id": {"0": 1, "1": 2}}, ROWS),  # pandas' DataFrame.to_json()
        ({"1": {"text": "a"}, "2": {"text": "b"}}, ROWS),
        ({"train": [{"text": "a"}], "test": [{"text": "b"}]}, "Write the items of the list 'train' as records"),
        ([{"title": "T", "paragraphs": [{"context": "Longer than its title"}]}], "the items of the list 'paragraphs'"),
        ([{"id": "abc", "messages": [{"role": "user", "content": "hi"}]}], "the items of the list 'messages'"),
        ([{"title": "A long text", "tags": ["a", "b"]}], "corpus.text_field=title"),
        (
            {"doc1": {"text": "a"}, "doc2": {"text": "b"}},
            "or where each of them is a record: write one record per line",
        ),
    ],
)
def test_no_field_of_one_row_is_advised_for_all_rows(records: object, fix: str):
    assert fix in fix_of(put("a.json", json.dumps(records)))


@pytest.mark.parametrize("field", ["meta.body", "meta.zzz", "body.text", "messages.content"])
def test_a_field_that_a_parquet_column_does_not_have(field: str):
    columns = {"body": ["x"], "meta": [{"t": "q"}], "messages": [[{"content": "hi"}]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "a.parquet")
    with pytest.raises(CorpusError, match="has no field") as caught:
        texts("a.parquet", text_field=field)
    assert "no fields" not in str(caught.value)
    assert texts("a.parquet", text_field="meta.t") == ["q"]


@pytest.mark.parametrize(
    ("name", "rows"), [("a b.csv", "1,This is a text\n2,b\n"), ("a.tsv", "A text of five words\tpos\nb\tneg\n")]
)
def test_a_table_without_a_row_of_names(name: str, rows: str):
    fix = fix_of(put(name, rows))
    assert fix.startswith("If its first row is data, write a row of names above it: ")
    subprocess.run(fix.partition("above it: ")[2], shell=True, check=True)
    assert len(texts(name.replace(".", ".named."))) == 2


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_the_delimiter_that_a_first_line_of_excel_names(line: str):
    assert texts(put("a.csv", line + "id;text\n1;hello, you\n")) == ["hello, you"]
    assert texts(put("b.csv", "sep=;\nid|text\n1|a;b\n"), delimiter="|") == ["a;b"]


@pytest.mark.parametrize("content", ['[{"text":"a"},\n{"text":"b"}]\n', '[\n{"text":"a"},\n{"text":"b"}\n]\n'])
def test_a_json_array_that_is_named_as_json_lines(content: str):
    path = put("a b.jsonl", content)
    fix = fix_of(path)
    folder = Path.cwd()
    assert fix == f"Name it as JSON: mv '{folder}/a b.jsonl' '{folder}/a b.json'"
    subprocess.run(shlex.split(fix.partition(": ")[2]), check=True)
    assert texts("a b.json") == ["a", "b"]


def test_a_damaged_first_line_of_json_lines_is_no_array():
    path = put("a.jsonl", '{"text": "a"\n{"text": "b"}\n')
    assert "on_bad_document=skip" in fix_of(path)
    assert texts(path, on_bad_document="skip") == ["b"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2"])
def test_a_file_that_is_compressed_twice(name: str):
    compress = gzip.compress if name.endswith("gz") else bz2.compress
    fix = fix_of(put(name, compress(gzip.compress(b"hello there"))))
    subprocess.run(fix.partition(": ")[2], shell=True, check=True)
    assert texts("unpacked-a.txt.gz") == ["hello there"]


@pytest.mark.parametrize(("name", "said"), [("a.txt", True), ("a.log", True), ("a.jsonl", False), ("b.txt", False)])
def test_records_that_are_read_as_plain_text_are_pointed_out(name: str, said: bool):
    found: list[str] = []
    put(name, '{"text": "a"}\n{"text": "b"}\n' if name[0] == "a" else '{\n{"a": b}\n')
    with progress.listen(lambda event: found.append(event.text)):
        texts(name)
    assert any("JSON lines, which are read as plain text" in text for text in found) is said


def test_half_a_surrogate_pair_advises_a_setting_of_every_command():
    assert "corpus.on_bad_bytes=replace" in fix_of(put("a.jsonl", '{"text": "\\ud800"}\n'))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_the_pointer_of_a_file_in_git_lfs_is_no_text(name: str):
    put(name, f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n")
    assert fix_of(name) == f"Fetch the file that it stands for: git -C {Path.cwd()} lfs pull --include={name}"


@pytest.mark.parametrize("start", ["<!DOCTYPE html>\n<html>", "\n<html lang='en'>"])
def test_a_page_that_is_saved_as_plain_text_is_pointed_out(start: str):
    found: list[str] = []
    put("a.txt", f"{start}<head><title>404 Not Found</title></head><body>Not found</body></html>")
    put("b.html", f"{start}<body>Not found</body></html>")
    with progress.listen(lambda event: found.append(event.text)):
        texts("a.txt")
        assert texts("b.html") == ["Not found"]
    assert [text.partition(",")[0] for text in found if "HTML" in text] == ["a.txt: HTML"]
