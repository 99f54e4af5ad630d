"""Messages of chats: of OpenAI's API and of ShareGPT, and those that hold no text."""

import json
from pathlib import Path
from typing import Any

import pytest

from firstlight.errors import CorpusError
from firstlight.finetuning import TaskData, load_task, read_spec
from firstlight.finetuning.kinds import EmptyTextError

ASK, SAY = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def read(folder: Path, *chats: list[dict[str, Any]], on_empty: str = "error") -> TaskData:
    (folder / "a.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    (folder / "t.toml").write_text(
        f'kind = "chat"\n[data]\ntrain = "a.jsonl"\nvalid = "a.jsonl"\non_empty = "{on_empty}"\n'
        '[columns]\nmessages = "messages"\n'
    )
    return load_task(read_spec(folder / "t.toml"), seed=0)


@pytest.mark.parametrize(
    ("chat", "texts", "roles"),
    [
        ([ASK, {**SAY, "tool_calls": None, "weight": 1, "name": "x"}], ("Hello", "Hi."), ("user", "assistant")),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}, SAY],
            ("Name a colour.", "Hi."),
            None,
        ),
        (
            [{"role": "developer", "content": "Be brief."}, ASK, SAY],
            ("Be brief.", "Hello", "Hi."),
            ("system", "user", "assistant"),
        ),
        (
            [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}],
            ("Hello", "Hi."),
            ("user", "assistant"),
        ),
        ([{"role": "system", "content": ""}, ASK, SAY], ("", "Hello", "Hi."), None),
    ],
)
def test_messages(
    tmp_path: Path, chat: list[dict[str, Any]], texts: tuple[str, ...], roles: tuple[str, ...] | None
) -> None:
    row = read(tmp_path, chat).train[0]
    assert row.texts == texts
    assert roles is None or row.roles == roles


@pytest.mark.parametrize(
    ("chat", "told"),
    [
        (
            [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, ASK, SAY],
            r"message 2: calls a tool, .*found tool_calls",
        ),
        ([ASK, {"role": "assistant", "content": "", "function_call": {"name": "f"}}], "message 2: calls a tool"),
        ([ASK, {"role": "assistant", "content": None}, ASK, SAY], "message 2: has no text"),
        ([ASK, {"role": "assistant", "content": " "}, ASK, SAY], "message 2: has no text"),
        ([{"role": "user", "content": None}, SAY], "message 1: has no text"),
        ([{"role": "user", "content": float("nan")}, SAY], "message 1: has no text"),
        ([ASK, {"role": "tool", "content": "4"}, SAY], r"message 2: is about a tool, .*found tool"),
        ([{"from": "observation", "value": "x"}, SAY], "message 1: is about a tool"),
    ],
)
def test_a_chat_with_a_message_without_text_is_refused_or_dropped(
    tmp_path: Path, chat: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(EmptyTextError, match=f'a.jsonl:2: {told}.* data.on_empty = "drop"'):
        read(tmp_path, [ASK, SAY], chat)
    data = read(tmp_path, [ASK, SAY], chat, on_empty="drop")
    assert len(data.train) == 1 and any("1 rows without text are left out" in note for note in data.notes)


@pytest.mark.parametrize(
    ("chat", "told"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAY],
            r"message 1: has a part that is not text .*image_url",
        ),
        ([ASK, {**SAY, "weight": 0}], "message 2: is left out of the loss by 'weight'"),
        ([{"role": None, "content": "x"}, SAY], "is not a list of messages"),
        ([{"role": "robot", "content": "x"}, SAY], "message 1: has an unknown role"),
        ([{"role": "user"}, SAY], "is not a list of messages"),
        ([{"role": "user", "content": {"a": "b"}}, SAY], "message 1: is not text"),
        ([], "is not a list of messages"),
        ("Hello", "is not a list of messages"),
        (None, "is not a list of messages"),
    ],
)
def test_what_is_refused(tmp_path: Path, chat: Any, told: str) -> None:
    with pytest.raises(CorpusError, match=told):
        read(tmp_path, chat, chat, on_empty="drop")


def test_cases(shared_cases: Path) -> None:
    with pytest.raises(EmptyTextError, match=r"null.jsonl:1: message 2: calls a tool"):
        load_task(read_spec(shared_cases / "chat/null.toml"), seed=0)
    data = load_task(read_spec(shared_cases / "chat/parts.toml"), seed=0)
    assert ("Name a colour.", "Blue.") in {row.texts for row in [*data.train, *data.valid]}
