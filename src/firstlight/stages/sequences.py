"""Sequences that are no text become sources of a token store: ids made elsewhere, and images. Loads no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from firstlight.corpus import Corpus, CorpusSettings, IdSettings, Images, ImageSettings, Source, open_ids, open_images
from firstlight.errors import CompatibilityError
from firstlight.store import SourceLike
from firstlight.tokenizer import Codec, IdCodec, PixelCodec, fit_palette
from firstlight.types import Document

_SEEN = 1000  # images in which a palette is looked for
_PIXELS = 1 << 18


@dataclass(slots=True)
class PixelSource:
    """Images of one source as ids.

    Attributes:
        name: as the user gave it.
        n_bytes: how many ids there are, about: what preparing counts.
    """

    source: Source
    pixels: PixelCodec
    name: str
    n_bytes: int

    def fingerprint(self) -> str:
        """Return a hash of the images; what their ids mean is the store's own to compare."""
        return self.source.fingerprint()

    def documents(self) -> Iterator[Document]:
        """Yield a document an image: its class, then its pixels."""
        for document in self.source.documents():
            yield replace(document, content=row_of(document, self.pixels))


@dataclass(frozen=True, slots=True)
class Sequences:
    """A corpus of ids or images.

    Attributes:
        codec: what the ids mean.
        sources: of ids, one a name.
        corpus: what they read from, which counts what it drops.
    """

    codec: Codec
    sources: Sequence[SourceLike]
    corpus: Corpus


def row_of(document: Document, pixels: PixelCodec) -> np.ndarray:
    """Return the ids of an image, that of its class first."""
    assert isinstance(document.content, np.ndarray)
    first = pixels.class_id(document.meta.get("label"))
    return np.concatenate([[first], pixels.encode(document.content)]).astype(np.int32)


def open_sequences(
    kind: Literal["ids", "images"],
    names: Sequence[str],
    reading: CorpusSettings,
    ids: IdSettings,
    image: ImageSettings,
    *,
    seed: int = 1337,
    known: Codec | None = None,
) -> Sequences:
    """Find the sources of a corpus of ids or images, and what their ids mean.

    Args:
        kind: what the corpus is made of.
        names: files, folders or globs.
        reading: as for texts.
        ids: settings of ids.
        image: settings of images.
        seed: of a palette.
        known: what the ids of a model mean that reads these, which is then kept.

    Raises:
        CompatibilityError: that model is of another kind.
    """
    if known is not None and isinstance(known, PixelCodec) != (kind == "images"):
        raise CompatibilityError("the model is one of another kind", found=known.FILE, expected=kind)
    if kind == "ids":
        corpus = open_ids(names, ids, reading)
        return Sequences(IdCodec(ids.vocab_size or 0), corpus.sources, corpus)
    if isinstance(known, PixelCodec):
        image = image.model_copy(update={"size": known.size, "colors": "palette" if known.palette else "grey"})
    found = open_images(names, image, reading)
    pixels = known if isinstance(known, PixelCodec) else _pixels(found, image, seed)
    sources = zip(found.corpus.sources, found.counts, strict=True)
    made = [PixelSource(source, pixels, source.name, count * pixels.sequence_length) for source, count in sources]
    return Sequences(pixels, made, found.corpus)


def _pixels(found: Images, settings: ImageSettings, seed: int) -> PixelCodec:
    if not found.colored:
        return PixelCodec(found.size, settings.levels, (), found.classes)
    every = max(1, sum(found.counts) // _SEEN)
    seen = np.concatenate([image.reshape(-1, 3) for image in found.sample(every)])
    if len(seen) > _PIXELS:
        seen = seen[np.random.default_rng(seed).choice(len(seen), _PIXELS, replace=False)]
    return PixelCodec(found.size, 0, fit_palette(seen, settings.palette, seed), found.classes)
