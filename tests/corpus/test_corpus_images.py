"""Images: every form brought to one size and colour, classes from folders and labels, damage told in one line."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from arrays import idx, little_memory, mnist, png

from firstlight import progress
from firstlight.corpus import CorpusSettings, Images, ImageSettings, open_images
from firstlight.corpus.image_ops import center_crop_resize, read_image
from firstlight.errors import CorpusError, UsageError


def opened(*names: object, **settings: object) -> Images:
    return open_images([str(n) for n in names], ImageSettings.model_validate(settings), CorpusSettings())


def pixels(found: Images) -> np.ndarray:
    return np.stack([np.asarray(document.content) for document in found.corpus])


def test_mnist_is_read_with_its_labels_and_own_size(tmp_path: Path):
    found = opened(mnist(tmp_path, 30))
    assert (found.size, found.colored, found.classes, found.counts) == (6, False, ("0", "1", "2"), [30])
    documents = list(found.corpus)
    assert [d.source for d in documents[:2]] == [f"{tmp_path}/train-images-idx3-ubyte.gz:{i}" for i in (0, 1)]
    for document in documents:
        rows = np.asarray(document.content).astype(int)
        bright = {"0": rows[:3], "1": rows[3:], "2": rows}[document.meta["label"]]
        assert bright.min() >= 150
    assert pixels(found).dtype == np.uint8
    assert opened(tmp_path / "train-images-idx3-ubyte.gz", labels="none").classes == ()


def test_arrays_of_numpy_and_their_labels(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    assert opened(tmp_path / "a.npy").classes == ()
    assert np.array_equal(pixels(opened(tmp_path / "a.npy")), images)
    np.save(tmp_path / "a-labels.npy", np.array([10, 9, 9, 2, 10]))
    found = opened(tmp_path / "a.npy", colors="grey")
    assert found.classes == ("2", "9", "10")
    wanted = np.rint(images @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert np.array_equal(pixels(found), wanted)
    (tmp_path / "other").write_bytes(idx(np.array([1, 1, 1, 0, 0])))
    assert opened(tmp_path / "a.npy", labels=str(tmp_path / "other")).classes == ("0", "1")
    assert (
        opened(tmp_path / "a.npy", labels="none").corpus.sources[0].fingerprint()
        != found.corpus.sources[0].fingerprint()
    )


def test_folders_of_pictures_are_classes(tmp_path: Path):
    png(tmp_path / "pets/cat/1.png", np.full((8, 6, 3), 200))
    png(tmp_path / "pets/dog/deep/2.jpg", np.full((9, 9, 3), 90))
    (tmp_path / "pets/.hidden").mkdir()
    png(tmp_path / "pets/.hidden/3.png", np.zeros((3, 3, 3)))
    found = opened(tmp_path / "pets", size=4)
    assert (found.classes, found.size, found.colored, found.counts) == (("cat", "dog"), 4, True, [2])
    assert [d.meta["label"] for d in found.corpus] == ["cat", "dog"]
    assert np.abs(pixels(found).astype(int) - np.array([200, 90])[:, None, None, None]).max() <= 2
    assert opened(tmp_path / "pets").size == 32
    assert opened(tmp_path / "pets", labels="none").classes == ()
    assert opened(f"{tmp_path}/pets/*/*.png").classes == ()
    png(tmp_path / "pets/4.png", np.zeros((3, 3, 3)))
    with pytest.raises(CorpusError, match="4.png: is next to the folders of the classes"):
        opened(tmp_path / "pets")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_of_a_picture(tmp_path: Path, mode: str):
    path = png(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), np.full((4, 4, 3), 255), mode)
    found = read_image(path)
    assert found.dtype == np.uint8
    assert found.shape == ((4, 4) if mode in ("1", "L") else (4, 4, 3))
    assert found.min() >= 250


def test_transparent_is_white_sixteen_bits_are_eight_and_cameras_are_turned(tmp_path: Path):
    from PIL import Image

    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").min() == 255
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[156, 156], [156, 156]]
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(np.zeros((2, 5), np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    assert read_image(tmp_path / "turned.jpg").shape == (5, 2)


@pytest.mark.parametrize(("side", "size"), [(4, 2), (6, 4), (5, 3), (2, 4), (3, 3), (7, 1)])
def test_areas_are_averaged(side: int, size: int):
    image = np.random.default_rng(1).integers(0, 256, (side, side + 2)).astype(np.uint8)
    square = image[:, 1:-1].astype(float)
    fine = square.repeat(size, 0).repeat(size, 1)  # each new pixel is side × side of these
    wanted = fine.reshape(size, side, size, side).mean((1, 3))
    assert np.abs(center_crop_resize(image, size) - wanted).max() <= 0.51
    colored = np.repeat(image[:, :, None], 3, 2)
    assert np.array_equal(center_crop_resize(colored, size)[:, :, 1], center_crop_resize(image, size))


def test_what_does_not_fit_together(tmp_path: Path):
    mnist(tmp_path / "a", 20, size=6)
    mnist(tmp_path / "b", 20, size=8)
    name = "train-images-idx3-ubyte.gz"
    with pytest.raises(UsageError, match="image.size: images have several sizes"):
        opened(tmp_path / "a" / name, tmp_path / "b" / name)
    assert opened(tmp_path / "a" / name, tmp_path / "b" / name, size=6).counts == [20, 20]
    (tmp_path / "b" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match="has images without a class, others have one"):
        opened(tmp_path / "a" / name, tmp_path / "b" / name, size=6)
    with pytest.raises(UsageError, match="image.labels: no such file"):
        opened(tmp_path / "a" / name, labels="nothere")
    with pytest.raises(UsageError, match="is for one source"):
        opened(tmp_path / "a" / name, tmp_path / "b" / name, labels="x")
    (tmp_path / "short").write_bytes(idx(np.zeros(19)))
    with pytest.raises(CorpusError, match="not hold the labels of these images .found shape .19,. .*20 integers"):
        opened(tmp_path / "a" / name, labels=str(tmp_path / "short"))
    with pytest.raises(CorpusError, match="does not hold images .*It looks like labels"):
        opened(tmp_path / "a" / "train-labels-idx1-ubyte.gz")
    np.save(tmp_path / "f.npy", np.zeros((3, 4, 4)))
    with pytest.raises(CorpusError, match="3 × 4 × 4 numbers of type float64; expected .*uint8"):
        opened(tmp_path / "f.npy")


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


HOSTILE = {
    "a bomb.png": png_of(60_000, 60_000),
    "a larger bomb.png": png_of(2**31 - 1, 2**31 - 1),
    "cut.png": png_of(200, 200)[:60],
    "short of pixels.png": png_of(4000, 4000),
    "no picture.png": b"not a picture",
    "empty.jpg": b"",
    "count-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**14, 2**14),
    "side-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, 1, 2**32 - 1, 2**32 - 1),
    "nothing-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28),
    "cut-idx3-ubyte": struct.pack(">BBBB2I", 0, 0, 8, 3, 5, 28),
    "missing-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 28, 28) + bytes(2000),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_hostile_files_get_one_line_and_no_memory(tmp_path: Path, name: str, packing: str):
    if packing and name.endswith(("png", "jpg")):
        pytest.skip("pictures are packed already")
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(gzip.compress(HOSTILE[name]) if packing else HOSTILE[name])
    with pytest.raises(CorpusError) as caught, little_memory(70):
        list(opened(path, size=8).corpus)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_skipped_by_setting(tmp_path: Path):
    for name, data in (("a", b"\x89PNG\r\n\x1a\n"), ("b", png_of(8, 8)), ("c", b"")):
        (tmp_path / f"{name}.png").write_bytes(data)
    with pytest.raises(CorpusError, match=r"a\.png: is not a readable PNG"):
        open_images([str(tmp_path)], ImageSettings(), CorpusSettings())
    found = open_images([str(tmp_path)], ImageSettings(), CorpusSettings(on_bad_document="skip"))
    assert len(list(found.corpus)) == len(list(found.sample(1))) == 1
    assert found.corpus.tally.dropped == {"unreadable": 2}


@pytest.mark.parametrize("colors", [None, "grey"])
def test_colours_that_are_lost_by_default_are_said(tmp_path: Path, colors: str | None):
    png(tmp_path / "a.png", np.full((4, 4), 9))
    png(tmp_path / "b.png", np.full((4, 4, 3), 9))
    png(tmp_path / "c.png", np.arange(48).reshape(4, 4, 3))
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        pixels(opened(tmp_path, size=4, colors=colors))
    expected = [f"{tmp_path / 'c.png'}: in colour, but read as grey, as the first image is; image.colors=palette reads"]
    assert [text.removesuffix(" the colours") for text in said] == ([] if colors else expected)
