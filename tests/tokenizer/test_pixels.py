"""Pixels to ids and back, palettes, and what a file may say of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.errors import TokenizerError, UsageError
from firstlight.tokenizer import IdCodec, PixelCodec, fit_palette, load_codec, save_codec
from firstlight.tokenizer.pixels import nearest_colors
from firstlight.types import Encoder, IdVocabulary

ALL = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("levels", [2, 3, 16, 100, 256])
def test_levels_of_grey(levels: int):
    pixels = PixelCodec(16, levels)
    ids = pixels.encode(ALL)
    assert (ids.min(), ids.max(), len(set(ids.tolist()))) == (0, levels - 1, levels)
    assert np.all(np.diff(ids) >= 0)
    back = pixels.decode(ids[None])[0]
    assert back.shape == (16, 16, 3)
    assert np.array_equal(back[..., 0], back[..., 2])
    assert np.abs(back[..., 1].astype(int) - ALL).max() <= 255 / (levels - 1) / 2 + 0.5
    assert np.array_equal(pixels.encode(back[..., 0]), ids)
    if levels == 256:
        assert np.array_equal(back[..., 0], ALL)


def test_rows_are_read_from_left_to_right_and_from_the_top():
    image = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    assert PixelCodec(2, 4).encode(image).tolist() == [0, 3, 2, 1]


def test_a_class_or_the_start_token_comes_first():
    pixels = PixelCodec(4, 16, (), ("cat", "dog"))
    assert (pixels.n_values, pixels.start_id, pixels.vocab_size, pixels.sequence_length, pixels.eot_id) == (
        16,
        16,
        19,
        17,
        -1,
    )
    assert [pixels.class_id(name) for name in ("cat", "dog", None)] == [17, 18, 16]
    assert [pixels.class_name(first) for first in (17, 18, 16)] == ["cat", "dog", ""]
    with pytest.raises(UsageError, match="dgo: is not a class of these images .*Did you mean 'dog'"):
        pixels.class_id("dgo")
    assert PixelCodec(4, 16).class_id("cat") == PixelCodec(4, 16).start_id
    assert pixels.byte_lengths().tolist() == [0] * 19


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_the_nearest_colour_by_squared_distance(palette: list[tuple[int, int, int]], seed: int):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 3)).astype(np.uint8)
    distances = ((pixels[:, None].astype(int) - np.array(palette)[None]) ** 2).sum(-1)
    assert nearest_colors(pixels, palette).tolist() == distances.argmin(1).tolist()


def test_a_palette_is_found_and_comes_back():
    dice = np.random.default_rng(0)
    centres = dice.integers(20, 236, (12, 3))
    pixels = (centres[dice.integers(0, 12, 5000)] + dice.integers(-3, 4, (5000, 3))).astype(np.uint8)
    palette = fit_palette(pixels, 12, seed=1)
    assert palette == fit_palette(pixels, 12, seed=1)
    distances = np.abs(np.array(palette)[:, None] - centres[None]).max(-1)
    assert distances.min(0).max() <= 20
    few = np.array([[1, 2, 3], [1, 2, 3], [9, 9, 9]], dtype=np.uint8)
    assert fit_palette(few, 512, seed=1) == ((1, 2, 3), (9, 9, 9))
    assert len(fit_palette(few[:1], 512, seed=1)) == 2
    coded = PixelCodec(1, 0, ((1, 2, 3), (9, 9, 9)))
    assert coded.decode(coded.encode(few[2:].reshape(1, 1, 3))[None]).tolist() == [[[[9, 9, 9]]]]


@pytest.mark.parametrize(
    "codec",
    [IdCodec(17), PixelCodec(28, 16, (), ("0", "1")), PixelCodec(8, 0, ((0, 0, 0), (9, 8, 7))), PixelCodec(1, 256)],
)
def test_a_file_beside_the_model_says_it_all(tmp_path: Path, codec: IdCodec | PixelCodec):
    assert load_codec(tmp_path) is None
    save_codec(codec, tmp_path)
    found = load_codec(tmp_path)
    assert found == codec
    assert found is not None and found.hash == codec.hash
    table = json.loads((tmp_path / codec.FILE).read_text(encoding="utf-8"))
    if isinstance(codec, PixelCodec):
        assert (table["order"], table["channels"]) == ("raster", 3 if codec.palette else 1)
    numbered: IdVocabulary = codec
    assert not isinstance(numbered, Encoder)


def test_hashes_differ_where_ids_mean_other_things():
    codecs = [
        IdCodec(16),
        IdCodec(17),
        PixelCodec(4, 16),
        PixelCodec(5, 16),
        PixelCodec(4, 17),
        PixelCodec(4, 16, (), ("a", "b")),
        PixelCodec(4, 16, (), ("b", "a")),
        PixelCodec(4, 0, ((0, 0, 0), (1, 1, 1))),
        PixelCodec(4, 0, ((0, 0, 0), (1, 1, 2))),
    ]
    assert len({codec.hash for codec in codecs}) == len(codecs)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pixels.json", text)
        for text in (
            "",
            "[]",
            "{}",
            '{"format": 2}',
            '{"format": 1, "size": 0, "order": "raster", "levels": 4, "classes": []}',
            '{"format": 1, "size": 4, "order": "spiral", "levels": 4, "classes": []}',
            '{"format": 1, "size": 4, "order": "raster", "levels": 1, "classes": []}',
            '{"format": 1, "size": 4, "order": "raster", "levels": 4, "classes": [1]}',
            '{"format": 1, "size": 4, "order": "raster", "palette": [[1, 2]], "classes": []}',
            '{"format": 1, "size": 4, "order": "raster", "palette": [[1, 2, 300], [0, 0, 0]], "classes": []}',
            '{"format": 1, "size": 99999999, "order": "raster", "levels": 4, "classes": []}',
        )
    ]
    + [
        ("ids.json", text)
        for text in ("{", '{"format": 1}', '{"format": 1, "vocab_size": -3}', '{"format": 1, "vocab_size": "9"}')
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"{name}: is not (a valid codec file|valid JSON)"):
        load_codec(tmp_path)
