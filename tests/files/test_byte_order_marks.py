"""JSON, merges and other small files as editors save them: with a byte order mark, and with other line separators."""

import json
from pathlib import Path

import pytest

from firstlight.errors import CheckpointError
from firstlight.files import read_json
from firstlight.stages.generate import read_prompts, split_prompts
from firstlight.tokenizer import END_OF_TEXT, Tokenizer, load
from firstlight.tokenizer.importers import import_tokenizer

MARK = b"\xef\xbb\xbf"


def add_mark(path: Path) -> None:
    path.write_bytes(MARK + path.read_bytes())


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(MARK + b'{"a": 1}')
    assert read_json(tmp_path / "a.json", CheckpointError) == {"a": 1}


def test_a_tokenizer_whose_files_an_editor_saved(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    for name in ("bpe-gpt4", "char"):
        original = trained.get(name) or next(iter(trained.values()))
        original.save(tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text("{{ messages }}")
        for file in (tmp_path / name).iterdir():
            add_mark(file)
        found = load(tmp_path / name)
        assert found.encode("the cat") == original.encode("the cat")
        assert found.chat_template == "{{ messages }}"


def test_the_files_of_gpt_2(tmp_path: Path) -> None:
    letters = [*"abcdefgh", "ab", "abc", "\u0085", "Ġ", END_OF_TEXT]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(letters)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\r\na b\r\nab c\r\n")
    expected = import_tokenizer(tmp_path).encode("abc ab")
    for file in tmp_path.iterdir():
        add_mark(file)
    assert import_tokenizer(tmp_path).encode("abc ab") == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_are_lines_and_only_a_line_feed_ends_one(tmp_path: Path, encoding: str) -> None:
    lines = ["The river\x0cis", "A quiet\u2028town", "The lamp\x85on", "a\rb\x0bc\x1cd\x1ee\u2029f"]
    for end in ("\n", "\r\n"):
        text = end.join([*lines, "", " ", ""])
        (tmp_path / "p.txt").write_bytes(text.encode(encoding))
        assert read_prompts(tmp_path / "p.txt") == lines
        assert split_prompts(text) == lines
