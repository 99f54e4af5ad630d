"""Tokenizers of Hugging Face folders in every layout: the tokens, ids and templates that transformers reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer import Tokenizer, import_tokenizer, load
from firstlight.tokenizer.added_tokens import NewToken, add_tokens
from firstlight.tokenizer.tokenizer_json import bytes_to_unicode

transformers = pytest.importorskip("transformers")

TEXTS = [
    *("", " ", "  a  b ", "a\tb\r\n", "\n", "don't I'LL", "e\u0301 café", "老师收到 2026年"),
    *("👩\u200d👩\u200d👧 fam", "a\0b", "a b<|end|>", "ABC [x]y"),
]
BYTES = list(bytes_to_unicode().values())
VOCAB = {token: i for i, token in enumerate([*BYTES, "ab", "Ġa", "<|endoftext|>"])}
MERGES = "#version: 0.2\na b\nĠ a\n"
N = len(VOCAB)
ADDED = {"<|pad|>": N, "<|end|>": N + 1, "<|user|>": N + 2}
NAMED = {"eos_token": "<|end|>", "pad_token": "<|pad|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def slow(folder: Path, **files: Any) -> Path:
    return write(folder, {"vocab.json": VOCAB, "merges.txt": MERGES, **{f"{k}.json": v for k, v in files.items()}})


def fast(folder: Path, vocab: dict[str, int] | None = None, **files: Any) -> Path:
    inner = Inner(models.BPE(vocab=vocab or VOCAB, merges=[("a", "b"), ("Ġ", "a")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    write(folder, {f"{k}.json": v for k, v in files.items()})
    inner.save(str(folder / "tokenizer.json"))
    return folder


def same_as_transformers(folder: Path, out: Path) -> Tokenizer:
    """Import a folder and compare what is written with it, both read by transformers."""
    ours = import_tokenizer(folder)
    ours.save(out)
    theirs, written = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, out))
    assert written.get_vocab() == theirs.get_vocab()
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False)
        assert written.encode(text, add_special_tokens=False) == ids, text
        assert written.decode(ids) == theirs.decode(ids)
        if not any(token in text for token in NAMED.values()):  # which are never found in a text here
            assert ours.encode(text) == ids, text
    for key in ("bos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(written, key) == getattr(theirs, key), key
    assert theirs.eos_token_id in (None, written.eos_token_id) and written.eos_token_id == ours.eot_id
    assert written.chat_template == theirs.chat_template
    return ours


GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
DECODER = {str(i): {"content": token, **FLAGS, "special": True} for token, i in ADDED.items()}
LAYOUTS = {
    "added_tokens.json, names as texts": {
        "tokenizer_config": GPT2,
        "added_tokens": ADDED,
        "special_tokens_map": {**NAMED, "additional_special_tokens": ["<|user|>"]},
    },
    "added_tokens.json, names as objects": {
        "tokenizer_config": GPT2,
        "added_tokens": ADDED,
        "special_tokens_map": {
            **{key: {"content": token, **FLAGS} for key, token in NAMED.items()},
            "additional_special_tokens": ["<|user|>"],  # transformers 5 cannot read objects here
        },
    },
    "added_tokens_decoder": {"tokenizer_config": {**GPT2, **NAMED, "added_tokens_decoder": DECODER}},
    "tokens without ids": {
        "tokenizer_config": {**GPT2, **NAMED, "eos_token": "<|pad|>", "additional_special_tokens": ["<|user|>"]}
    },
    "the class's own names": {"tokenizer_config": GPT2},
    "no tokenizer_config.json": {"config": {"model_type": "gpt2"}},
    "Qwen's": {"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"}},
    "a space in front": {"tokenizer_config": {**GPT2, "add_prefix_space": True}},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_slow_folders(tmp_path: Path, name: str) -> None:
    ours = same_as_transformers(slow(tmp_path / "source", **LAYOUTS[name]), tmp_path / "out")
    assert ours.vocab_size == N + 3 * ("added" in name) + 2 * ("without" in name)


@pytest.mark.parametrize("normalized", [False, True])
def test_added_tokens_next_to_tokenizer_json(tmp_path: Path, normalized: bool) -> None:
    decoder = {str(N): {"content": "[x]", **FLAGS, "normalized": normalized, "lstrip": True, "special": False}}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "added_tokens_decoder": decoder,
    }
    ours = same_as_transformers(fast(tmp_path / "source", tokenizer_config=config), tmp_path / "out")
    assert ours.encode("a  [x]b") == [VOCAB["a"], N, VOCAB["b"]]


def test_a_begin_of_text_is_prepended_where_the_folder_says_so(tmp_path: Path) -> None:
    config = {**GPT2, "add_bos_token": True}
    ours = same_as_transformers(slow(tmp_path / "source", tokenizer_config=config), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours.bos_id == VOCAB["<|endoftext|>"] and theirs.encode("ab") == [ours.bos_id, VOCAB["ab"]]


TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
LISTED = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "x"}]
TEMPLATES: dict[str, tuple[Any, dict[str, str], dict[str, str]]] = {
    "a text": (TEMPLATE, {}, {"default": TEMPLATE}),
    "a list": (LISTED, {}, {"default": TEMPLATE, "tool_use": "x"}),
    "a file, which wins": ("y", {"chat_template.jinja": TEMPLATE}, {"default": TEMPLATE}),
    "files": (
        None,
        {"chat_template.jinja": TEMPLATE, "additional_chat_templates/tool_use.jinja": "x"},
        {"default": TEMPLATE, "tool_use": "x"},
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates(tmp_path: Path, name: str) -> None:
    configured, files, wanted = TEMPLATES[name]
    folder = slow(tmp_path / "source", tokenizer_config={**GPT2, "chat_template": configured})
    ours = same_as_transformers(write(folder, files), tmp_path / "out")
    assert ours.chat_templates == load(tmp_path / "out").chat_templates == wanted
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "[user] a"


def test_the_template_of_a_processor_is_read(tmp_path: Path) -> None:
    folder = write(slow(tmp_path, tokenizer_config=GPT2), {"chat_template.json": {"chat_template": TEMPLATE}})
    assert import_tokenizer(folder).chat_template == TEMPLATE


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghi", *(f"##{c}" for c in "abcdefghi"), "老", "师", "é"]


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"strip_accents": False}], ids=str)
def test_wordpiece(tmp_path: Path, config: dict[str, Any]) -> None:
    config = {"tokenizer_class": "BertTokenizer", **config}
    folder = write(tmp_path / "source", {"vocab.txt": "\n".join(WORDS) + "\n", "tokenizer_config.json": config})
    ours = same_as_transformers(folder, tmp_path / "out")
    assert (ours.eot, ours.pad_id, ours.unk_id) == ("[SEP]", 0, 1)


@pytest.mark.parametrize("written", [{}, {"do_lower_case": False, "strip_accents": True}], ids=str)
@pytest.mark.parametrize("set_", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}], ids=str)
def test_settings_of_bert_win_over_tokenizer_json(
    tmp_path: Path, set_: dict[str, Any], written: dict[str, Any]
) -> None:
    files = {
        "vocab.txt": "\n".join(WORDS) + "\n",
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", **written},
    }
    folder = write(tmp_path / "source", files)
    import_tokenizer(folder).save(tmp_path / "fast")
    write(tmp_path / "fast", {"tokenizer_config.json": {"tokenizer_class": "BertTokenizerFast", **set_}})
    same_as_transformers(tmp_path / "fast", tmp_path / "out")


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
def test_the_space_in_front_of_a_text(tmp_path: Path, name: str) -> None:
    config = {"tokenizer_class": name, "add_prefix_space": True, "eos_token": "<|endoftext|>"}
    folder = fast(write(tmp_path / "source", {}), tokenizer_config={**NAMED, **config} if name[0] == "G" else config)
    ours = same_as_transformers(folder, tmp_path / "out")
    assert (ours.encode("a") == [VOCAB["Ġa"]]) is name.startswith("GPT2")


@pytest.mark.parametrize("unk", [None, "b"])
def test_characters_that_no_token_has_are_said(tmp_path: Path, unk: str | None) -> None:
    found: list[str] = []
    with progress.listen(lambda event: found.append(event.text)):
        few = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "<|endoftext|>": 5}
        import_tokenizer(fast(write(tmp_path, {}), few))
        inner = Inner(models.BPE(vocab={"a": 0, "b": 1}, merges=[], unk_token=unk))
        inner.save(str(tmp_path / "tokenizer.json"))
        import_tokenizer(tmp_path)
    text = "\n".join(found)
    assert "has no token for 240 of the bytes of UTF-8" in text
    assert ("has no token for unknown characters" in text) is (unk is None)


def test_end_of_text_is_the_one_that_the_model_names(tmp_path: Path) -> None:
    folder = slow(tmp_path, added_tokens=ADDED, config={"model_type": "other", "eos_token_id": [N + 2, N]})
    assert import_tokenizer(folder).eot == "<|user|>"


WRONG = {
    "another class": ({"tokenizer_config": {"tokenizer_class": "CLIPTokenizer"}}, "unsupported class.*CLIPTokenizer"),
    "added tokens without ids": ({"added_tokens": {"<a>": "x"}}, "added_tokens.json: is not a table of ids"),
    "an id far away": ({"added_tokens": {"<a>": 1 << 30}}, "too high"),
    "two tokens of one id": ({"added_tokens": {"<a>": N, "<b>": N}}, "two tokens of one id"),
    "a token without text": (
        {"tokenizer_config": {"added_tokens_decoder": {"7": {"special": True}}}},
        "tokenizer_config.json: has an added token without its text",
    ),
    "the id of a letter": ({"added_tokens": {"<a>": VOCAB["%"]}}, "an added token has the id of a token of texts.*'%'"),
    "the id of a part of others": ({"added_tokens": {"<a>": VOCAB["ab"]}}, "has the id of a token of texts.*'ab'"),
    "two words of one id": ({"vocab": {**VOCAB, "zz": VOCAB["%"]}}, "vocab.json: two tokens of one id .*'%' and 'zz'"),
    "a template of numbers": ({"tokenizer_config": {"chat_template": [1]}}, "chat_template: has a chat template"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_folders(tmp_path: Path, name: str) -> None:
    files, message = WRONG[name]
    with pytest.raises(TokenizerError, match=message):
        import_tokenizer(slow(tmp_path, **files))


# Vocabularies with unused ids

NEW = ("<x>", "<y>", "<z>", "<v>")
HOLE = {**VOCAB, "<|endoftext|>": N + 4}


def test_new_tokens_get_ids_above_the_highest(tmp_path: Path) -> None:
    ours = import_tokenizer(fast(tmp_path, HOLE)).with_special_tokens(["<|start|>", "<|extract|>"])
    assert [ours.token_to_id(t) for t in ("<|start|>", "<|extract|>")] == [N + 5, N + 6]
    ours.save(tmp_path / "out")
    again, theirs = load(tmp_path / "out"), transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for token, i in {**HOLE, "<|start|>": N + 5, "<|extract|>": N + 6}.items():
        assert again.token_to_id(token) == theirs.convert_tokens_to_ids(token) == i
    assert (
        again.encode("ab <|start|>")
        == ours.encode("ab <|start|>")
        == theirs.encode("ab")[:1] + ours.encode(" <|start|>")
    )
    more = again.with_special_tokens(["<|more|>"], above=N + 20)
    assert more.token_to_id("<|more|>") == N + 21, "the model uses ids that the vocabulary lacks"


def test_a_file_whose_added_tokens_would_get_the_ids_of_others(tmp_path: Path) -> None:
    table = json.loads((fast(tmp_path, HOLE) / "tokenizer.json").read_text())
    table["added_tokens"] += [{"id": N + 5 + i, "content": t, **FLAGS, "special": True} for i, t in enumerate(NEW)]
    table["model"]["vocab"] |= {"aa": N, "bb": N + 1}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    ours = load(tmp_path)
    ours.save(tmp_path / "out")
    for words in (ours, load(tmp_path / "out")):
        assert [words.token_to_id(t) for t in NEW] == [N + 5, N + 6, N + 7, N + 8]
        assert (words.token_to_id("bb"), words.token_to_id("<|endoftext|>")) == (N + 1, N + 4)


def test_added_tokens_keep_the_ids_of_their_file(tmp_path: Path) -> None:
    ours = import_tokenizer(slow(tmp_path, added_tokens={"<a>": N + 7, "<b>": N + 3}))
    assert (ours.token_to_id("<a>"), ours.token_to_id("<b>"), ours.vocab_size) == (N + 7, N + 3, N + 8)
    assert ours.encode("b<a>") == [VOCAB["b"], N + 7]


def test_a_reserved_token_is_renamed(tmp_path: Path) -> None:
    folder = slow(tmp_path, added_tokens={"<|im_end|>": N})
    write(folder, {"vocab.json": {**VOCAB, "[UNUSED_TOKEN_1]": N}})
    ours = import_tokenizer(folder)
    assert ours.token_to_id("<|im_end|>") == N and ours.token_to_id("[UNUSED_TOKEN_1]") is None


def test_a_unigram_vocabulary_has_no_gaps() -> None:
    inner = Inner(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=False))
    assert add_tokens(inner, [NewToken("<x>", 2)]).token_to_id("<x>") == 2
    with pytest.raises(TokenizerError, match="cannot have this id .*'<x>', id 4"):
        add_tokens(inner, [NewToken("<x>", 4)])


def test_a_name_that_the_model_has_no_row_for_is_left_out(tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "[PAD]"}
    folder = fast(tmp_path, tokenizer_config=config, config={"vocab_size": N})
    told: list[progress.Event] = []
    with progress.listen(told.append):
        assert load(folder).pad_id is None
    assert "no embedding for [PAD]" in told[0].text
