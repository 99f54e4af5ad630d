"""A vocab.txt of BERT gives the ids of transformers' BertTokenizer, on untidy text in English and Chinese."""

import json
from pathlib import Path
from typing import Any

import pytest

from firstlight.tokenizer import import_tokenizer
from messy_text import messy_text

CHINESE = "老师收到一封信，没有人知道原因。渔船在海边。"
LATIN = "abcdefghijklmnopqrstuvwxyz0123456789"
ODD = [
    " \t\n\u3000\xa0\u200b\u2028ﬁＡ１①㎏é",
    *("e\u0301", "İ", "ß", "Σς", "한국", "ｶﾞ", "😀👨\u200d👩\u200d👧", "\u0301", "\ufeff", "\x00\x7f\xad"),
    *("▁", "<s>", "##a", "…“—", "\ufffd𠀀ǆΩK", "\r\n", "\x85", "x" * 120),
]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_ids_are_those_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["the", "##he", "The", "é", "ß", "中", "##中", ",", ".", "!", "…"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHINESE, *LATIN, *(f"##{c}" for c in LATIN), *words]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(vocab)) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    ours, theirs = import_tokenizer(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    pieces = [*ODD, CHINESE, "BOAT 2026年 two  boats", "  渔船 A"]
    texts = [f"{messy_text(i, 30)}{pieces[i % len(pieces)]}{CHINESE[i % 9 :]}{pieces[-i % 7]}" for i in range(120)]
    for text in [*texts, *pieces, ""]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), repr(text)
    ours.save(tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [again.encode(text, add_special_tokens=False) for text in texts] == [ours.encode(text) for text in texts]
