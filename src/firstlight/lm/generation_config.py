"""What a model directory says about generation: the ids that begin and end a text, and settings of sampling.

transformers reads generation_config.json, or the same keys of config.json where there is no such file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.errors import CheckpointError
from firstlight.files import read_json_object
from firstlight.tokenizer import Codec, Tokenizer

GENERATION = "generation_config.json"
_BOS, _EOS, _PAD = "bos_token_id", "eos_token_id", "pad_token_id"
_NEW_TOKENS = "max_new_tokens"
_DEFAULT = f"firstlight_{_NEW_TOKENS}"  # the same number, where nobody chose it
_OF_ITS_WRITER = ("transformers_version", "_from_model_config", "_commit_hash")
# Settings of generation here, by their name in transformers.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# Values with which transformers does nothing.
_NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": {},
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "stop_strings": [],
}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """The special ids of config.json, and generation_config.json.

    Attributes:
        ids: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id`` of config.json, where they are there.
        table: generation_config.json, or empty.
    """

    ids: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], vocab_size: int) -> "GenerationConfig":
        """Read what a model directory says; ids that the model does not have are left out.

        Args:
            folder: the directory.
            config: its config.json.
            vocab_size: of the model.

        Raises:
            CheckpointError: generation_config.json is damaged.
        """
        path = folder / GENERATION
        table = read_json_object(path, CheckpointError) if path.is_file() else {}
        table = {key: value for key, value in table.items() if key not in _OF_ITS_WRITER}
        if (default := table.pop(_DEFAULT, None)) is not None and default == table.get(_NEW_TOKENS):
            del table[_NEW_TOKENS]
        keys = (_BOS, _EOS, _PAD)
        return cls(_known({key: config[key] for key in keys if key in config}, vocab_size), _known(table, vocab_size))

    @classmethod
    def of_ids(cls, *, bos: int | None = None, eos: Iterable[int] = ()) -> "GenerationConfig":
        """Build one of the ids of a format that has no settings of generation."""
        ends = list(dict.fromkeys(eos))
        ids = {_BOS: bos, _EOS: ends[0] if len(ends) == 1 else ends}
        return cls({key: value for key, value in ids.items() if value is not None and value != []})

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens at which transformers ends generation."""
        value = self.table.get(_EOS, self.ids.get(_EOS))
        return frozenset(_list(self.ids.get(_EOS) if value is None else value))

    @property
    def sampling(self) -> dict[str, Any]:
        """Defaults of ``GenerateSettings`` that the model's authors chose: of sampling if ``do_sample`` is true."""
        do_sample = self.table.get("do_sample")
        chosen = {key: self.table[key] for key in _SAMPLING if do_sample and self.table.get(key) is not None}
        chosen |= {"temperature": 0.0} if do_sample is False else {}
        return chosen | {key: n for key in (_NEW_TOKENS,) if (n := self.table.get(key)) is not None}

    @property
    def unsupported(self) -> dict[str, Any]:
        """Settings that change what transformers generates and have no effect here."""
        return {k: v for k, neutral in _NEUTRAL.items() if (v := self.table.get(k)) is not None and v != neutral}

    def with_tokenizer(self, old: "Tokenizer | None", new: "Tokenizer | None") -> "GenerationConfig":
        """Return this one for another tokenizer: without ids if their tokens differ."""
        if old is None or new is None or old.tokens() == new.tokens()[: old.vocab_size]:
            return self
        table = {key: value for key, value in self.table.items() if not key.endswith("_token_id")}
        return GenerationConfig({}, table)

    def tables(
        self, vocab: "Tokenizer | Codec | None", vocab_size: int, block_size: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Build the ids of config.json, and generation_config.json.

        Args:
            vocab: of the model; its tokens stand in for ids that are not in the files.
            vocab_size: of the model.
            block_size: of the model.
        """
        # An imported model may lack end-of-text, which then has an id beyond its vocabulary.
        eot = vocab.eot_id if vocab is not None and 0 <= vocab.eot_id < vocab_size else None
        bos = vocab.named_bos_id if isinstance(vocab, Tokenizer) else None
        own = {_BOS: eot if bos is None or bos >= vocab_size else bos, _EOS: eot}
        ids = {**own, **self.ids}
        # Not in config.json, where transformers would not train the embedding of that token.
        pad = (eot if vocab.pad_id is None else vocab.pad_id) if isinstance(vocab, Tokenizer) else None
        padding = {} if pad is None or pad >= vocab_size else {_PAD: ids.get(_PAD, pad)}
        # Without a length pipelines would generate 256 tokens, which may be beyond the block size.
        has_length = "max_length" in self.table or _NEW_TOKENS in self.table
        length = {} if has_length else dict.fromkeys((_NEW_TOKENS, _DEFAULT), max(1, block_size // 2))
        return ids, {**{key: ids[key] for key in own}, **padding, **length, **self.table}


def _list(value: Any) -> list[int]:
    return [i for i in (value if isinstance(value, list) else [value]) if type(i) is int]


def _known(table: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Leave out ids that the model does not have, such as the default ones of a class for a small vocabulary."""
    known: dict[str, Any] = {}
    for key, value in table.items():
        if key.endswith("_token_id"):
            ids = [i for i in _list(value) if 0 <= i < vocab_size]
            if ids:
                known[key] = ids if isinstance(value, list) else ids[0]
        else:
            known[key] = value
    return known
