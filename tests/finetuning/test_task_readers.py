"""Records: damage is told from an end, and what is left out is told or refused."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstlight.errors import ConfigError, CorpusError
from firstlight.files.tables import TRUNCATED
from firstlight.finetuning import read_spec
from firstlight.finetuning.readers import read_records, resolve_names
from firstlight.finetuning.spec import DataFiles


def read(path: Path, **how: object) -> list[object]:
    return [record for _, record in read_records(path, DataFiles.model_validate({"train": path.name, **how}))]


# One line break ends a line of a table without quotes, and "\r" one that csv sees.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\x00\ufeff"), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with pytest.raises(CorpusError, match=r"x.tsv: is not utf-16"):
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
