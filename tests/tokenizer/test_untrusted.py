"""A tokenizer.json made to harm is refused in one line; what is known costs no process."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import models

from firstlight.errors import TokenizerError
from firstlight.files import write_manifest
from firstlight.tokenizer import TokenizerSettings, import_tokenizer, load, probe_process, train, untrusted
from firstlight.tokenizer.bpe import byte_level_bpe
from firstlight.tokenizer.patterns import KNOWN_PATTERNS
from firstlight.tokenizer.tokenizer_json import bytes_to_unicode
from firstlight.types import Document

Table = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path, tokenizer_json: Table) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer_json() -> Table:
    vocab = {token: i for i, token in enumerate(bytes_to_unicode().values())}
    inner = byte_level_bpe(models.BPE(vocab=vocab, merges=[]), "gpt2")
    inner.add_special_tokens(["<|endoftext|>"])
    table: Table = json.loads(inner.to_str())
    return table


def change(folder: Path, change_table: Callable[[Table], object]) -> None:
    table = json.loads((folder / "tokenizer.json").read_text())
    change_table(table)
    (folder / "tokenizer.json").write_text(json.dumps(table))


def split(pattern: str) -> Callable[[Table], object]:
    return lambda table: table["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": pattern})


def nested(n: int) -> Table:
    table: Table = {"type": "Whitespace"}
    for _ in range(n):
        table = {"type": "Sequence", "pretokenizers": [table]}
    return table


WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 0, "<|endoftext|>": 1}, "unk_token": "[UNK]"}
WORD_PIECE = {"type": "WordPiece", "max_input_chars_per_word": 9, "continuing_subword_prefix": "##"}
HARM: dict[str, tuple[Callable[[Table], object], str]] = {
    "exponential": (split("(a|aa)+$"), "fail on short texts: .*retry-limit"),
    "charsmap": (lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA////"}), "crash"),
    "empty pattern": (
        lambda t: t.update(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x" * 9}),
        "fail on short texts",
    ),
    "length 0": (lambda t: t.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "fail on short texts"),
    "prefix": (lambda t: t["model"].update(continuing_subword_prefix="x" * 10, merges=["a b"]), "fail on short texts"),
    "deep sequence": (
        lambda t: t.update(pre_tokenizer=nested(400)),
        r"is not a readable tokenizer.json: (recursion|nested)",
    ),
    "huge id": (lambda t: t["model"]["vocab"].update(x=2**31), "id that is too high.*2,147,483,648 with 257 tokens"),
    "no unknown token": (lambda t: t.update(model=WORD_LEVEL), r"model.unk_token: has no token for unknown words"),
    "no WordPiece unknown token": (
        lambda t: t.update(model={**WORD_LEVEL, **WORD_PIECE}),
        r"unk_token: has no token for unknown words \(found '\[UNK\]'",
    ),
}


@pytest.mark.parametrize("case", HARM)
def test_a_file_made_to_harm_is_one_clear_error(saved: Path, case: str) -> None:
    harm, words = HARM[case]
    change(saved, harm)
    for read in (load, import_tokenizer):  # the result of a trial is remembered
        with pytest.raises(TokenizerError, match=words) as caught:
            read(saved)
        assert "tokenizer.json" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_pattern_of_cubic_time_is_refused_within_seconds(saved: Path) -> None:
    change(saved, split("(?:a+)(?:a+)(?:a+)[cd]"))
    start = time.perf_counter()
    with pytest.raises(TokenizerError, match="takes too long to encode short texts"):
        load(saved)
    assert time.perf_counter() - start < untrusted._WALL_SECONDS


@pytest.mark.slow
def test_a_text_that_grows_without_end_is_refused(saved: Path) -> None:
    grow = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}
    change(saved, lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [grow] * 3}))
    # Whichever limit is reached first: memory, or on a busy machine the time.
    with pytest.raises(TokenizerError, match="crash or use too much memory|takes too long"):
        load(saved)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"version": %s}' % ("9" * 5000)], ids=["deep", "digits"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_json_that_python_cannot_hold_is_one_clear_error(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    with pytest.raises(
        TokenizerError,
        match=rf"{name}: is not (valid JSON|a readable tokenizer.json): (nested too|a number|invalid type|number out)",
    ):
        load(saved)


def test_a_component_that_hides_behind_another_is_refused(saved: Path) -> None:
    text = (saved / "tokenizer.json").read_text()
    hidden = '{"normalizer": {"type": "\\u0050recompiled", "precompiled_charsmap": "AAAA////"},'
    (saved / "tokenizer.json").write_text(
        text.replace("{", hidden, 1).replace('"normalizer": null', '"normalizer": {}')
    )
    with pytest.raises(TokenizerError, match="crash or use too much memory"):
        load(saved)


def test_a_chat_template_that_is_not_utf8_is_one_clear_error(saved: Path) -> None:
    (saved / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(TokenizerError, match=r"chat_template.jinja: is not UTF-8: .* at byte 3. Save it as UTF-8"):
        load(saved)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_differs_from_the_manifest_is_refused(saved: Path, name: str) -> None:
    write_manifest(saved)
    assert load(saved).vocab_size == 257
    (saved / name).write_text((saved / name).read_text() + " ")
    with pytest.raises(TokenizerError, match=rf"{name}: does not match the SHA-256 in the manifest. Put the original"):
        load(saved)


def test_huge_ids_of_other_formats_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 2**31, "<|endoftext|>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    start = time.process_time()
    with pytest.raises(TokenizerError, match="id that is too high for its number of tokens .found id 2,147,483,648"):
        import_tokenizer(tmp_path)
    assert time.process_time() - start < 2


def refuse_processes(*_: object, **__: object) -> None:
    raise AssertionError("a process was started")


@pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
def test_known_patterns_start_no_process(saved: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr(subprocess, "run", refuse_processes)
    change(saved, split(pattern))
    assert load(saved).encode("a b")


def test_an_unknown_pattern_is_tried_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(saved, split(r"\p{L}+|\d| ?[^\s\p{L}]+|\s+"))
    found = load(saved)
    monkeypatch.setattr(subprocess, "run", refuse_processes)
    assert load(saved).encode("ab 12") == found.encode("ab 12")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
def test_known_patterns_are_fast_on_every_probe(saved: Path, pattern: str) -> None:
    change(saved, split(pattern))
    tokenizer = load(saved)
    start = time.process_time()
    for text in probe_process.probes(tokenizer.definition):
        tokenizer._encode_with_tokenizers([text])
    assert time.process_time() - start < probe_process._ENCODE_SECONDS


def test_an_error_of_the_library_while_encoding_is_one_clear_error(saved: Path) -> None:
    change(saved, lambda t: t.update(model={"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None}))
    with pytest.raises(TokenizerError, match="cannot encode this text: .*unk_id"):
        load(saved).encode("b")


def test_a_trial_that_cannot_start_refuses(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", fail)
    change(saved, split("unknown 1"))
    with pytest.raises(TokenizerError, match="could not be tried out: no more processes"):
        load(saved)


@pytest.mark.parametrize("kind", ["bpe", "word", "char", "byte"])
def test_what_is_trained_here_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(subprocess, "run", refuse_processes)
    settings = TokenizerSettings(kind=kind, **({"vocab_size": 270} if kind == "bpe" else {}))
    trained = train([Document("the sea and the sun, 你好 " * 20, "text")], settings)
    trained.save(tmp_path)
    assert load(tmp_path).hash == trained.hash
