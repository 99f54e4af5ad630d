"""Where prompts come from: an argument, a file, standard input, a conversation in a terminal."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_world import Call


class Terminal(io.TextIOWrapper):
    """Standard input as a person's: lines are taken by ``input``."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> "Iterator[list[str | BaseException]]":
    """Lines that a person types in a terminal, then the end of input; an exception is raised in a line's place."""
    lines: list[str | BaseException] = []

    def answer(prompt: str = "") -> str:
        if not lines:
            raise EOFError
        line = lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    monkeypatch.setattr("builtins.input", answer)
    yield lines


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_an_argument(world: Path, call: Call):
    answer = call("generate", "run", "the cat", "--max-new-tokens", "5", "--temperature", "0")
    assert answer.code == 0
    assert answer.out.startswith("the cat")
    assert answer.out == call("generate", "run", "the cat", "--max-new-tokens", "5", "--temperature", "0").out


def test_an_empty_argument_begins_a_text(world: Path, call: Call):
    assert call("generate", "run", "", "--max-new-tokens", "2").code == 0


def test_lines_of_standard_input(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    pipe(monkeypatch, b"\xef\xbb\xbfthe cat\n\n\xe7\x8c\xab\n")
    answer = call("generate", "run", "--max-new-tokens", "2", "--temperature", "0")
    assert answer.code == 0, answer.err
    first, second = answer.out.split("---\n")
    assert first.startswith("the cat")
    assert second.startswith("猫")


@pytest.mark.parametrize("words", [["-"], ["--prompts", "-"]])
def test_a_dash_is_standard_input(words: list[str], world: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    pipe(monkeypatch, b"the cat\na\n")
    answer = call("generate", "run", *words, "--max-new-tokens", "2", "--temperature", "0")
    assert answer.code == 0, answer.err
    assert [part[:1] for part in answer.out.split("---\n")] == ["t", "a"]
    pipe(monkeypatch, b"")
    assert "no prompt" in call("generate", "run", *words).err


def test_a_file_of_prompts_and_several_samples(world: Path, call: Call):
    (world / "prompts.txt").write_text("the\n\na\n", encoding="utf-8")
    answer = call("generate", "run", "--prompts", "prompts.txt", "--num-samples", "2", "--max-new-tokens", "2")
    assert answer.code == 0
    assert [part[:1] for part in answer.out.split("---\n")] == ["t", "t", "a", "a"]


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "no prompt"), (b"\n \n", "no prompt"), (b"a\n\xff\n", "standard input: byte 2: is not UTF-8")],
)
def test_standard_input_without_a_prompt(
    data: bytes, says: str, world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    pipe(monkeypatch, data)
    answer = call("generate", "run")
    assert answer.code == 2
    assert says in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_conversation_keeps_what_was_said(
    typed: "list[str | BaseException]", world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    from firstlight.lm import LM

    contexts: list[str] = []

    def stream(model: LM, prompt: str, settings: object) -> Iterator[str]:
        contexts.append(prompt)
        yield " and"
        yield " so on"

    monkeypatch.setattr(LM, "stream", stream)
    typed += ["the cat", "a mat"]
    answer = call("generate", "run")
    assert answer.code == 0
    assert contexts == ["the cat", "the cat and so on\na mat"]
    assert answer.out == " and so on\n and so on\n"
    assert "Ctrl-D" in answer.err


def test_control_c_ends_a_reply_and_not_the_conversation(
    typed: "list[str | BaseException]", world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    from firstlight.lm import LM

    def stream(model: LM, prompt: str, settings: object) -> Iterator[str]:
        yield "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(LM, "stream", stream)
    typed += ["the cat", "a mat"]
    answer = call("generate", "run")
    assert (answer.code, answer.out) == (0, "one\none\n")


def test_control_c_between_replies_ends_it(typed: "list[str | BaseException]", world: Path, call: Call):
    typed += [KeyboardInterrupt()]
    answer = call("generate", "run")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == "interrupted"


def test_with_json_a_terminal_is_no_conversation(
    typed: "list[str | BaseException]", world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    answer = call("generate", "run", "--json")
    assert answer.code == 2
    assert "no prompt" in answer.err


def test_text_to_encode_from_standard_input(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    pipe(monkeypatch, "né".encode())
    assert call("tokenizer", "encode", "store", "-").out.split() == [str(i) for i in _ids("né", call)]


def _ids(text: str, call: Call) -> list[str]:
    return call("tokenizer", "encode", "store", text).out.split()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_other_line_separators_do_not_end_a_prompt(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch, encoding: str
):
    pipe(monkeypatch, "The river\x0cis\nA quiet\u2028town\r\nThe lamp\x85on\n".encode(encoding))
    answer = call("generate", "run", "--max-new-tokens", "1", "--json")
    assert answer.code == 0, answer.err
    found = [sample["prompt"] for sample in json.loads(answer.out)["samples"]]
    assert found == ["The river\x0cis", "A quiet\u2028town", "The lamp\x85on"]


EDITED = """
import firstlight.stages.generate as stage
from firstlight.cli.generate import _converse

class Echo:
    def __init__(self, model):
        pass

    def reply(self, line):
        yield repr(line)

stage.Conversation = Echo
_converse(None, {})
"""


@pytest.mark.slow
def test_a_typed_line_is_edited_by_characters() -> None:
    """The terminal alone erases a byte where it does not know UTF-8, and one column of a letter of two."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    pytest.importorskip("readline")
    main, other = pty.openpty()
    command = [sys.executable, "-c", EDITED]
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other) as process:
        os.close(other)
        shown = b""
        while not shown.endswith(b"> "):
            shown += os.read(main, 1)
        os.write(main, "今天天气\x7f\x7f好\n\x04".encode())
        with contextlib.suppress(OSError):  # the end, on Linux
            while part := os.read(main, 4096):
                shown += part
        os.close(main)
    assert process.returncode == 0
    assert "'今天好'" in shown.decode()
