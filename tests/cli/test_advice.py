"""What messages advise can be pasted into a shell: names quoted, commands and options that exist."""

import ast
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer

import firstlight
from firstlight.cli.app import build
from firstlight.config.loading import read_toml
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import FirstlightError
from firstlight.finetuning.readers import resolve_names
from firstlight.finetuning.spec import DataFiles
from firstlight.lm.load import locate
from firstlight.runs.compatibility import check_changes
from firstlight.shell import quote_argument
from firstlight.tokenizer.load import read_tokenizer_json

NAMES = ["plain", "two words", "it's", 'a "b"', "a;b", "$HOME", "`id`", "新闻", "-rf", "a&b|c", "#1", "*"]
_COMMAND = re.compile(r"(?:^|[:.] )((?:firstlight|\S*python\S* -m firstlight|iconv|gzip|mv|pdftotext) [^\n]*)$")
SOURCE = Path(firstlight.__file__).parent


def commands() -> dict[str, click.Command]:
    """Every command by its words, such as "data prepare"."""

    def walk(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
        yield words, command
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{words} {name}".strip())

    return dict(walk(typer.main.get_command(build()), ""))


COMMANDS = commands()


def check_command(words: list[str]) -> None:
    """Check that ``firstlight`` has the command and its options."""
    words = words[words.index("firstlight") :]
    name = next((n for n in (2, 1) if " ".join(words[1 : 1 + n]) in COMMANDS and len(words) > n), 0)
    assert name, words
    options = {option for p in COMMANDS[" ".join(words[1 : 1 + name])].params for option in p.opts}
    assert {w.partition("=")[0] for w in words[1 + name :] if w.startswith("--")} <= options | {
        "--debug",
        "--log-file",
        "--quiet",
        "--trust",
        "--verbose",
        "--help",
        "--",
    }


def gb18030(path: Path) -> object:
    path.write_bytes("图书馆提前放假，报纸用半页写了这件事。".encode("gb18030"))
    return [*open_corpus([str(path)])]


def packed(path: Path) -> object:
    path.write_bytes(b"\x1f\x8b\x08" + bytes(100))
    return [*open_corpus([str(path)], CorpusSettings(on_bad_bytes="replace"))]


def portable(path: Path) -> object:
    path.write_bytes(b"%PDF-1.7\n" + b"\xff" * 100)
    return [*open_corpus([str(path)])]


def no_checkpoint(path: Path) -> object:
    (path / "checkpoints").mkdir(parents=True)
    return locate(path)


def sentencepiece(path: Path) -> object:
    path.mkdir()
    (path / "tokenizer.model").write_bytes(b"")
    return read_tokenizer_json(path)


def changed(path: Path) -> object:
    return check_changes({"model.n_layer": (1, 2)}, path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("provoke", [gb18030, packed, portable, no_checkpoint, sentencepiece, changed])
def test_the_advised_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, provoke: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FirstlightError) as caught:
        provoke(Path(name))
    assert caught.value.fix is not None
    found = _COMMAND.search(caught.value.message)
    assert found is not None, caught.value.message
    assert subprocess.run(["bash", "-n", "-c", found[1]], check=False).returncode == 0
    words = shlex.split(found[1])
    assert any(word.startswith(str(tmp_path / name)) for word in words)  # absolute: it holds in any folder
    if "firstlight" in words:
        check_command(words)


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """The calls of functions with these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def test_commands_in_the_source_exist() -> None:
    """Those whose command is not a variable; a starred or computed argument stands for any value."""
    n = 0
    for file in SOURCE.rglob("*.py"):
        for call in calls(ast.parse(file.read_text(encoding="utf-8")), "command_line", "command_in_folder"):
            words = [node.value if isinstance(node, ast.Constant) else "value" for node in call.args]
            if words[0] != "value":
                check_command(["firstlight", *words])
                n += 1
    assert n > 20


# What only the functions of firstlight.shell write, which quote every word; and a placeholder such as CORPUS.
_BY_HAND = re.compile(r"\b(firstlight|python3?) -|\bpip install\b")


def test_messages_have_no_command_written_by_hand() -> None:
    """A command that is not made by ``firstlight.shell`` need not be quoted, and may have placeholders."""
    names = "|".join(words.partition(" ")[0] for words in COMMANDS if words)
    by_hand = re.compile(rf"{_BY_HAND.pattern}|\bfirstlight ({names})\b")
    found = []
    for file in SOURCE.rglob("*.py"):
        if file == SOURCE / "shell.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        allowed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        helps = [
            k.value for call in ast.walk(tree) if isinstance(call, ast.Call) for k in call.keywords if k.arg == "help"
        ]
        allowed |= {id(node) for value in helps for node in ast.walk(value)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in allowed:
                found += [f"{file.name}:{node.lineno}: {m[0]}" for m in by_hand.finditer(node.value)]
    assert not found


def test_placeholders_are_not_in_commands() -> None:
    for file in SOURCE.rglob("*.py"):
        for call in calls(ast.parse(file.read_text(encoding="utf-8")), "command_line", "command_in_folder"):
            words = [node.value for node in call.args if isinstance(node, ast.Constant)]
            assert not [word for word in words if str(word).isupper() or "…" in str(word)], file


def test_quoting() -> None:
    for name in [*NAMES, "a\x1bb'c\\d\n", "\u202etxt", "\udcff"]:
        shown = subprocess.run(["bash", "-c", f"printf %s {quote_argument(name)}"], capture_output=True, check=True)
        assert os.fsdecode(shown.stdout) == name
        assert quote_argument(name).isprintable()


@pytest.mark.parametrize("written", [r"data\train.csv", r"data\new.csv", r"a\bad.csv", r"a\first.csv"])
def test_a_backslash_that_toml_read_as_an_escape_is_explained(tmp_path: Path, written: str) -> None:
    (tmp_path / "t.toml").write_text(f'[data]\ntrain = "{written}"\n')
    name = read_toml(tmp_path / "t.toml")["data"]["train"]
    with pytest.raises(FirstlightError, match="in single quotes, as '") as caught:
        resolve_names(DataFiles(train=name, folder=str(tmp_path)), name, "train")
    assert caught.value.fix is not None
    assert written in caught.value.fix
    with pytest.raises(FirstlightError, match="in single quotes, as '"):
        open_corpus([name])
    with pytest.raises(FirstlightError, match="in single quotes, as '"):
        locate(name)


@pytest.mark.parametrize("written", [r"C:\Users\me", r"data\xa.csv", r"C:\data\x.csv", r"a\u12"])
def test_a_backslash_that_is_no_escape_is_explained(tmp_path: Path, written: str) -> None:
    (tmp_path / "t.toml").write_text(f'[data]\n\ntrain = "{written}"\n')
    with pytest.raises(FirstlightError, match=r"line 3.*in single quotes, as 'C:"):
        read_toml(tmp_path / "t.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_settings_as_editors_and_shells_write_them(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.toml").write_bytes('[data]\r\ntrain = "新闻.csv"\r\n'.encode(encoding))
    assert read_toml(tmp_path / "t.toml") == {"data": {"train": "新闻.csv"}}
