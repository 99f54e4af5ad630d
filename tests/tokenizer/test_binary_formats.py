"""Tokenizers from binary files: SentencePiece's, llama2.c's, llm.c's; and the token before every text."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, processors

from firstlight.errors import TokenizerError
from firstlight.tokenizer import (
    VocabTable,
    build_byte_level_bpe,
    build_char_level,
    build_sentencepiece_bpe,
    import_tokenizer,
    load,
)

# Ids that sentencepiece 0.2.1 gives with Llama 2's tokenizer.model.
LLAMA2 = {
    "Hello world,  Once upon a time 你好 😀\n\tx": [
        15043,
        3186,
        29892,
        29871,
        9038,
        2501,
        263,
        931,
        29871,
        30919,
        31076,
        29871,
        243,
        162,
        155,
        131,
        13,
        12,
        29916,
    ],
}
TEXTS = [*LLAMA2, "", " ", "  two  spaces ", "<s> is no token", "a\u0301é", "1234567890", "\x00\x7f"]


def field(number: int, value: bytes | int | float) -> bytes:
    """A field of a protocol buffer's message."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, bytes):
        assert len(value) < 128 and number < 16
        return bytes([number << 3 | 2, len(value)]) + value
    key = number << 3
    made = b"" if key < 128 else bytes([key & 127 | 128, key >> 7])
    return (made or bytes([key])) + bytes([value])


def model_of(pieces, *, kind: int = 2, extra_spaces: int = 0, prefix: int = 1, charsmap: bytes = b"") -> bytes:
    """A tokenizer.model, written from sentencepiece_model.proto."""
    made = b"".join(
        field(1, field(1, p.encode()) + field(2, float(s)) + (field(3, k) if k != 1 else b"")) for p, s, k in pieces
    )
    normalizer = (field(2, charsmap) if charsmap else b"") + field(3, prefix) + field(4, extra_spaces)
    return made + field(2, field(3, kind)) + field(3, normalizer)


def pieces():
    letters = [(c, -float(10 + i), 1) for i, c in enumerate("▁abcdefgh")]
    merged = [("ab", -1.0, 1), ("▁ab", -2.0, 1), ("cd", -3.0, 1), ("abcd", -4.0, 1), ("bc", -0.5, 1)]
    return [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        *((f"<0x{b:02X}>", 0.0, 6) for b in range(256)),
        *merged,
        *letters,
        ("[user]", 0.0, 4),
    ]


def by_scores(text: str, table: dict[str, float]) -> list[str]:
    """SentencePiece's own way: join the neighbours whose union has the highest score, the leftmost first."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(table[a + b], -i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in table]
        if not pairs:
            return parts
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize("text", ["abcd", "ab ab", "bcd", "a b c d", "hgabc", "abab cdcd", "aabbccdd"])
def test_merges_by_score_are_what_sentence_piece_does(tmp_path, text):
    (tmp_path / "tokenizer.model").write_bytes(model_of(pieces()))
    made = import_tokenizer(tmp_path)
    table = {p: s for p, s, kind in pieces() if kind == 1}
    assert [made.tokens()[i] for i in made.encode(text)] == by_scores(text, table)
    assert made.decode(made.encode(text)) == text


def test_a_model_file_says_which_tokens_are_special(tmp_path):
    (tmp_path / "x.model").write_bytes(model_of(pieces()))
    made = import_tokenizer(tmp_path / "x.model")
    assert (made.eot, made.bos_id, made.unk_id) == ("</s>", 1, 0)
    assert [made.tokens()[i] for i in made.encode("a[user]b")] == ["▁", "a", "[user]", "b"], "a word of its own"
    assert 1 not in made.encode("<s>") and made.decode(made.encode("<s>a")) == "<s>a"
    made.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert (again.hash, again.bos_id, again.eot_id) == (made.hash, 1, 2)


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_text_begins_with_a_space_only_where_the_model_says_so(tmp_path, prefix):
    (tmp_path / "x.model").write_bytes(model_of(pieces(), prefix=prefix))
    made = import_tokenizer(tmp_path / "x.model")
    assert (made.tokens()[made.encode("ab")[0]] == "▁ab") is bool(prefix)
    assert made.decode(made.encode("ab")) == "ab"


WRONG = {
    "of another kind": (model_of(pieces(), kind=3), "unsupported type"),
    "that maps characters": (model_of(pieces(), charsmap=b"x"), "normalization"),
    "without some bytes": (model_of([p for p in pieces() if p[0] != "<0x0A>"]), "256 bytes"),
    "with a duplicate piece": (model_of([*pieces(), ("ab", 0.0, 1)]), "duplicate"),
    "that is cut": (model_of(pieces())[:-3], "damaged"),
    "that is a number": (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "damaged"),
    "whose piece is a number": (b"\x08\x7f", "damaged"),
    "with a piece that is no text": (model_of(pieces()) + field(1, field(1, b"\xff")), "not UTF-8"),
    "with a text for a score": (model_of(pieces()) + field(1, field(2, b"abc")), "not a number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_file(tmp_path, name):
    content, message = WRONG[name]
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        import_tokenizer(tmp_path / "tokenizer.model")
    assert "tokenizer.model" in str(caught.value)


@pytest.mark.data
def test_the_real_files_of_llama_2_agree(shared_data):
    folder = shared_data / "tokenizers" / "llama2"
    model, binary = import_tokenizer(folder / "tokenizer.model"), import_tokenizer(folder / "tokenizer.bin")
    for text, ids in LLAMA2.items():
        assert model.encode(text) == ids
    for text in TEXTS:
        assert model.encode(text) == binary.encode(text) and model.decode(model.encode(text)) == text
    # llama2.c ends a text where the next one begins.
    assert (model.eot_id, binary.eot_id, model.bos_id, binary.bos_id) == (2, 1, 1, 1)


def test_llama2c_is_cut_or_none(tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(struct.pack("<IfI", 5, 0.0, 5) + b"<unk>" + struct.pack("<fI", 0.0, 10**9))
    with pytest.raises(TokenizerError, match="truncated or damaged"):
        import_tokenizer(path)
    path.write_bytes(struct.pack("<IfI", 5, 0.0, 5) + b"<unk>")
    with pytest.raises(TokenizerError, match="is not a llama2.c tokenizer"):
        import_tokenizer(path)


@pytest.mark.slow
@pytest.mark.data
def test_llmc_has_gpt2s_ids(tmp_path, shared_data):
    """Its file holds the bytes of each token alone; the merges come out of their order."""
    gpt2 = import_tokenizer(shared_data / "tokenizers" / "gpt2")
    tokens = [gpt2.decode_bytes([i]) or b"<|endoftext|>" for i in range(gpt2.vocab_size)]
    header = np.zeros(256, "<u4")
    header[:4] = 20240328, 2, len(tokens), gpt2.eot_id
    path = tmp_path / "gpt2_tokenizer.bin"
    path.write_bytes(header.tobytes() + b"".join(bytes([len(t)]) + t for t in tokens))
    made = import_tokenizer(path)
    for text in [*TEXTS, "It's a well-known fact that 42 isn't 43.\n\n  def f(x):\n\treturn x"]:
        assert made.encode(text) == gpt2.encode(text)
    assert made.eot_id == gpt2.eot_id == 50256
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TokenizerError, match="truncated"):
        import_tokenizer(path)


# The token before every text


def test_the_token_before_every_text_is_known_and_kept(tmp_path):
    inner = Inner(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    for template, begin in (("<s> $A", 0), ("$A </s>", None), ("<s> $A </s>", None), ("$A", None)):
        inner.post_processor = processors.TemplateProcessing(template, None, [("<s>", 0), ("</s>", 1)])
        inner.save(str(tmp_path / "tokenizer.json"))
        made = import_tokenizer(tmp_path)
        assert made.bos_id == begin
        made.save(tmp_path / "again")
        assert load(tmp_path / "again").bos_id == begin
        kept = json.loads((tmp_path / "again" / "tokenizer.json").read_text())["post_processor"]
        assert (kept is None) == (begin is None), "what else stands around a text is left out"


def test_tables_that_contradict_themselves():
    letters = [*"abc", "<end>"]
    with pytest.raises(TokenizerError, match="end-of-text id is outside"):
        build_byte_level_bpe(VocabTable(letters, 9), [], ["."])
    with pytest.raises(TokenizerError, match="merge that is not in the vocabulary"):
        build_byte_level_bpe(VocabTable(letters, 3), [("a", "b")], ["."])
    with pytest.raises(TokenizerError, match="too long"):
        build_sentencepiece_bpe(VocabTable([*letters, "a" * 1000], 3), [0.0] * 5, add_prefix_space=True)
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    text = "".join(chr(0x4E00 + i % 200) for i in range(1200))  # every part of a piece is a piece
    parts = sorted({text[i : i + n] for i in range(200) for n in range(1, 80)})
    with pytest.raises(TokenizerError, match="pieces that can be split in too many ways"):
        build_sentencepiece_bpe(VocabTable([*bytes_, *parts], 0), [0.0] * (256 + len(parts)), add_prefix_space=True)
    with pytest.raises(TokenizerError, match="duplicate"):
        build_char_level("aba", source=Path("meta.pkl"))
