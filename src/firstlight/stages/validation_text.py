"""The validation text of a run: a part of the corpus, or files of its own (``corpus.valid``, ``--valid``)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from firstlight.config import merge
from firstlight.corpus import (
    Corpus,
    ImageSettings,
    Kind,
    TrainingCorpusSettings,
    check_disjoint,
    digests_of,
    infer_kind,
)
from firstlight.errors import UsageError
from firstlight.types import Paths, as_list

_KEY = "corpus.valid"


class ValidTables(Protocol):
    """The tables of settings about a corpus and its validation text."""

    @property
    def corpus(self) -> TrainingCorpusSettings:
        """Reading and cleaning."""
        ...

    @property
    def image(self) -> ImageSettings:
        """Images."""
        ...


def valid_layer(valid: Paths, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the files of the option ``--valid`` into the settings of the command line.

    Raises:
        UsageError: the settings name a validation text too.
    """
    names, table = as_list(valid), overrides.get("corpus")
    if not names:
        return dict(overrides)
    if isinstance(table, Mapping) and "valid" in table:
        raise UsageError("the validation text is named twice", where=f"--valid {_KEY}", fix="Leave one of them out.")
    return merge({"corpus": {"valid": names}}, overrides)


def no_corpus_before(valid: Sequence[str]) -> UsageError:
    """Return the error about ``--valid`` without a corpus before it."""
    return UsageError(
        "no corpus before it",
        where="--valid",
        found=" ".join(valid),
        fix="Name the corpus first: --valid takes every word up to the next option or KEY=VALUE.",
    )


def unused_with_valid(settings: ValidTables) -> dict[str, str]:
    """Return the settings that have no effect where the validation text is named, and why."""
    if not settings.corpus.valid:
        return {}
    return {"data.valid_ratio": "applies to validation text that is a part of the corpus, not to corpus.valid"}


def check_valid_kind(kind: Kind, settings: ValidTables) -> None:
    """Check that the validation text, if there is one, is of the corpus's kind.

    Raises:
        UsageError: it is not, or a file of labels is named, which is of one source.
    """
    names = settings.corpus.valid
    if not names:
        return
    found = infer_kind(names, settings.corpus)
    if found != kind:
        raise UsageError(f"is {found}, but the corpus is {kind}", where=_KEY, found=" ".join(names), expected=kind)
    if kind == "images" and settings.image.labels not in ("auto", "none"):
        raise UsageError(
            "is a file of labels for one source, and corpus.valid is another",
            where="image.labels",
            found=settings.image.labels,
            fix="Name it NAME-labels.npy next to NAME.npy, and leave image.labels out.",
        )


def check_valid_classes(classes: Sequence[str], valid_classes: Sequence[str], names: Sequence[str]) -> None:
    """Check that validation images have a class where those of the corpus have one.

    Raises:
        UsageError: they have none.
    """
    if classes and not valid_classes:
        raise UsageError(
            "images of the corpus have a class, those of the validation text have none",
            where=_KEY,
            found=" ".join(names),
            fix="Name a folder with a folder for each class, or set image.labels=none.",
        )


def reading_valid(settings: ValidTables) -> TrainingCorpusSettings:
    """Return how the validation text is read: as the corpus, but whole, so that losses of different sizes compare."""
    return settings.corpus.model_copy(update={"max_bytes": None})


def hold_out(corpus: Corpus, valid: Corpus) -> None:
    """Make sure that no file or document is in the training and in the validation text, or has two weights.

    Equal documents are found when the corpus is read.

    Raises:
        UsageError: a file is; names both.
        CorpusError: the validation text cannot be read.
    """
    raw = [source.raw for source in corpus.sources]
    check_disjoint(raw, problem="one file has two weights", where="data.weights", fix="Name each file once.")
    check_disjoint(
        [*raw, *(source.raw for source in valid.sources)],
        problem="one file is in the corpus and in the validation text",
        where=_KEY,
        fix="Move it out of the corpus, or name the other files of the corpus.",
    )
    if valid.sources:
        digests = digests_of(valid.sources)
        for source in corpus.sources:
            source.hold_out(digests)
