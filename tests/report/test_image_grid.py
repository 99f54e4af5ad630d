"""Grids of small images, and pages of runs on what is no text."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.report import write_run_report
from firstlight.report.image_grid import encode_png, image_grid


def test_a_grid_has_each_image_in_its_place():
    images = [np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    found = image_grid([[images[0], images[1]], [images[2]]])
    step = 4 * 16 + 2
    assert found.shape == (2 * step + 2, 2 * step + 2, 3)
    assert [int(found[2 + 30 + i * step, 2 + 30 + j * step, 0]) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))] == [
        10,
        20,
        30,
        255,
    ]
    assert int(found[0, 0, 0]) == 255
    assert image_grid([[np.zeros((200, 200, 3), np.uint8)]]).shape == (204, 204, 3)


def test_png_is_lossless():
    Image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


@pytest.fixture
def images(run: Path) -> Path:
    """A finished run that was trained on images."""
    (run / "tokenizer/tokenizer.json").unlink()
    table = {"format": 1, "size": 28, "order": "raster", "channels": 1, "levels": 16, "classes": ["0", "1"]}
    (run / "tokenizer/pixels.json").write_text(json.dumps(table), encoding="utf-8")
    return run


def page_of(run: Path) -> str:
    return write_run_report(run).read_text(encoding="utf-8")


def test_file_that_is_not_an_image_is_reported_and_left_out(images: Path):
    (images / "samples.png").write_bytes(b"<script>alert(1)</script>")
    page = page_of(images)
    assert "samples.png is not a PNG file" in page
    assert "data:image" not in page
    assert "img-src" not in page


@pytest.mark.parametrize(
    "table", ['{"size": []}', '{"size": 1, "classes": 3, "palette": "x"}', "{", "[]", '{"vocab_size": "x"}']
)
def test_damaged_meanings_of_ids_leave_a_page(images: Path, table: str):
    (images / "tokenizer/pixels.json").write_text(table, encoding="utf-8")
    assert "</html>" in page_of(images)


def test_text_pages_have_no_pictures(run: Path):
    (run / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = page_of(run)
    assert "data:image" not in page
    assert "bits per byte" in page
