"""Records: damage is told from an end, and what is left out is told or refused."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from firstlight.errors import ConfigError, CorpusError
from firstlight.files.tables import TRUNCATED
from firstlight.finetuning import read_spec
from firstlight.finetuning.readers import read_records, resolve_names
from firstlight.finetuning.spec import DataFiles


def read(path: Path, **how: object) -> list[object]:
    return [record for _, record in read_records(path, DataFiles.model_validate({"train": path.name, **how}))]


# One line break ends a line of a table without quotes, and "\r" one that csv sees.
CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), min_size=1, max_size=12
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[("0", '"'), ("0", '"')], encoding="utf-8")
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), encoding=st.sampled_from(["utf-8", "utf-16"]))
def test_fields_survive_tsv_and_jsonl(tmp_path: Path, rows: list[tuple[str, str]], encoding: str) -> None:
    expected = [{"a": x, "b": y} for x, y in rows]
    table = "a\tb\n" + "".join(f"{x}\t{y}\n" for x, y in rows)
    (tmp_path / "x.tsv").write_bytes(table.encode(encoding))
    assert read(tmp_path / "x.tsv", encoding=encoding) == expected
    objects = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in expected)
    (tmp_path / "x.jsonl").write_bytes(objects.encode(encoding))
    assert read(tmp_path / "x.jsonl", encoding=encoding) == expected


def test_utf_16_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes("a\tb\nx\ty\n".encode("utf-16") + b"\x00\xd8\x00")
    with pytest.raises(CorpusError, match=r"x.tsv:3: is not UTF-16 \(little endian\)"):
        read(tmp_path / "x.tsv", encoding="utf-16")


def test_only_a_last_line_without_its_end_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3")
    assert read(tmp_path / "x.csv") == [{"a": "1", "b": "2"}, TRUNCATED]
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(CorpusError, match=r"x.csv:3: has fewer fields than the first row .*found 1; expected 2"):
        read(tmp_path / "x.csv")


def test_a_quote_that_is_never_closed_does_not_swallow_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n1,2\n"3,4\n5,6\n7,8\n')
    with pytest.raises(CorpusError, match=r"x.csv:3: opens a quoted field that is never closed"):
        read(tmp_path / "x.csv")
    assert len(read(tmp_path / "x.csv", quotes=False)) == 4


def test_a_name_for_two_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,text,label\na,b,1\n")
    with pytest.raises(CorpusError, match=r"x.csv:1: two columns have the same name .*found text"):
        read(tmp_path / "x.csv")


def test_lines_of_json_name_the_broken_one_also_if_it_is_the_first(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(CorpusError, match=r"x.jsonl:1: is not valid JSON"):
        read(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text('\n{"a": 2}\n')
    assert read(tmp_path / "x.jsonl") == [{"a": 2}]


@pytest.mark.parametrize("packed", [False, True])
def test_texts_of_labels_lie_at_one_depth(tmp_path: Path, packed: bool) -> None:
    names = ["README", "pos/1.txt", "neg/1.txt", ".hidden/deep/er/x.txt"]
    path = _folder(tmp_path / "flat", names, packed)
    assert read(path, format="folders") == [{"text": n, "label": n[:3]} for n in sorted(names[1:3])]
    path = _folder(tmp_path / "mixed", [*names, "far/off/1.txt"], packed)
    with pytest.raises(CorpusError, match=r"neg/1.txt: is not as deep as .*expected a path like far/off/1.txt"):
        read(path, format="folders")


def _folder(folder: Path, names: list[str], packed: bool) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    if not packed:
        return folder
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as file:
        for name in names:
            file.write(folder / name, name)
    return folder.with_suffix(".zip")


def test_names_are_files_patterns_or_the_split_of_the_hub_that_the_key_means(tmp_path: Path) -> None:
    for name in ("b1.csv", "b2.csv", "[x].csv"):
        (tmp_path / name).write_text("")
    files = DataFiles(folder=str(tmp_path), train="-")
    assert resolve_names(files, ["[x].csv", "b*.csv"], "train") == [
        tmp_path / n for n in ("[x].csv", "b1.csv", "b2.csv")
    ]
    assert resolve_names(files, str(tmp_path / "b?.csv"), "train") == [tmp_path / "b1.csv", tmp_path / "b2.csv"]
    fused_splits = [str(*resolve_names(files, "hf:a/b:c", side)) for side in ("train", "valid", "test")]
    assert fused_splits == ["hf:a/b:c@train", "hf:a/b:c@validation", "hf:a/b:c@test"]
    assert str(*resolve_names(files, "hf:a/b@dev", "valid")) == "hf:a/b@dev"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('encoding = "utf8x"', r"t.toml: data.encoding: unknown text encoding; .*found 'utf8x'"),
        ('encoding = "rot13"', r"t.toml: data.encoding: unknown text encoding"),
        ('delimiter = "||"', r"t.toml: data: delimiter must be one character, not '\|\|'"),
    ],
)
def test_ways_of_writing_that_do_not_exist(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "t.toml").write_text(f'kind = "text"\n[data]\ntrain = "x.csv"\n{line}\n[columns]\ntext = "t"\n')
    with pytest.raises(ConfigError, match=told):
        read_spec(tmp_path / "t.toml")


SMALL = {"limits": {"max_document_bytes": 1 << 16}}


def test_members_of_a_zip_file_are_read_within_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good/a.txt", "text")
        file.writestr("bad/b.txt", "x" * 70_000)
    assert len(read(path)) == 2
    with pytest.raises(
        CorpusError, match=r"x\.zip!bad/b\.txt: the member is too large .* data\.limits\.max_document_bytes"
    ):
        read(path, **SMALL)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] = 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"x\.zip!\w+/\w\.txt: is encrypted\. Unpack it"):
        read(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b'[{"a": "' + b"x" * 70_000 + b'"}]'),
        ("x.jsonl", b'{"a": "' + b"x" * 70_000 + b'"}'),
        ("x.csv", b"a\n" + b"x" * 70_000),
        ("x.tsv", b"a\n" + b"x" * 70_000),
        ("x/good/a.txt", b"x" * 70_000),
    ],
)
def test_a_row_is_held_within_the_limit(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path = tmp_path / Path(name).parts[0]
    assert len(read(path)) == 1
    with pytest.raises(CorpusError, match=r"is too large .*raise data\.limits\.max_document_bytes"):
        read(path, **SMALL)


def test_a_list_in_json_is_read_one_record_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"a": "x" * 1000}] * 100))
    assert len(read(path, **SMALL)) == 100
    path.write_text(path.read_text() + " more")
    with pytest.raises(CorpusError, match="it has data after its end"):
        read(path)
    path.write_text('{"b": [1, {"c": [{"a": 1}]}]}')
    assert read(path, field="b.1.c") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("[" * 100_000, "nested too deeply"), ("[" + "1" * 5000 + "]", "too many digits"), ("", "Expect")],
)
def test_json_that_python_cannot_hold(tmp_path: Path, text: str, problem: str) -> None:
    for name in ("x.json", "x.jsonl"):
        (tmp_path / name).write_text(text and text + "\n")
        if text or name == "x.json":
            with pytest.raises(CorpusError, match=problem):
                read(tmp_path / name)


def test_a_device_is_no_task_file() -> None:
    with pytest.raises(CorpusError, match=r"/dev/zero: is not a regular file \(found a device"):
        read(Path("/dev/zero"))


def test_links_that_leave_a_folder_of_labels(tmp_path: Path) -> None:
    for name in ("data/good/a.txt", "data/bad/b.txt", "outside/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "data/good/c.txt").symlink_to(tmp_path / "outside/c.txt")
    assert len(read(tmp_path / "data")) == 2
    assert len(read(tmp_path / "data", follow_symlinks=True)) == 3
    (tmp_path / "data/c.csv").symlink_to(tmp_path / "outside/c.txt")
    files = DataFiles.model_validate({"train": "x", "folder": str(tmp_path / "data")})
    with pytest.raises(CorpusError, match="no such file"):
        resolve_names(files, "*.csv", "train")
    assert resolve_names(files, "c.csv", "train") == [tmp_path / "data/c.csv"]
    followed = files.model_copy(update={"follow_symlinks": True})
    assert resolve_names(followed, "*.csv", "train") == [tmp_path / "data/c.csv"]
