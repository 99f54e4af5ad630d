"""Rows: every format, labels found and checked, splits, and one clear message for each bad row."""

import csv
import gzip
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstlight.errors import CorpusError
from firstlight.finetuning import Example, TaskData, head_of, load_task, read_spec, read_unlabelled
from firstlight.finetuning.dataset import split

ROWS = [("a good day", "1"), ("a bad day", "0"), ("fine, very fine", "1"), ("grim", "0"), ("so so", "1"), ("no", "0")]


def task(folder: Path, data: str, columns: str = 'text = "text"\nlabel = "label"', head: str = "") -> Path:
    path = folder / "t.toml"
    kind = "" if "kind" in head else 'kind = "classification"\n'
    path.write_text(f"{kind}{head}\n[data]\n{data}\n[columns]\n{columns}\n", encoding="utf-8")
    return path


def read(path: Path, seed: int = 0) -> TaskData:
    return load_task(read_spec(path), seed=seed)


def as_csv(rows, delimiter=",", header=("text", "label"), quoting=csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows([*([header] if header else []), *rows])
    return out.getvalue()


def write_all(folder: Path) -> dict[str, str]:
    """Write the same rows in every format; return the data table of each."""
    (folder / "a.csv").write_text(as_csv(ROWS), encoding="utf-8")
    (folder / "b.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in ROWS), encoding="utf-8")
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": t, "label": int(n)}) + "\n" for t, n in ROWS))
    nested = {"data": {"items": [{"text": t, "label": n} for t, n in ROWS]}}
    (folder / "d.json").write_text(json.dumps(nested, indent=1))
    (folder / "e.txt").write_text("text;label\n" + "".join(f"{t};{n}\n" for t, n in ROWS), encoding="utf-8")
    (folder / "f.csv.gz").write_bytes(gzip.compress(as_csv(ROWS).encode()))
    (folder / "g.all").write_text("".join(f"{n} {t}\n" for t, n in ROWS), encoding="utf-8")
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(ROWS).replace("\r\n", "\n").encode())
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": [int(n) for _, n in ROWS]}), folder / "h.parquet")
    with zipfile.ZipFile(folder / "i.zip", "w") as packed:
        packed.writestr("set/README", "about")
        packed.writestr("__MACOSX/set/1/x.txt", "junk")
        for i, (t, n) in enumerate(ROWS):
            packed.writestr(f"set/{n}/{i}.txt", t)
    return {
        "csv": 'train = "a.csv"',
        "tsv": 'train = "b.tsv"',
        "jsonl": 'train = "c.jsonl"',
        "json": 'train = "d.json"\nfield = "data.items"',
        "semicolons": 'train = "e.txt"\ndelimiter = ";"',
        "gz": 'train = "f.csv.gz"',
        "bom": 'train = "bom.csv"',
        "parquet": 'train = "h.parquet"',
        "first field": 'train = "g.all"\nheader = false\ndelimiter = " "\nmax_fields = 2',
        "folders": 'train = "i.zip"',
    }


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    expected = sorted((t, int(n)) for t, n in ROWS)
    for name, data in write_all(tmp_path).items():
        columns = "label = 0\ntext = 1" if name == "first field" else 'text = "text"\nlabel = "label"'
        made = read(task(tmp_path, data, columns))
        found = sorted((e.texts[0], e.label) for e in [*made.train, *made.valid])
        assert found == expected, name
        assert made.spec.labels == ["0", "1"], name


_LINE_ENDS = "\r\n\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters=_LINE_ENDS), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, st.sampled_from("ab")), min_size=6, max_size=20))
def test_any_text_survives_a_table(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [*rows, ("one", "a"), ("two", "b")]
    (tmp_path / "x.csv").write_text(as_csv(rows, quoting=csv.QUOTE_ALL), encoding="utf-8", newline="")
    path = task(tmp_path, 'train = "x.csv"\nvalid = "x.csv"')
    assert [(e.texts[0], "ab"[e.label]) for e in read(path).train] == [(t.strip(), n) for t, n in rows]


def good(tmp_path: Path, more: str = "") -> Path:
    (tmp_path / "a.csv").write_text(as_csv(ROWS), encoding="utf-8")
    return task(tmp_path, f'train = "a.csv"\n{more}')


BAD = [
    (
        "text,label\nx,1\ny,0\nz,2\n",
        'label_values = ["0", "1"]',
        r"v.csv:4: has a label that the task does not list .*found 2",
    ),
    ("text,label\nx,1\n ,0\n", "", r"v.csv:3: column text: is empty"),
    ("txt,label\nx,1\n", "", r"v.csv:2: has no such column .*columns txt, label.*Did you mean 'txt'"),
    ("text,label\nx,1\ny\nz,0\n", "", r"v.csv:3: has fewer fields than the first row .*found 1; expected 2"),
    ("text,label\nx,\n", "", r"v.csv:2: has no label"),
    ("text,label\n", "", r"v.csv: has no rows"),
    ('text,label\n"x" y,1\nz,0\n', "", r"v.csv:2: malformed row"),
]


@pytest.mark.parametrize(("text", "head", "told"), BAD)
def test_bad_rows_of_a_valid_file(tmp_path: Path, text: str, head: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(as_csv(ROWS), encoding="utf-8")
    (tmp_path / "v.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=told):
        read(task(tmp_path, 'train = "a.csv"\nvalid = "v.csv"', head=head))


def test_a_file_of_one_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,1\ny,1\n")
    with pytest.raises(CorpusError, match="has the same label as every other row"):
        read(task(tmp_path, 'train = "a.csv"'))


def test_bytes_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncaf\xe9,1\nno,0\nwhy,1\nso,0\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r'a.csv:2: is not UTF-8 \(found e9.*café.*Set data.encoding = "cp1252"'):
        read(task(tmp_path, 'train = "a.csv"'))
    made = read(task(tmp_path, 'train = "a.csv"\nencoding = "cp1252"'))
    assert "café" in {e.texts[0] for e in [*made.train, *made.valid]}


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(as_csv(ROWS))
    with pytest.raises(CorpusError, match=r"trian.csv: no such file. Did you mean .*train.csv"):
        read(task(tmp_path, 'train = "trian.csv"'))


def test_a_last_row_that_is_cut_off_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(as_csv(ROWS) + '"1","the end is miss', encoding="utf-8")
    made = read(task(tmp_path, 'train = "a.csv"'))
    assert len(made.train) + len(made.valid) == len(ROWS)
    assert any("cut off" in note for note in made.notes)


def test_rows_that_stand_in_two_splits_are_told(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("text,label\ngrim,0\nnew,1\n")
    made = read(good(tmp_path, 'valid = "v.csv"'))
    assert any("1 of 2 validation rows is also a training row" in note and "v.csv:2" in note for note in made.notes)


def test_rows_without_text_may_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(as_csv([*ROWS, ("", "1")]))
    made = read(task(tmp_path, 'train = "a.csv"\non_empty = "drop"'))
    assert len(made.train) + len(made.valid) == len(ROWS)
    assert any("1 rows without text" in note for note in made.notes)


CHOICES = 'question = "q"\nchoices = "c"\nlabel = "a"'


@pytest.mark.parametrize(
    ("answer", "answer_format"),
    [
        (1, "zero_based"),
        ("1", "zero_based"),
        ("2", "auto"),
        ("B", "auto"),
        ("b", "auto"),
        ("(B)", "auto"),
        ("two", "auto"),
    ],
)
def test_the_right_answer_as_number_letter_or_text(tmp_path: Path, answer: object, answer_format: str) -> None:
    rows = [{"q": f"which {i}", "c": ["one", "two"], "a": answer} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    head = f'kind = "multiple_choice"\nanswer_format = "{answer_format}"'
    made = read(task(tmp_path, 'train = "a.jsonl"', CHOICES, head))
    assert {e.label for e in made.train} == {1}
    assert made.train[0].texts[1:] == ("one", "two")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"q": "x", "c": ["one"], "a": 0}, "fewer than two answers"),
        ({"q": "x", "c": ["one", "two"], "a": 5}, "a label that is none of its answers"),
        ({"q": "x", "c": ["one", ""], "a": 0}, "an empty answer"),
    ],
)
def test_bad_choices(tmp_path: Path, record: dict, told: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(CorpusError, match=told):
        read(task(tmp_path, 'train = "a.jsonl"', CHOICES, 'kind = "multiple_choice"'))


def test_rows_within_a_record(tmp_path: Path) -> None:
    record = [
        ["A: hi", "B: hello"],
        [{"q": "who?", "c": ["A", "B"], "a": "B"}, {"q": "what?", "c": ["x", "y"], "a": "x"}],
    ]
    (tmp_path / "a.json").write_text(json.dumps([record, record]))
    columns = 'question = ["0", "item.q"]\nchoices = "item.c"\nlabel = "item.a"'
    made = read(
        task(tmp_path, 'train = "a.json"\nvalid = "a.json"\nexplode = "1"', columns, 'kind = "multiple_choice"')
    )
    assert [e.label for e in made.train] == [1, 0, 1, 0]
    assert made.train[0].texts == ("A: hi\nB: hello\nwho?", "A", "B")


def test_scores(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,s\n" + "".join(f"text {i},{i / 2}\n" for i in range(9)))
    columns = 'text = "t"\nlabel = "s"'
    made = read(task(tmp_path, 'train = "a.csv"\nvalid = "a.csv"', columns, 'kind = "regression"'))
    assert made.spec.scale == (0.0, 4.0)
    assert [row.label for row in made.train] == [i / 8 for i in range(9)], "learned from 0 to 1 of the scale"
    assert head_of(made.spec).format_label(made.spec, 0.25) == 1.0
    (tmp_path / "a.csv").write_text("t,s\nx,1\ny,NaN\n")
    with pytest.raises(CorpusError, match=r"a.csv:3: is not a score .*'NaN'"):
        read(task(tmp_path, 'train = "a.csv"', columns, 'kind = "regression"'))


@pytest.mark.parametrize("score", ["1e308", "-3.5e38", "1" + "0" * 400])
def test_scores_that_fp32_cannot_hold_are_refused(tmp_path: Path, score: str) -> None:
    (tmp_path / "a.csv").write_text(f"text,score\nx,1\ny,{score}\nz,3\n")
    columns = 'text = "text"\nlabel = "score"'
    with pytest.raises(CorpusError, match=r"a.csv:3: (has a score that is too large .*Rescale|is not a score)"):
        read(task(tmp_path, 'train = "a.csv"', columns, 'kind = "regression"'))


def test_chats(tmp_path: Path) -> None:
    def line(*turns: tuple[str, str]) -> str:
        return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n"

    (tmp_path / "a.jsonl").write_text(4 * line(("user", "hi"), ("assistant", "hello")))
    made = read(task(tmp_path, 'train = "a.jsonl"', 'messages = "messages"', 'kind = "chat"'))
    assert made.train[0].roles == ("user", "assistant") and made.train[0].label is None
    for turns, told in (((("robot", "hi"),), "unknown role"), ((("user", "hi"),), "no message of the assistant")):
        (tmp_path / "a.jsonl").write_text(2 * line(*turns))
        with pytest.raises(CorpusError, match=told):
            read(task(tmp_path, 'train = "a.jsonl"', 'messages = "messages"', 'kind = "chat"'))


def test_words_and_their_labels(tmp_path: Path) -> None:
    rows = [{"w": ["a", "red", "cat"], "l": ["D", "A", "N"]}, {"w": ["a", "dog"], "l": ["D", "N"]}] * 3
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    both = 'train = "a.jsonl"\nvalid = "a.jsonl"'
    made = read(task(tmp_path, both, 'tokens = "w"\nlabel = "l"', 'kind = "token_classification"'))
    assert made.spec.labels == ["A", "D", "N"]
    assert made.train[0].texts == ("a", " red", " cat") and made.train[0].label == (1, 0, 2)
    rows[1]["l"] = ["D"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(CorpusError, match=r"a.jsonl:2: does not have one label per word .*found 1; expected 2"):
        read(task(tmp_path, 'train = "a.jsonl"', 'tokens = "w"\nlabel = "l"', 'kind = "token_classification"'))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=200), st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_split_keeps_every_labels_share(labels: list[int], ratio: float, seed: int) -> None:
    rows = [Example((str(i),), label, f"x:{i}") for i, label in enumerate(labels)]
    train, valid = split(rows, ratio, seed)
    assert sorted(e.where for e in [*train, *valid]) == sorted(e.where for e in rows)
    assert split(rows, ratio, seed) == (train, valid)
    whole, taken = Counter(labels), Counter(e.label for e in valid)
    for label, n in whole.items():
        assert abs(taken[label] - ratio * n) <= 1
        assert 0 < taken[label] < n or n == taken[label] + 1 == 1, "one of each side where there are two"


def test_the_fingerprint_follows_rows_and_spec_and_not_the_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    prints = [read(good(folder)).fingerprint for folder in (one, two)]
    assert prints[0] == prints[1]
    (two / "a.csv").write_text(as_csv([*ROWS, ("more", "1")]))
    assert read(two / "t.toml").fingerprint != prints[0]
    assert load_task(read_spec(one / "t.toml"), seed=1).fingerprint != prints[0]


def test_fewer_rows_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(as_csv([(f"text {i}", str(i % 2)) for i in range(60)]))
    (tmp_path / "v.csv").write_text(as_csv(ROWS))
    data = 'train = "a.csv"\nvalid = "v.csv"'
    drawn = [read(task(tmp_path, data, head="max_train_rows = 20\n"), seed).train for seed in (0, 0, 1)]
    assert len(drawn[0]) == 20 and drawn[0] == drawn[1] != drawn[2]


def test_inputs_need_no_label_and_come_one_by_one(tmp_path: Path) -> None:
    made = read(good(tmp_path))
    (tmp_path / "new.csv").write_text("text\nhello\nagain\n")
    rows = read_unlabelled(made.spec, tmp_path / "new.csv")
    assert next(rows).texts == ("hello",)
    assert [e.label for e in rows] == [None]
