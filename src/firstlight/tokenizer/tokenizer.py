"""A tokenizer: ids for text and text for ids, over the tokenizers library, with faster ways where they are equal.

What a user's text contains is always text: ``<|endoftext|>`` in it is thirteen characters, never the token.
Python strings can hold halves of surrogate pairs, which no UTF-8 can: they are encoded as U+FFFD.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import write_atomic
from firstlight.tokenizer import tokenizer_json
from firstlight.tokenizer.fast import Encoded, FastEncoder

if TYPE_CHECKING:
    from firstlight.tokenizer.split_points import Cutter
    from firstlight.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from firstlight.tokenizer.merges import BpeFacts

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"

_SURROGATES = re.compile("[\ud800-\udfff]")
# The tokenizers library holds some hundred bytes a token, so it is given this much text at a time.
_CHUNK_CHARACTERS = 1 << 19


def without_surrogates(text: str) -> str:
    """Return ``text`` with U+FFFD in the place of each half of a surrogate pair."""
    return _SURROGATES.sub("\ufffd", text)


class Tokenizer:
    """A loaded or trained tokenizer.

    Args:
        inner: the tokenizers library's object.
        eot: the end-of-text token.
        unk: the unknown token, or None.
        kept: what a tokenizer_config.json said that is saved with it again, such as a chat template.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, *, eot: str, unk: str | None, kept: Mapping[str, Any] | None = None
    ) -> None:
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        if getattr(inner.model, "dropout", None):
            # BPE dropout is for training with it: the ids of a text must be the same each time.
            inner.model.dropout = None
        self._inner = inner
        self._json: dict[str, Any] = json.loads(inner.to_str())
        self._kept = dict(kept or {})
        self._told = False
        self.eot, self.unk = eot, unk
        ids = inner.get_vocab(with_added_tokens=True)
        self.eot_id: int = ids[eot]
        self.unk_id: int | None = None if unk is None else ids[unk]
        # A few ids below the highest one may be unused.
        self._size = max(ids.values()) + 1
        self.kind: tokenizer_json.Kind = tokenizer_json.kind_of(self._json)

    @property
    def pad_id(self) -> int | None:
        """The id of the padding token that tokenizer_config.json names, or None."""
        name = self._kept.get("pad_token")
        return None if name is None else self.id_of(str(name))

    @cached_property
    def begin_id(self) -> int | None:
        """The id of the token that transformers puts before every text, with none behind it, or None.

        A model that was trained so wants it before a prompt; ``encode`` gives a text's own ids alone.
        """
        name = tokenizer_json.begin_of(self._json.get("post_processor"))
        return None if name is None else self.id_of(name)

    @property
    def definition(self) -> dict[str, Any]:
        """What tokenizer.json says."""
        return self._json

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, less one; a few of them may be unused."""
        return self._size

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the ids."""
        keys = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        facts = tokenizer_json.without_defaults({k: self._json.get(k) for k in keys}) | {"eot": self.eot}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    @cached_property
    def lossless(self) -> bool:
        """Decoding gives back any text exactly."""
        return tokenizer_json.is_lossless(self._json)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: list[str]) -> Encoded:
        """Return the ids of all texts end to end (int32), and each text's count (int64)."""
        try:
            return self._encode(texts)
        except (UnicodeEncodeError, TypeError):
            whole = [without_surrogates(text) for text in texts]
            if whole == texts:
                raise
            if not self._told:
                progress.notice("the text holds halves of surrogate pairs, which are no characters: encoded as U+FFFD")
                self._told = True
            return self._encode(whole)

    def _encode(self, texts: list[str]) -> Encoded:
        if self.kind == "byte":
            return _joined([self._byte_ids[np.frombuffer(t.encode("utf-8"), dtype=np.uint8)] for t in texts])
        if self.kind == "char":
            return _joined([self._code_points[np.frombuffer(t.encode("utf-32-le"), dtype=np.uint32)] for t in texts])
        fast = self._fast(texts) if self._fast is not None and self._fast.trusted else None
        return self._reference(texts) if fast is None else fast

    def _reference(self, texts: list[str]) -> Encoded:
        parts: list[np.ndarray] = []
        chunk: list[str] = []
        size = 0
        for text in [*texts, None]:
            if text is None or size >= _CHUNK_CHARACTERS:
                encoded = self._inner.encode_batch_fast(chunk, add_special_tokens=False)
                parts += [np.array(e.ids, dtype=np.int32) for e in encoded]
                chunk, size = [], 0
            if text is not None:
                chunk.append(text)
                size += len(text)
        return _joined(parts)

    def decode(self, ids: list[int] | np.ndarray) -> str:
        """Return the text of ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id lies outside the vocabulary.
        """
        if self._bytes is not None:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        return str(self._inner.decode(self._checked(ids), skip_special_tokens=True))

    def decode_bytes(self, ids: list[int] | np.ndarray) -> bytes:
        """Return the bytes that ids stand for.

        Raises:
            TokenizerError: an id lies outside the vocabulary.
        """
        if self._bytes is not None:
            return b"".join([self._bytes[i] for i in self._checked(ids)])
        return self.decode(ids).encode("utf-8")

    def _checked(self, ids: list[int] | np.ndarray) -> list[int]:
        """Return ids as plain numbers, each of them inside the vocabulary."""
        numbers: list[int] = np.asarray(ids, dtype=np.int64).reshape(-1).tolist()
        if numbers and not (min(numbers) >= 0 and max(numbers) < self.vocab_size):
            bad = next(i for i in numbers if not 0 <= i < self.vocab_size)
            raise TokenizerError("an id lies outside the vocabulary", found=bad, expected=f"0 to {self.vocab_size - 1}")
        return numbers

    def decoder(self) -> "StreamDecoder":
        """Return a decoder that takes ids one by one."""
        from firstlight.tokenizer.stream import StreamDecoder  # training has no use for it

        tokens, special = self.tokens(), {int(t["id"]) for t in self._json["added_tokens"] if t["special"]}
        fallback = bool(self._json["model"].get("byte_fallback"))

        def is_open(i: int) -> bool:
            return fallback and i < len(tokens) and tokenizer_json.is_byte_token(tokens[i])

        return StreamDecoder(self.decode_bytes if self._bytes is not None else None, self.decode, is_open, special)

    def byte_lengths(self) -> np.ndarray:
        """Return how many UTF-8 bytes of text each id stands for (V,) int32; 0 for special tokens.

        For a lossless tokenizer the lengths of a text's ids add up to those of the text; for others, about.
        """
        if self._bytes is not None:
            return np.array([len(b) for b in self._bytes], dtype=np.int32)
        return np.array(tokenizer_json.text_lengths(self._json, self.tokens()), dtype=np.int32)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token as it is written in tokenizer.json, or None where there is none."""
        i: int | None = self._inner.token_to_id(token)
        return i

    def extended(
        self, tokens: list[str], *, around: tuple[str, str, str] | None = None, kept: Mapping[str, Any] | None = None
    ) -> "Tokenizer":
        """Return a tokenizer with more special tokens, which no text can contain.

        Args:
            tokens: added at the end of the vocabulary; those that are there stay as they are.
            around: what transformers is to put before a text, between two and after them; here texts stay bare.
            kept: further keys of tokenizer_config.json.
        """
        inner = tokenizers.Tokenizer.from_str(self._inner.to_str())
        inner.add_special_tokens(tokens)
        if around is not None:
            start, between, end = around
            inner.post_processor = tokenizers.processors.TemplateProcessing(
                single=[start, "$A", end],
                pair=[start, "$A", between, "$B", end],
                special_tokens=[(token, inner.token_to_id(token)) for token in dict.fromkeys(around)],
            )
        return Tokenizer(inner, eot=self.eot, unk=self.unk, kept={**self._kept, **(kept or {})})

    def bpe_facts(self) -> "BpeFacts | None":
        """Return what byte-level BPE is made of, or None for other kinds."""
        from firstlight.tokenizer.merges import bpe_facts  # for other formats only

        return bpe_facts(self._json)

    @property
    def chat_template(self) -> str | None:
        """The template that makes one text of a conversation, where tokenizer_config.json has one."""
        found = self._kept.get("chat_template")
        return None if found is None else str(found)

    def tokens(self) -> list[str]:
        """Return each id's token as it is written in tokenizer.json; empty for an unused id."""
        return [self._inner.id_to_token(i) or "" for i in range(self.vocab_size)]

    def split_point(self, text: str) -> int:
        """Return an i, near the end, at which ids(text[:i]) + ids(text[i:] + more) = ids(text + more) for any more.

        It is 0 where no place is sure.
        """
        return len(text) if self.kind in ("byte", "char") else self._cutter(text)

    def save(self, directory: Path, *, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them.

        Raises:
            StorageError: the disk is full or read-only.
        """
        before = self._json.get("pre_tokenizer") or {}
        config: dict[str, Any] = {
            # transformers 5 would otherwise rebuild a family's own tokenizer and get others wrong.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.eot,
            **self._kept,
            "eos_token": self.eot,
            **({"unk_token": self.unk} if self.unk is not None else {}),
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": bool(before.get("add_prefix_space")),
            **({"model_max_length": model_max_length} if model_max_length else {}),
        }
        write_atomic(directory / "tokenizer.json", self._inner.to_str(pretty=True) + "\n")
        write_atomic(directory / "tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        return tokenizer_json.token_bytes(self._json, self.tokens())

    @cached_property
    def _byte_ids(self) -> np.ndarray:
        vocabulary = self._json["model"]["vocab"]
        return np.array([vocabulary[tokenizer_json.byte_characters()[b]] for b in range(256)], dtype=np.int32)

    @cached_property
    def _code_points(self) -> np.ndarray:
        model = self._json["model"]
        special = {t["content"] for t in self._json["added_tokens"]}
        points = np.full(0x110000, model["vocab"][model["unk_token"]], dtype=np.int32)
        for token, i in model["vocab"].items():
            if token not in special:
                points[ord(token)] = i
        return points

    @cached_property
    def _cutter(self) -> "Cutter":
        from firstlight.tokenizer.split_points import Cutter  # for texts that come in pieces

        return Cutter(self._inner, tokenizer_json.added_text(self._json))

    @cached_property
    def _fast(self) -> FastEncoder | None:
        if self.kind != "bpe":
            return None
        added = [f"x {t['content']}y{t['content']}" for t in self._json["added_tokens"]]
        return FastEncoder.load(self._json, self._reference, added)


def _joined(parts: list[np.ndarray]) -> Encoded:
    counts = np.array([len(p) for p in parts], dtype=np.int64)
    flat = np.concatenate(parts) if parts else np.zeros(0)
    return flat.astype(np.int32, copy=False), counts
