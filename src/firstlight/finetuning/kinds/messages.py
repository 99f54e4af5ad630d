"""The messages of a chat, as OpenAI's API writes them ({role, content}) or as ShareGPT does ({from, value})."""

from typing import Any

from firstlight.errors import CorpusError
from firstlight.files.field_text import field_text, is_missing
from firstlight.finetuning.kinds.column_text import EmptyTextError, check_unicode
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
_MESSAGE_COLUMNS = ("messages", "conversations")
_PROMPT_COLUMNS = (
    (("instruction", "input"), "output"),
    (("instruction",), "output"),
    (("instruction", "context"), "response"),  # Dolly
    (("instruction", "input"), "response"),
    (("instruction",), "response"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("query",), "response"),
    (("context", "question"), "answer"),
    (("question",), "answer"),
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
    """Return the columns with the messages of a chat, or with a prompt and its answer, by their usual names."""
    if not isinstance(record, dict):
        return None
    messages = next((name for name in _MESSAGE_COLUMNS if name in record), None)
    if messages is not None:
        return Columns(messages=messages)
    for prompt, answer in _PROMPT_COLUMNS:
        if answer in record and all(name in record for name in prompt):
            return Columns(text=list(prompt), text2=answer)
    return None
