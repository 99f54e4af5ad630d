"""Open a corpus of ids or images as sources of a token store. Loads no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from firstlight.corpus import (
    Corpus,
    CorpusSettings,
    IdSettings,
    Images,
    ImageSettings,
    Source,
    Tally,
    open_ids,
    open_images,
)
from firstlight.errors import CompatibilityError, ConfigError
from firstlight.store import SourceLike
from firstlight.tokenizer import Codec, IdCodec, PixelCodec, fit_palette
from firstlight.types import Document

_PALETTE_IMAGES = 1000  # images to fit a palette to
_PALETTE_PIXELS = 1 << 18


@dataclass(slots=True)
class ImageIdSource:
    """The images of one source, encoded as ids.

    Attributes:
        name: as the user specified it.
        n_bytes: approximate number of ids, for progress.
    """

    source: Source
    codec: PixelCodec
    name: str
    n_bytes: int

    @property
    def tally(self) -> Tally:
        """What was kept and dropped when the source was last read."""
        return self.source.tally

    @tally.setter
    def tally(self, tally: Tally) -> None:
        self.source.tally = tally

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why files in a folder were skipped -> how many."""
        return self.source.skipped

    def fingerprint(self) -> str:
        """Hash the images; the store compares the codec separately."""
        return self.source.fingerprint()

    def documents(self) -> Iterator[Document]:
        """Yield one document per image: its class, then its pixels."""
        for document in self.source.documents():
            yield replace(document, content=encode_image(document, self.codec))


@dataclass(frozen=True, slots=True)
class OpenedSequences:
    """An opened corpus of ids or images.

    Attributes:
        codec: the meaning of the ids.
        sources: of documents of ids.
        corpus: the underlying corpus, with the tally of what it drops.
        classes: of its images; empty where they have none.
    """

    codec: Codec
    sources: Sequence[SourceLike]
    corpus: Corpus
    classes: tuple[str, ...] = ()


def encode_image(document: Document, codec: PixelCodec) -> np.ndarray:
    """Encode an image as ids (1 + P,) int32: its class, then its pixels."""
    assert isinstance(document.content, np.ndarray)
    class_id = codec.class_id(document.meta.get("label"))
    return np.concatenate([[class_id], codec.encode(document.content)]).astype(np.int32)


def open_sequences(
    kind: Literal["ids", "images"],
    names: Sequence[str],
    reading: CorpusSettings,
    ids: IdSettings,
    image: ImageSettings,
    *,
    seed: int = 1337,
    codec: Codec | None = None,
    separate: bool = False,
) -> OpenedSequences:
    """Open a corpus of ids or images, and determine its codec.

    Args:
        kind: of the corpus.
        names: files, folders or globs.
        reading: settings of reading, as for texts.
        ids: settings of ids.
        image: settings of images.
        seed: of a palette.
        codec: of the model that reads the corpus, if any; it is used instead of a new one.
        separate: a source for each name; otherwise their files are one source.

    Raises:
        CompatibilityError: that model is of another kind.
    """
    if codec is not None and isinstance(codec, PixelCodec) != (kind == "images"):
        raise CompatibilityError("the model is one of another kind", found=codec.FILE, expected=kind)
    if kind == "ids":
        if isinstance(codec, IdCodec):
            ids = ids.model_copy(update={"vocab_size": codec.n_ids})
        corpus = open_ids(names, ids, reading, separate=separate)
        return OpenedSequences(IdCodec(ids.vocab_size or 0), corpus.sources, corpus)
    if isinstance(codec, PixelCodec):
        image = image.model_copy(update={"size": codec.size, "colors": "palette" if codec.palette else "grey"})
    images = open_images(names, image, reading, separate=separate)
    if not isinstance(codec, PixelCodec):
        _check_used(images, image)
    pixel_codec = codec if isinstance(codec, PixelCodec) else _fit_codec(images, image, seed)
    sources = [
        ImageIdSource(source, pixel_codec, source.name, count * pixel_codec.sequence_length)
        for source, count in zip(images.corpus.sources, images.counts, strict=True)
    ]
    return OpenedSequences(pixel_codec, sources, images.corpus, images.classes)


def _check_used(images: Images, settings: ImageSettings) -> None:
    """Refuse the number of the other kind of values; run.toml has the default of both.

    Raises:
        ConfigError: it is set to another value than its default.
    """
    name, why, other = "palette", "colours, but the first image is grey", "palette"
    if images.colored:
        name, why, other = "levels", "grey images, but the first image has colours", "grey"
    value = getattr(settings, name)
    if value != ImageSettings.model_fields[name].default:
        fix = f"Leave it out, or set image.colors={other}."
        raise ConfigError(f"applies to {why}", where=f"image.{name}", found=value, fix=fix)


def _fit_codec(images: Images, settings: ImageSettings, seed: int) -> PixelCodec:
    """Create the codec of images: grey levels, or a palette fitted to a sample of their pixels."""
    if not images.colored:
        return PixelCodec(images.size, settings.levels, (), images.classes)
    every = max(1, sum(images.counts) // _PALETTE_IMAGES)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images.sample(every)])
    if len(pixels) > _PALETTE_PIXELS:
        pixels = pixels[np.random.default_rng(seed).choice(len(pixels), _PALETTE_PIXELS, replace=False)]
    return PixelCodec(images.size, 0, fit_palette(pixels, settings.palette, seed), images.classes)
