"""Columns by the names that published sets and other programs give them."""

import json
from pathlib import Path

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
    ],
)
def test_prompts_and_answers_of_published_sets(tmp_path: Path, row: dict[str, str], prompt: str, answer: str) -> None:
    found = task(tmp_path, "chat", "a.jsonl", "\n".join([json.dumps(row)] * 4))
    assert found.train[0].texts == (prompt, answer)
    assert found.train[0].roles == ("user", "assistant")


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
