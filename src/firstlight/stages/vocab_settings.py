"""What the settings of a run say about its tokenizer or codec, and which of them apply to a corpus of its kind."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

from firstlight.config import Settings
from firstlight.corpus import (
    IdSettings,
    ImageSettings,
    Kind,
    TrainingCorpusSettings,
    are_arrays,
    infer_kind,
    unused_by_readers,
)
from firstlight.errors import CompatibilityError, UsageError
from firstlight.tokenizer import Codec, IdCodec, PixelCodec, Tokenizer, TokenizerSettings

_TABLES: dict[str, Kind] = {"tokenizer": "text", "ids": "ids", "image": "images"}
# Of [corpus]: what only readers of text obey.
_TEXT_ONLY = (
    "text_field",
    "delimiter",
    "quotes",
    "text_split",
    "encoding",
    "on_bad_bytes",
    "newlines",
    "max_download_bytes",
)


class VocabTables(Protocol):
    """The tables of settings about a tokenizer or codec."""

    @property
    def tokenizer(self) -> TokenizerSettings:
        """Of text."""
        ...

    @property
    def ids(self) -> IdSettings:
        """Of pre-tokenized data."""
        ...

    @property
    def image(self) -> ImageSettings:
        """Of images."""
        ...


def kind_of(vocab: Tokenizer | Codec) -> Kind:
    """Return the kind of corpus that a tokenizer or codec is of."""
    if isinstance(vocab, Tokenizer):
        return "text"
    return "images" if isinstance(vocab, PixelCodec) else "ids"


def unused_of_kind(kind: Kind) -> dict[str, str]:
    """Return the settings that have no effect on a corpus of this kind, and why, as ``Settings.unused_settings``."""
    unused = {
        table: f"applies to a corpus of {needs}, but this corpus is {kind}"
        for table, needs in _TABLES.items()
        if kind != needs
    }
    if kind != "text":
        why = f"applies to a corpus of text, but this corpus is {kind}"
        unused |= {f"corpus.{name}": why for name in _TEXT_ONLY} | {"train.sample_prompt": why}
    if kind == "images":
        unused["train.sample_tokens"] = "applies to text and ids: a sample is ten whole images"
    return unused


def unused_for_corpus(names: Sequence[str], corpus: TrainingCorpusSettings, ids: IdSettings) -> dict[str, str]:
    """Return the settings that have no effect on these files, as ``unused_of_kind``.

    Args:
        names: of the corpus.
        corpus: how it is read, and its validation text.
        ids: of pre-tokenized data.
    """
    kind, names = infer_kind(names, corpus), [*names, *corpus.valid]
    unused = unused_of_kind(kind)
    if kind == "text":
        unused |= unused_by_readers(names, corpus)
    if kind == "ids" and ids.dtype != IdSettings().dtype and are_arrays(names, corpus):
        unused["ids.dtype"] = "applies to .bin files; .npy files have their own type"
    return unused


def check_vocab(settings: VocabTables, vocab: Tokenizer | Codec, owner: str) -> None:
    """Check what is set about a tokenizer or codec that was made before: settings cannot change it.

    Args:
        settings: of the run; only what was set is compared.
        vocab: the tokenizer or codec.
        owner: whose it is, for messages: "the model to start from".

    Raises:
        CompatibilityError: it is another one than the settings say.
        UsageError: settings of another kind.
    """
    kind = kind_of(vocab)
    for table, needs in _TABLES.items():
        given: Settings = getattr(settings, table)
        name = next(iter(given.model_fields_set - {"path"}), None)
        if kind != needs and name is not None:
            raise UsageError(
                f"applies to {needs}, but {owner} is of {kind}", where=f"{table}.{name}", fix="Leave it out."
            )
    if isinstance(vocab, PixelCodec):
        name = "levels" if vocab.palette else "palette"
        value = getattr(settings.image, name)
        if value != ImageSettings.model_fields[name].default:  # that of both is in a run.toml
            kind_of_values = "a palette" if vocab.palette else "levels of grey"
            raise UsageError(
                f"has no effect, since {owner} has {kind_of_values}",
                where=f"image.{name}",
                found=value,
                fix="Leave it out.",
            )
    for table, values in _stated(vocab).items():
        given = getattr(settings, table)
        for name, actual in values.items():
            value = getattr(given, name)
            if name in given.model_fields_set and value != actual:
                raise CompatibilityError(
                    f"differs from that of {owner}",
                    where=f"{table}.{name}",
                    found=value,
                    expected=actual,
                    fix="Leave it out.",
                )


def state_vocab(tables: Mapping[str, Settings], vocab: Tokenizer | Codec) -> dict[str, Settings]:
    """Return tables of settings completed with what they can say about a tokenizer or codec, by name."""
    stated = _stated(vocab)
    return {name: table.model_copy(update=stated.get(name, {})) for name, table in tables.items()}


def _stated(vocab: Tokenizer | Codec) -> dict[str, dict[str, Any]]:
    """Return the settings that a tokenizer or codec has: what run.toml says about one that was not made for the run."""
    if isinstance(vocab, Tokenizer):
        kinds = get_args(TokenizerSettings.model_fields["kind"].annotation)
        return {"tokenizer": {"kind": vocab.kind}} if vocab.kind in kinds else {}
    if isinstance(vocab, IdCodec):
        return {"ids": {"vocab_size": vocab.n_ids}}
    if vocab.palette:
        return {"image": {"size": vocab.size, "colors": "palette", "palette": len(vocab.palette)}}
    return {"image": {"size": vocab.size, "colors": "grey", "levels": vocab.levels}}
