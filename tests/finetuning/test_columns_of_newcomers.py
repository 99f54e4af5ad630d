"""Columns by the names that published sets and other programs give them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from firstlight.errors import CorpusError
from firstlight.finetuning import load_task
from firstlight.finetuning.dataset import TaskData
from firstlight.finetuning.task_file import read_spec


def task(folder: Path, kind: str, name: str, content: str, columns: str = "") -> TaskData:
    (folder / name).write_text(content, encoding="utf-8")
    (folder / "t.toml").write_text(f'kind = "{kind}"\n[data]\ntrain = "{name}"\n{columns}', encoding="utf-8")
    return load_task(read_spec(folder / "t.toml"), seed=1)


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"instruction": "do", "context": "so", "response": "done", "category": "qa"}, "do\nso", "done"),  # Dolly
        ({"instruction": "do", "context": "", "response": "done", "category": "qa"}, "do", "done"),
        ({"instruction": "do", "input": "so", "output": "done"}, "do\nso", "done"),  # Alpaca
        ({"instruction": "do", "input": None, "output": "done"}, "do", "done"),
        ({"question": "why", "answer": "so"}, "why", "so"),  # GSM8K
        ({"query": "why", "response": "so"}, "why", "so"),  # MetaMath
        ({"prompt": "why", "completion": "so"}, "why", "so"),  # TRL
        ({"Instruction": "do", "Input": "so", "Output": "done"}, "do\nso", "done"),
        ({"INSTRUCTION": "do", "RESPONSE": "done"}, "do", "done"),
        ({"kind": "x", "input": "why", "target": "so"}, "why", "so"),  # Firefly
        ({"prompt": "do", "query": "so", "response": "done"}, "do\nso", "done"),
    ],
)
def test_prompts_and_answers_of_published_sets(tmp_path: Path, row: dict[str, str], prompt: str, answer: str) -> None:
    found = task(tmp_path, "chat", "a.jsonl", "\n".join([json.dumps(row)] * 4))
    assert found.train[0].texts == (prompt, answer)
    assert found.train[0].roles == ("user", "assistant")


TURNS = ("user", "assistant")
FACTORY = {"instruction": "and", "input": "", "output": "so", "system": "Be brief.", "history": [["hi", "hello"]]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
    "system": "Be brief.",
}
LONG = ("Be brief.", "hi", "hello", "and", "so")


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        (FACTORY, LONG),
        ({**FACTORY, "system": "", "history": []}, ("and", "so")),
        ({**FACTORY, "system": None, "history": None}, ("and", "so")),
        (SHAREGPT, ("Be brief.", "hi", "hello")),
        ({**SHAREGPT, "system": ""}, ("hi", "hello")),
        ({"conversation": SHAREGPT["conversations"]}, ("hi", "hello")),  # LMSYS
        (
            {
                "messages": [
                    {"role": "system", "content": "Own."},
                    *map(
                        json.loads, ['{"role": "user", "content": "hi"}', '{"role": "assistant", "content": "hello"}']
                    ),
                ],
                "system": "Other.",
            },
            ("Own.", "hi", "hello"),
        ),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_system_prompts_and_earlier_turns(
    tmp_path: Path, row: dict[str, Any], texts: tuple[str, ...], form: str
) -> None:
    """As LLaMA-Factory's tables have them, in every format; a CSV file has lists as JSON."""
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        path.write_text("\n".join([json.dumps(row)] * 4))
    elif form == "json":
        path.write_text(json.dumps([row] * 4))
    elif form == "csv":
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(row)
            for _ in range(4):
                table.writerow(json.dumps(v) if isinstance(v, list) else v for v in row.values())
    else:
        table, parquet = pytest.importorskip("pyarrow").Table, pytest.importorskip("pyarrow.parquet")
        parquet.write_table(table.from_pylist([row] * 4), path)
    (tmp_path / "t.toml").write_text(f'kind = "chat"\n[data]\ntrain = "a.{form}"\n')
    found = load_task(read_spec(tmp_path / "t.toml"), seed=1).train[0]
    assert found.texts == texts
    assert found.roles == (("system",) if len(texts) % 2 else ()) + TURNS * (len(texts) // 2)


def test_lines_of_json_may_lack_columns(tmp_path: Path) -> None:
    """The first line has no input, no system prompt and no earlier turns; those after it have."""
    rows = [{"instruction": "and", "output": "so"}, FACTORY, {**FACTORY, "input": "why", "tools": "[{}]"}]
    found = task(tmp_path, "chat", "a.jsonl", "\n".join(json.dumps(row) for row in rows * 3))
    texts = {row.texts for row in [*found.train, *found.valid]}
    assert texts == {("and", "so"), LONG, (*LONG[:3], "and\nwhy", "so")}
    assert any("tools" in note for note in found.notes)


@pytest.mark.parametrize("history", [["hi", "hello"], [["hi"]], [["hi", ""]], "hi", {"a": 1}, '[["hi", "hello"'])
def test_earlier_turns_that_are_no_pairs_are_refused(tmp_path: Path, history: Any) -> None:
    with pytest.raises(CorpusError, match=r"a\.jsonl:1"):
        task(tmp_path, "chat", "a.jsonl", "\n".join([json.dumps({**FACTORY, "history": history})] * 4))


def test_a_column_that_is_left_out_by_hand_is_said(tmp_path: Path) -> None:
    columns = '[columns]\ntext = "instruction"\ntext2 = "output"\n'
    found = task(tmp_path, "chat", "a.jsonl", "\n".join([json.dumps(FACTORY)] * 4), columns)
    assert found.train[0].texts == ("and", "so")
    assert any("history" in note and "system" in note for note in found.notes)


ROWS = [(f"line {i}", "ab"[i % 2]) for i in range(20)]
NUMBERS = "[columns]\ntext = 0\nlabel = 1\n"


@pytest.mark.parametrize("header", [("0", "1"), ("", "0", "1")])
def test_a_header_of_numbers_as_pandas_writes_it(tmp_path: Path, header: tuple[str, ...]) -> None:
    """``DataFrame.to_csv`` writes 0, 1 … for columns without names, after the index, which has none."""
    index = ("7",) * (len(header) - 2)
    content = "\n".join("\t".join(row) for row in [header, *((*index, *row) for row in ROWS)])
    found = task(tmp_path, "classification", "a.tsv", content + "\n", NUMBERS)
    assert found.train[0].texts == ("line 0",)
    assert found.spec.labels == ["a", "b"]
    assert len(found.train) + len(found.valid) == 20


def test_a_first_row_is_not_taken_for_such_a_header(tmp_path: Path) -> None:
    content = "\n".join(f"{text}\t{i % 2}" for i, (text, _) in enumerate(ROWS))
    with pytest.raises(CorpusError, match=r"data\.header = false"):
        task(tmp_path, "classification", "a.tsv", content + "\n", NUMBERS)
