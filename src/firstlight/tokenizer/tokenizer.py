"""The tokenizer: encodes text to ids and decodes ids to text, over the tokenizers library, with equivalent fast paths.

Special tokens in a user's text are plain text: ``<|endoftext|>`` is encoded as thirteen characters, never as the token.
Lone surrogates, which Python strings can hold and UTF-8 cannot, are encoded as U+FFFD.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import write_atomic
from firstlight.tokenizer import tokenizer_json
from firstlight.tokenizer.added_tokens import NewToken, add_tokens
from firstlight.tokenizer.characters import CharacterEncoder
from firstlight.tokenizer.counted import CHUNK_CHARACTERS, CountingEncoder, concatenate
from firstlight.tokenizer.fast_encoder import EncodedBatch, FastEncoder, chunks
from firstlight.tokenizer.merges import BpeComponents, bpe_components
from firstlight.tokenizer.split_points import SplitPointFinder
from firstlight.tokenizer.stream import StreamDecoder
from firstlight.tokenizer.unknown import TextBytes
from firstlight.tokenizer.untrusted import check_ids, library_errors
from firstlight.types import EncodedTexts, UnknownText

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"

_SURROGATES = re.compile("[\ud800-\udfff]")
_Encoded = TypeVar("_Encoded", EncodedBatch, EncodedTexts)


def without_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


class Tokenizer:
    """A loaded or trained tokenizer.

    Args:
        inner: the tokenizers library's object.
        eot: the end-of-text token.
        unk: the unknown token, or None.
        extra_config: keys of tokenizer_config.json to save with it again, such as a chat template.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, *, eot: str, unk: str | None, extra_config: Mapping[str, Any] | None = None
    ) -> None:
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        if getattr(inner.model, "dropout", None):
            # BPE dropout is a training-time augmentation; here a text must always get the same ids.
            inner.model.dropout = None
        ids = inner.get_vocab(with_added_tokens=True)
        check_ids(ids, "the tokenizer")  # before the library writes every id up to the highest
        self._inner = inner
        self._json: dict[str, Any] = json.loads(inner.to_str())
        self._extra_config = dict(extra_config or {})
        self._warned = False
        self.eot, self.unk = eot, unk
        self.eot_id: int = ids[eot]
        self.unk_id: int | None = None if unk is None else ids[unk]
        # A few ids below the highest one may be unused.
        self._size = max(ids.values()) + 1
        self.kind: tokenizer_json.Kind = tokenizer_json.detect_kind(self._json)

    @property
    def pad_id(self) -> int | None:
        """The id of the padding token that tokenizer_config.json names, or None."""
        name = self._extra_config.get("pad_token")
        return None if name is None else self.token_to_id(str(name))

    @cached_property
    def bos_id(self) -> int | None:
        """The id of the beginning-of-text token that transformers prepends to every text, or None.

        Models trained that way need it before a prompt; ``encode`` never adds it.
        """
        name = tokenizer_json.prepended_token(self._json.get("post_processor"))
        return None if name is None else self.token_to_id(name)

    @cached_property
    def template_start_id(self) -> int | None:
        """The id of the token that transformers puts before a text, whatever it puts after it; or None."""
        name = tokenizer_json.template_start(self._json.get("post_processor"))
        return None if name is None else self.token_to_id(name)

    @property
    def start_id(self) -> int:
        """The id that precedes the first token of a text: beginning-of-text, else end-of-text of the text before."""
        return self.eot_id if self.bos_id is None else self.bos_id

    @property
    def named_bos_id(self) -> int | None:
        """The id of the beginning-of-text token that tokenizer_config.json names, prepended or not; or None."""
        name = self._extra_config.get("bos_token")
        return self.bos_id if name is None else self.token_to_id(str(name))

    @property
    def definition(self) -> dict[str, Any]:
        """The parsed tokenizer.json."""
        return self._json

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; a few ids may be unused."""
        return self._size

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that determines the ids of a text."""
        keys = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        table = tokenizer_json.drop_defaults({k: self._json.get(k) for k in keys}) | {"eot": self.eot}
        return hashlib.sha256(json.dumps(table, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    @cached_property
    def lossless(self) -> bool:
        """Whether decoding restores every text exactly."""
        return tokenizer_json.is_lossless(self._json)

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special tokens."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: list[str]) -> EncodedBatch:
        """Encode texts: the ids of all texts concatenated (int32), and the number of ids of each text (int64)."""
        return self._without_surrogates(self._encode, texts)

    def encode_counted(self, texts: list[str]) -> EncodedTexts:
        """Encode texts as ``encode_batch`` does, and count what is unknown in them."""
        return self._without_surrogates(self._counting, texts)

    def count_unknown(self, texts: list[str]) -> UnknownText:
        """Count what is unknown in texts."""
        return self.encode_counted(texts).unknown if self.has_unknown else UnknownText()

    @property
    def unknown_id(self) -> int | None:
        """The id that text outside the vocabulary gets; None where all text has tokens, or such text gets no id.

        It may differ from ``unk_id``, which is the token that is named so: that of GPT-2 is end-of-text.
        """
        return self._counting.unknown_id

    @property
    def has_unknown(self) -> bool:
        """Whether there may be text that the tokenizer has no tokens for."""
        return self._counting.has_unknown

    def _without_surrogates(self, encode: Callable[[list[str]], _Encoded], texts: list[str]) -> _Encoded:
        """Encode texts, of which lone surrogates are encoded as U+FFFD."""
        try:
            return encode(texts)
        except (UnicodeEncodeError, TypeError):
            cleaned = [without_surrogates(text) for text in texts]
            if cleaned == texts:
                raise
            if not self._warned:
                progress.notice("the text has lone surrogates, which are not characters: encoded as U+FFFD")
                self._warned = True
            return encode(cleaned)

    def _encode(self, texts: list[str]) -> EncodedBatch:
        if self.kind == "byte":
            return concatenate([self._byte_ids[np.frombuffer(t.encode("utf-8"), dtype=np.uint8)] for t in texts])
        if self.kind == "char":
            return concatenate([self._encode_characters(text) for text in texts])
        fast = self._fast(texts) if self._fast is not None and self._fast.trusted else None
        return self._encode_with_tokenizers(texts) if fast is None else fast

    def _encode_with_tokenizers(self, texts: list[str]) -> EncodedBatch:
        parts: list[np.ndarray] = []
        for chunk in chunks(texts, CHUNK_CHARACTERS):
            with library_errors("cannot encode this text"):
                encoded = self._inner.encode_batch_fast(chunk, add_special_tokens=False)
            parts += [np.array(e.ids, dtype=np.int32) for e in encoded]
        return concatenate(parts)

    def decode(self, ids: list[int] | np.ndarray) -> str:
        """Decode ids to text; special tokens are skipped, invalid UTF-8 becomes U+FFFD.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        if self._token_bytes is not None:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        numbers = self._validate(ids)
        with library_errors("cannot decode these ids"):
            return str(self._inner.decode(numbers, skip_special_tokens=True))

    def decode_bytes(self, ids: list[int] | np.ndarray) -> bytes:
        """Decode ids to bytes.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        if self._token_bytes is not None:
            return b"".join([self._token_bytes[i] for i in self._validate(ids)])
        return self.decode(ids).encode("utf-8")

    def _validate(self, ids: list[int] | np.ndarray) -> list[int]:
        """Convert ids to a list of int, all inside the vocabulary."""
        numbers: list[int] = np.asarray(ids, dtype=np.int64).reshape(-1).tolist()
        if numbers and not (min(numbers) >= 0 and max(numbers) < self.vocab_size):
            bad = next(i for i in numbers if not 0 <= i < self.vocab_size)
            raise TokenizerError("id outside the vocabulary", found=bad, expected=f"0 to {self.vocab_size - 1}")
        return numbers

    def stream_decoder(self) -> StreamDecoder:
        """Create a decoder that takes ids one by one."""
        tokens = self.tokens()
        fallback = bool(self._json["model"].get("byte_fallback"))

        def byte_of(i: int) -> int | None:
            is_byte = fallback and 0 <= i < len(tokens) and tokenizer_json.is_byte_token(tokens[i])
            return int(tokens[i][1:-1], 16) if is_byte else None

        to_bytes = self.decode_bytes if self._token_bytes is not None else None
        return StreamDecoder(to_bytes, self.decode, byte_of, tokenizer_json.special_ids(self._json))

    def byte_lengths(self) -> np.ndarray:
        """Compute the number of UTF-8 bytes of text of each id: (V,) int32; 0 for special tokens.

        For a lossless tokenizer the lengths of a text's ids add up to that of the text; for others, approximately.
        """
        return np.array([len(data) for data in self.token_bytes()], dtype=np.int32)

    def character_lengths(self) -> np.ndarray:
        """Compute the number of characters of text of each id: (V,) int32; 0 for special tokens.

        A character that is split between tokens counts where it begins. As exact as ``byte_lengths``.
        """
        return np.array([tokenizer_json.count_characters(data) for data in self.token_bytes()], dtype=np.int32)

    def token_texts(self) -> list[str]:
        r"""List the text of every id, for people: special tokens by name, parts of a character as ``\xe4``."""
        names = self.tokens()
        texts = (text.decode("utf-8", "backslashreplace") for text in self.token_bytes())
        return [text or name for text, name in zip(texts, names, strict=True)]

    def token_bytes(self) -> list[bytes]:
        """List the text of every id in UTF-8, empty for special tokens; as exact as ``byte_lengths``."""
        if self._token_bytes is not None:
            return self._token_bytes
        return tokenizer_json.estimate_token_bytes(self._json, self.tokens())

    def text_bytes(self, unknown: UnknownText, n_tokens: int) -> TextBytes | None:
        """Compute the text of each id in a text of which ``unknown`` is unknown; see ``TextBytes.of``."""
        return TextBytes.of(
            self.byte_lengths(),
            self.character_lengths(),
            self.unknown_id,
            unknown,
            n_tokens,
            one_character=self.kind == "char",
        )

    def token_to_id(self, token: str) -> int | None:
        """Look up the id of a token, as it is written in tokenizer.json; None if there is no such token."""
        i: int | None = self._inner.token_to_id(token)
        return i

    def with_special_tokens(
        self,
        tokens: list[str],
        *,
        above: int = -1,
        template: tuple[str, str, str] | None = None,
        bos: str | None = None,
        extra_config: Mapping[str, Any] | None = None,
    ) -> "Tokenizer":
        """Create a tokenizer with further special tokens, which never match text.

        Args:
            tokens: with ids above the highest in use; tokens that the vocabulary has keep their ids.
            above: an id that is in use although the vocabulary has no token for it, as are all below.
            template: tokens that transformers adds before a text, between two texts, and at the end; ``encode`` here
                never adds them.
            bos: instead of ``template``, the token that transformers adds before a text, which becomes ``bos_id``.
            extra_config: further keys of tokenizer_config.json.
        """
        inner = add_tokens(self._inner, [NewToken(token) for token in tokens], above=above)
        if template is not None:
            start, between, end = template
            inner.post_processor = tokenizers.processors.TemplateProcessing(
                single=[start, "$A", end],
                pair=[start, "$A", between, "$B", end],
                special_tokens=[(token, inner.token_to_id(token)) for token in dict.fromkeys(template)],
            )
        elif bos is not None:
            inner.post_processor = tokenizers.processors.TemplateProcessing(
                single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, inner.token_to_id(bos))]
            )
        return Tokenizer(inner, eot=self.eot, unk=self.unk, extra_config={**self._extra_config, **(extra_config or {})})

    @cached_property
    def after_special(self) -> "Tokenizer":
        """The tokenizer of text that follows a special token: with some, only the start of all text gets a space."""
        definition = tokenizer_json.without_first_space(self._json)
        if definition is None:
            return self
        inner = tokenizers.Tokenizer.from_str(json.dumps(definition))
        return Tokenizer(inner, eot=self.eot, unk=self.unk, extra_config=self._extra_config)

    def bpe_components(self) -> BpeComponents | None:
        """Extract merges and split patterns of byte-level BPE; None for other kinds."""
        return bpe_components(self._json)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that renders a conversation as one text; the default one of several; or None."""
        return self.chat_templates.get("default")

    @property
    def chat_templates(self) -> dict[str, str]:
        """The chat templates by name."""
        template = self._extra_config.get("chat_template")
        return {} if template is None else {"default": template} if isinstance(template, str) else dict(template)

    def tokens(self) -> list[str]:
        """List the token of every id, as it is written in tokenizer.json; empty for an unused id."""
        return [self._inner.id_to_token(i) or "" for i in range(self.vocab_size)]

    def split_point(self, text: str) -> int:
        """Find a late i for which encode(text[:i]) + encode(text[i:] + more) = encode(text + more) for any ``more``.

        Returns 0 where no such position is certain.
        """
        return len(text) if self.kind in ("byte", "char") else self._split_points(text)

    def save(self, directory: Path, *, model_max_length: int | None = None, pads: bool = False) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them.

        Args:
            directory: created if missing.
            model_max_length: tokens that the model can attend to.
            pads: where no padding token is named, name end-of-text, at the left: with it transformers generates for
                several prompts at once. What is padded is masked, so it changes no result.

        Raises:
            StorageError: the disk is full or read-only.
        """
        pre_tokenizer = self._json.get("pre_tokenizer") or {}
        config: dict[str, Any] = {
            # Otherwise transformers 5 rebuilds the model family's own tokenizer class, which gives other ids for some.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.eot,
            "clean_up_tokenization_spaces": False,
            **({"pad_token": self.eot, "padding_side": "left"} if pads and self.pad_id is None else {}),
            **self._extra_config,
            **self._saved_templates(),
            "eos_token": self.eot,
            **({"unk_token": self.unk} if self.unk is not None else {}),
            "add_prefix_space": bool(pre_tokenizer.get("add_prefix_space")),
            **({"model_max_length": model_max_length} if model_max_length else {}),
        }
        config = {key: value for key, value in config.items() if value is not None}
        for key in ("pad_token", "padding_side"):  # in one place, whether they were named or not
            config.update({key: config.pop(key)} if key in config else {})
        write_atomic(directory / "tokenizer.json", self._inner.to_str(pretty=True) + "\n")
        write_atomic(directory / "tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")

    def _saved_templates(self) -> dict[str, Any]:
        """Return the chat templates as tokenizer_config.json has them: a text, or a list of names and templates."""
        templates = self.chat_templates
        if not templates:
            return {}
        listed = [{"name": name, "template": template} for name, template in templates.items()]
        return {"chat_template": templates["default"] if list(templates) == ["default"] else listed}

    @cached_property
    def _token_bytes(self) -> list[bytes] | None:
        return tokenizer_json.token_bytes(self._json, self.tokens())

    @cached_property
    def _byte_ids(self) -> np.ndarray:
        vocabulary = self._json["model"]["vocab"]
        return np.array([vocabulary[tokenizer_json.bytes_to_unicode()[b]] for b in range(256)], dtype=np.int32)

    @cached_property
    def _encode_characters(self) -> CharacterEncoder:
        return CharacterEncoder(self._json)

    @cached_property
    def _counting(self) -> CountingEncoder:
        return CountingEncoder(self._json, self._inner, lambda texts: self._encode(texts), self.eot_id)

    @cached_property
    def _split_points(self) -> SplitPointFinder:
        return SplitPointFinder(self._inner, tokenizer_json.non_special_tokens(self._json))

    @cached_property
    def _fast(self) -> FastEncoder | None:
        if self.kind != "bpe":
            return None
        added = [f"x {t['content']}y{t['content']}" for t in self._json["added_tokens"]]
        return FastEncoder.load(self._json, self._encode_with_tokenizers, added)
