"""The messages of a chat, as OpenAI's API writes them ({role, content}) or as ShareGPT does ({from, value})."""

from typing import Any

from firstlight.errors import CorpusError
from firstlight.files.field_text import field_text, is_missing
from firstlight.files.json_stream import parse_json
from firstlight.finetuning.columns import read_column
from firstlight.finetuning.kinds.column_text import EmptyTextError, check_unicode, read_text, to_text
from firstlight.finetuning.sequences import ROLES
from firstlight.finetuning.spec import Columns

# Other names of the roles: of OpenAI's newer models, of Gemini, and of ShareGPT and the data sets that follow it.
_ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
_TOOL_KEYS = ("tool_calls", "function_call")
# Of OpenAI, axolotl (train, training), LLaMA-Factory and others.
_LOSS_KEYS = ("weight", "train", "training", "train_on_turn", "loss")
_KEYS = (("role", "content"), ("from", "value"))
# Names of columns: of messages, and of a prompt (one or more columns) with its answer.
_MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
_MORE_COLUMNS = ("system", "history")
_OPTIONAL = ("input", "context", "query")  # columns of a prompt that a row may lack
_PROMPT_COLUMNS = (
    (("instruction", "input"), "output"),
    (("instruction",), "output"),
    (("instruction", "context"), "response"),  # Dolly
    (("instruction", "input"), "response"),
    (("instruction",), "response"),
    (("prompt",), "completion"),
    (("prompt", "query"), "response"),  # LLaMA-Factory's own names
    (("prompt",), "response"),
    (("query",), "response"),
    (("context", "question"), "answer"),
    (("question",), "answer"),
    (("input",), "target"),  # Firefly
    (("input",), "output"),
)
_FIX = 'Remove that row, or set data.on_empty = "drop".'


def read_messages(messages: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the text of each message, and its role: system, user or assistant.

    Raises:
        EmptyTextError: a message has no text, or calls a tool or answers such a call; or none is of the assistant.
        CorpusError: this is not a list of messages, or a role is unknown.
    """
    if not isinstance(messages, list) or not messages:
        raise _not_messages(messages, where)
    pairs = [_read_message(message, f"{where}: message {n}", messages) for n, message in enumerate(messages, start=1)]
    if not any(role == "assistant" for _, role in pairs):
        raise EmptyTextError("has no message of the assistant, so there is nothing to learn", where=where, fix=_FIX)
    texts, roles = zip(*pairs, strict=True)
    return texts, roles


def _read_message(message: Any, where: str, messages: Any) -> tuple[str, str]:
    keys = next((k for k in _KEYS if k[0] in message), None) if isinstance(message, dict) else None
    if keys is None or not isinstance(message[keys[0]], str):
        raise _not_messages(messages, where)
    name = message[keys[0]].strip().lower()
    if name in _TOOL_ROLES:
        raise EmptyTextError("is about a tool, and only text can be learned", where=where, found=name, fix=_FIX)
    if name not in _ROLE_NAMES:
        raise CorpusError("has an unknown role", where=where, found=name, expected=", ".join(ROLES))
    role = _ROLE_NAMES[name]
    called = next((key for key in _TOOL_KEYS if message.get(key)), None)
    if called is not None:
        raise EmptyTextError("calls a tool, and only text can be learned", where=where, found=called, fix=_FIX)
    if keys[1] not in message:
        raise _not_messages(messages, where)
    for key in _LOSS_KEYS if role == "assistant" else ():
        if not is_missing(message.get(key)) and message[key] in (0, False):
            problem = f"is left out of the loss by {key!r}, which is not supported"
            raise CorpusError(problem, where=where, fix=f"Remove {key!r} to learn it, or remove that row.")
    text = field_text(message[keys[1]], where)
    if text is None or (role == "assistant" and not text.strip()):
        raise EmptyTextError("has no text", where=where, fix=_FIX)
    return check_unicode(text, where), role


def unused_message_keys(messages: list[dict[str, Any]]) -> list[str]:
    """Return the keys of messages that ``read_messages`` does not read, where they are not empty."""
    known = {*sum(_KEYS, ()), *_LOSS_KEYS}
    return sorted({key for message in messages for key, value in message.items() if value and key not in known})


def _not_messages(messages: Any, where: str) -> CorpusError:
    return CorpusError(
        "is not a list of messages", where=where, found=repr(messages)[:80], expected="{role, content} objects"
    )


def detect_chat_columns(record: Any) -> Columns | None:
    """Return the columns with the messages of a chat, or with a prompt and its answer, by their usual names.

    Capital letters do not matter. A system prompt and earlier turns, as in LLaMA-Factory's tables, are found, too.
    """
    if not isinstance(record, dict):
        return None
    names = {str(name).strip().lower(): name for name in reversed(record)}
    more = {key: names[key] for key in _MORE_COLUMNS if key in names}
    messages = next((names[name] for name in _MESSAGE_COLUMNS if name in names), None)
    if messages is not None:
        return Columns(messages=messages, system=more.get("system"))
    for prompt, answer in _PROMPT_COLUMNS:
        if answer in names and all(name in names for name in prompt):
            return Columns(text=[names[name] for name in prompt], text2=names[answer], **more)
    return None


def read_turns(record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of a prompt and its answer, after a system prompt and earlier turns, and their roles.

    Raises:
        EmptyTextError: prompt or answer is empty, or an earlier turn is.
        CorpusError: a column is missing, or holds something else.
    """
    names = columns.text if isinstance(columns.text, list) else [columns.text]
    if isinstance(record, dict):  # in lines of JSON a row may lack what it has no text for
        present = [name for name in names if name in record or str(name).strip().lower() not in _OPTIONAL]
        names = present or names
    turns = [("user", read_text(record, names, where)), ("assistant", read_text(record, columns.text2, where))]
    before = _system(record, columns, where)
    for n, (asked, said) in enumerate(_history(record, columns, where), start=1):
        where_turn = f"{where}: column {columns.history}: turn {n}"
        texts = [to_text(text, columns.history, where_turn) for text in (asked, said)]
        if not all(texts):
            raise EmptyTextError("has no text", where=where_turn, fix=_FIX)
        before += list(zip(("user", "assistant"), texts, strict=True))
    roles, texts_of_all = zip(*before, *turns, strict=True)
    return texts_of_all, roles


def read_chat(record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of a list of messages and their roles; a system prompt in a column is for a chat that has none.

    Raises:
        EmptyTextError, CorpusError: as ``read_messages``.
    """
    texts, roles = read_messages(chat_messages(record, columns, where), where)
    if roles[0] != "system":
        for role, text in _system(record, columns, where):
            texts, roles = (text, *texts), (role, *roles)
    return texts, roles


def chat_messages(record: Any, columns: Columns, where: str) -> Any:
    """Return the messages of a record: a list, or the text of one, as a table of texts holds it."""
    return _parsed(read_column(record, columns.messages, where), where)


def unused_chat_keys(record: Any, columns: Columns) -> list[str]:
    """Return the columns about a chat that are not empty and not read."""
    if not isinstance(record, dict):
        return []
    used = {columns.system, columns.history}
    return [
        str(name)
        for name, value in record.items()
        if str(name).strip().lower() in (*_MORE_COLUMNS, "tools") and name not in used and not _is_empty(value)
    ]


def _system(record: Any, columns: Columns, where: str) -> list[tuple[str, str]]:
    value = _optional(record, columns.system, where)
    text = "" if value is None else to_text(value, columns.system, where)
    return [("system", text)] if text else []


def _history(record: Any, columns: Columns, where: str) -> list[list[Any]]:
    """Return earlier turns: pairs of a prompt and its answer."""
    value = _parsed(_optional(record, columns.history, where), where)
    if _is_empty(value):
        return []
    if not isinstance(value, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in value):
        raise CorpusError(
            "is not a list of earlier turns",
            where=f"{where}: column {columns.history}",
            found=repr(value)[:80],
            expected="[[prompt, answer], …]",
            fix="Fix that row, or leave columns.history out.",
        )
    return value


def _optional(record: Any, column: Any, where: str) -> Any:
    if column is None or (isinstance(record, dict) and column not in record):
        return None
    return read_column(record, column, where)


def _parsed(value: Any, where: str) -> Any:
    """Return a list that is written as text, as in a CSV file; another value as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        return parse_json(value.strip(), where)
    return value


def _is_empty(value: Any) -> bool:
    return is_missing(value) or value in ("", "[]", []) or (isinstance(value, str) and not value.strip())
