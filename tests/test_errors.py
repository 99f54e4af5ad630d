"""Fields become one sentence, in one place; exit codes follow the tree."""

import pytest

from firstlight import errors
from firstlight.errors import Failure, FirstlightError, MissingExtra, UnknownName, UsageError, nearest


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "is wrong"),
        ({"where": "a.toml:3"}, "a.toml:3: is wrong"),
        ({"found": 3}, "is wrong (found 3)"),
        ({"found": 0, "expected": "4"}, "is wrong (found 0; expected 4)"),
        ({"where": "k", "expected": "x", "fix": "Mend it."}, "k: is wrong (expected x). Mend it."),
        ({"fix": "Mend it."}, "is wrong. Mend it."),
        ({"found": ""}, "is wrong (found )"),
    ],
)
def test_sentence(fields: dict[str, object], sentence: str):
    error = FirstlightError("is wrong", **fields)
    assert error.message == str(error) == sentence


def classes(root: type[FirstlightError]) -> list[type[FirstlightError]]:
    return [root, *(deeper for child in root.__subclasses__() for deeper in classes(child))]


def test_exit_codes_follow_the_tree():
    ours = [c for c in classes(FirstlightError) if c.__module__ == errors.__name__ and c is not FirstlightError]
    assert len(ours) >= 11
    for cls in ours:
        assert issubclass(cls, UsageError) != issubclass(cls, Failure)
        assert cls.exit_code == (2 if issubclass(cls, UsageError) else 1)


def test_the_tree_in_the_docstring_is_whole():
    for cls in classes(FirstlightError):
        if cls.__module__ == errors.__name__:
            assert cls.__name__ in (errors.__doc__ or "")


def test_unknown_name_offers_the_nearest():
    error = UnknownName("preset", "gpt2-124", ["gpt2-124m", "nano"], where="--preset")
    assert error.message == (
        "--preset: unknown preset 'gpt2-124' (expected one of gpt2-124m, nano). Did you mean 'gpt2-124m'?"
    )
    assert "Did you mean" not in UnknownName("preset", "zzz", ["nano"]).message


def test_missing_extra_says_what_to_install():
    assert MissingExtra("reading .zst", "zstd").message.endswith("-m pip install 'zstandard>=0.23'")


def test_nearest():
    assert nearest("n_layers", ["n_layer", "n_head"]) == "n_layer"
    assert nearest("zzz", ["n_layer"]) is None
    assert nearest("x", []) is None
    assert nearest("GGUF", ["gguf", "onnx"]) == "gguf"
    assert nearest("choice", ["pair", "multiple_choice"]) == "multiple_choice"
    assert nearest("train", ["transfer", "pretrain"]) == "pretrain"
    assert nearest("eval", ["evaluate", "export"]) == "evaluate"
    assert nearest("--max-tokens", ["--max-new-tokens", "--top-k"]) == "--max-new-tokens"
    assert nearest("gpt2", ["gpt1-117m", "gpt2-124m"]) == "gpt2-124m"
    assert nearest("gpt2", ["gpt1", "gpt1-117m", "gpt2-124m"]) == "gpt2-124m"
    assert nearest("books/chapter2.txt", ["books/chapter1.txt"]) == "books/chapter1.txt"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("block_size", "vocab_size"),
        ("absent", "base"),
        ("X.gguf", "y.gguf"),
        ("runs/a", "runs/b"),
        ("lr", "ids"),
        ("mnist", "pets"),
        ("eval_every", "save_every"),
    ],
)
def test_what_is_not_alike_is_not_suggested(name: str, known: str) -> None:
    assert nearest(name, [known]) is None


def test_what_a_damaged_file_holds_stays_on_one_line() -> None:
    error = FirstlightError("is wrong", found="a\nb\x1b[31m\udc80é")
    assert error.message == r"is wrong (found a\nb\x1b[31m\udc80é)"


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    name, shown = "a\x1b]0;x\x07\u202e\x9b\u3000中.txt", "a\\x1b]0;x\\x07\\u202e\\x9b\u3000中.txt"
    error = FirstlightError(f"{name} is wrong", where=name, expected=name, fix=f"Use {name}.")
    assert error.message == f"{shown}: {shown} is wrong (expected {shown}). Use {shown}."
    assert FirstlightError("is wrong", where="a\nerror: b").message == "a\\nerror: b: is wrong"
    assert FirstlightError("is\nwrong").message == "is\nwrong"


def test_unknown_name_of_an_empty_table():
    error = UnknownName("reader", "x", [], alternative="package.module:Name")
    assert error.message == "unknown reader 'x' (expected package.module:Name)"
    assert UnknownName("reader", "x", []).message == "unknown reader 'x'"
