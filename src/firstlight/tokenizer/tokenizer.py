"""A tokenizer: ids for text and text for ids, over the tokenizers library, with faster ways where they are equal.

What a user's text contains is always text: ``<|endoftext|>`` in it is thirteen characters, never the token.
"""

import codecs
import hashlib
import json
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import write_atomic

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"
Kind = Literal["bpe", "word", "char", "byte", "other"]

# Strings on which fast and reference encoders must agree before the fast one is trusted.
_PROBES = [
    "", " ", "\n\n  x\t\r\n", "Hello, world! It's 2024's 1234567 don't DON'T", "naïve café ÆØÅ ß ſ İ", "你好，世界。这是 一个测试！",
    "def f(x):\n    return x**2  # note\n\n\n", "😀👩‍👩‍👧 e\u0301 \u200b\u00a0 ́", "<|endoftext|> <unk> </s>", "a" * 300 + " " * 70 + "!?" * 40, "\x00\x7f\ufffd",
]  # fmt: skip


def byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


class Tokenizer:
    """A loaded or trained tokenizer.

    Args:
        inner: the tokenizers library's object.
        eot: the end-of-text token.
        unk: the unknown token, or None.
    """

    def __init__(self, inner: tokenizers.Tokenizer, *, eot: str, unk: str | None) -> None:
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._json: dict[str, Any] = json.loads(inner.to_str())
        self.eot, self.unk = eot, unk
        self.eot_id: int = inner.token_to_id(eot)
        self.unk_id: int | None = None if unk is None else inner.token_to_id(unk)
        self.kind: Kind = _kind(self._json)

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, less one."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the ids."""
        keys = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        text = json.dumps({k: self._json.get(k) for k in keys} | {"eot": self.eot}, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def lossless(self) -> bool:
        """Decoding gives back any text exactly."""
        return self.kind in ("bpe", "byte") and self._json.get("normalizer") is None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts end to end (int32), and each text's count (int64)."""
        if self.kind == "byte":
            parts = [np.frombuffer(t.encode("utf-8", "surrogatepass"), dtype=np.uint8) for t in texts]
            return self._joined([self._byte_ids[p] for p in parts])
        if self.kind == "char":
            return self._joined([self._characters(t) for t in texts])
        if self._fast is not None:
            ids, ends = self._fast.encode_batch_flat(texts, split_special_tokens=True)
            offsets = np.frombuffer(ends, dtype=np.uint64).astype(np.int64)
            return np.frombuffer(ids, dtype=np.uint32).astype(np.int32), np.diff(offsets)
        encoded = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return self._joined([np.array(e.ids, dtype=np.int32) for e in encoded])

    @staticmethod
    def _joined(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        counts = np.array([len(p) for p in parts], dtype=np.int64)
        flat = np.concatenate(parts) if parts else np.empty(0)
        return flat.astype(np.int32), counts

    def decode(self, ids: list[int] | np.ndarray) -> str:
        """Return the text of ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        self._check(ids)
        if self._bytes is not None:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        return str(self._inner.decode([int(i) for i in ids], skip_special_tokens=True))

    def decode_bytes(self, ids: list[int] | np.ndarray) -> bytes:
        """Return the bytes that ids stand for."""
        self._check(ids)
        if self._bytes is not None:
            return b"".join(self._bytes[int(i)] for i in ids)
        return self.decode(ids).encode("utf-8")

    def _check(self, ids: list[int] | np.ndarray) -> None:
        bad = next((int(i) for i in ids if not 0 <= int(i) < self.vocab_size), None)
        if bad is not None:
            raise TokenizerError("an id lies outside the vocabulary", found=bad, expected=f"0 to {self.vocab_size - 1}")

    def decoder(self) -> "StreamDecoder":
        """Return a decoder that takes ids one by one."""
        return StreamDecoder(self)

    def byte_lengths(self) -> np.ndarray:
        """Return how many UTF-8 bytes of text each id stands for (V,) int32; 0 for special tokens."""
        if self._bytes is not None:
            return np.array([len(b) for b in self._bytes], dtype=np.int32)
        special = {int(t["id"]) for t in self._json["added_tokens"] if t.get("special")}
        return np.array(
            [0 if i in special else len((self._inner.id_to_token(i) or "").encode("utf-8")) for i in range(self.vocab_size)],
            dtype=np.int32,
        )

    def tokens(self) -> list[str]:
        """Return each id's token as it is written in tokenizer.json."""
        return [self._inner.id_to_token(i) or "" for i in range(self.vocab_size)]

    def cut(self, text: str) -> int:
        """Return the largest i at which ids(text[:i]) + ids(text[i:] + more) = ids(text + more); 0 where none is sure.

        A word never runs from a letter into white space, in any pattern that cuts words as those of PATTERNS do;
        whether this tokenizer does is asked of its own pre-tokenizer. Without one, nothing is sure.
        """
        if self.kind in ("byte", "char"):
            return len(text)
        if not self._cuts_words or len(text) < 3:
            return 0
        # The last character may be the first half of what follows, so the cut lies before it.
        for i in range(len(text) - 2, 0, -1):
            if text[i] in " \n\t" and unicodedata.category(text[i - 1])[0] == "L":
                return i
            if text[i] in "，。！？；：、" and unicodedata.category(text[i - 1])[0] == "L" and self.kind == "bpe":
                return i
        return 0

    def save(self, directory: Path, *, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        special = {"eos_token": self.eot, "bos_token": self.eot}
        table: dict[str, Any] = {
            # transformers 5 would otherwise rebuild a family's own tokenizer and get others wrong.
            "tokenizer_class": "PreTrainedTokenizerFast", **special,
            **({"unk_token": self.unk} if self.unk is not None else {}),
            "clean_up_tokenization_spaces": False, "add_prefix_space": False,
            **({"model_max_length": model_max_length} if model_max_length else {}),
        }  # fmt: skip
        write_atomic(directory / "tokenizer.json", self._inner.to_str(pretty=True) + "\n")
        write_atomic(directory / "tokenizer_config.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        """Bytes of each id where the tokenizer is byte-level: tokens of text by table, special ones empty."""
        if self.kind == "char":
            return [b"" if t in (self.eot, self.unk) else t.encode("utf-8", "surrogatepass") for t in self.tokens()]
        if self.kind not in ("bpe", "byte"):
            return None
        back = {c: bytes([b]) for b, c in byte_characters().items()}
        added = {int(t["id"]): t for t in self._json["added_tokens"]}
        out = []
        for i, token in enumerate(self.tokens()):
            if i in added:
                out.append(b"" if added[i].get("special") else token.encode("utf-8"))
            else:
                out.append(b"".join(back.get(c, c.encode("utf-8")) for c in token))
        return out

    @cached_property
    def _byte_ids(self) -> np.ndarray:
        table = byte_characters()
        return np.array([self._inner.token_to_id(table[b]) for b in range(256)], dtype=np.int32)

    @cached_property
    def _code_points(self) -> np.ndarray:
        table = np.full(0x110000, -1 if self.unk_id is None else self.unk_id, dtype=np.int32)
        for token, i in self._inner.get_vocab().items():
            if len(token) == 1:
                table[ord(token)] = i
        return table

    def _characters(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._code_points[points]

    @cached_property
    def _cuts_words(self) -> bool:
        before = self._inner.pre_tokenizer
        if before is None or self._json.get("normalizer") is not None:
            return False
        pieces = before.pre_tokenize_str("ab cd\nef 你好 x")
        edges = {span[0] for _, span in pieces} | {span[1] for _, span in pieces}
        return {2, 5, 8, 11} <= edges

    @cached_property
    def _fast(self) -> Any | None:
        """fastokens, where it is installed and gives the same ids as tokenizers on every probe."""
        if self.kind != "bpe":
            return None
        try:
            import fastokens

            fast = fastokens.Tokenizer.from_json_str(self._inner.to_str())
            ids, ends = fast.encode_batch_flat(_PROBES, split_special_tokens=True)
        except ImportError:
            progress.notice("fastokens is not installed: encoding with tokenizers, several times slower")
            return None
        except Exception as error:  # noqa: BLE001 - a tokenizer that it cannot read is encoded the slow way
            progress.notice(f"fastokens cannot read this tokenizer ({error}): encoding with tokenizers")
            return None
        wanted = [i for e in self._inner.encode_batch_fast(_PROBES, add_special_tokens=False) for i in e.ids]
        if np.frombuffer(ids, dtype=np.uint32).tolist() != wanted or len(ends) != 8 * (len(_PROBES) + 1):
            progress.warn("fastokens gives other ids than tokenizers on the probes: encoding with tokenizers")
            return None
        return fast


class StreamDecoder:
    """Turns ids into text one by one, holding back bytes that are no whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """Take one id; return the text that is sure now."""
        if self._tokenizer._bytes is not None:
            return self._utf8.decode(self._tokenizer.decode_bytes([token]))
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        new = text[self._shown :]
        self._shown = len(text)
        return new

    def flush(self) -> str:
        """Return what is left, broken characters as U+FFFD."""
        return self._utf8.decode(b"", final=True)


def _kind(table: dict[str, Any]) -> Kind:
    model, before = table["model"], json.dumps(table.get("pre_tokenizer"))
    if model["type"] == "BPE" and "ByteLevel" in before and not model.get("byte_fallback"):
        return "bpe" if model["merges"] else "byte"
    if model["type"] == "WordLevel":
        specials = {t["content"] for t in table["added_tokens"]}
        return "char" if all(len(t) == 1 for t in model["vocab"] if t not in specials) else "word"
    return "other"
