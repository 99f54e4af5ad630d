"""The text of a field, whatever type a file gave it."""

import datetime
import decimal
import json
import math

import numpy as np
import pytest

from firstlight.errors import CorpusError
from firstlight.files.field_text import field_text
from firstlight.files.json_stream import parse_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is ", "as it is "),
        (None, None),
        (math.nan, None),
        (np.float64("nan"), None),
        (decimal.Decimal("NaN"), None),
        ([], None),
        (7, "7"),
        (10**30, "1" + "0" * 30),
        (0.1, "0.1"),
        (np.int64(3), "3"),
        (True, "true"),
        (decimal.Decimal("1.10"), "1.10"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3, 4), "2020-01-02 03:04:00"),
        (b"caf\xc3\xa9", "café"),
        (["one", None, "two"], "one\ntwo"),
        (np.array(["a", "b"], dtype=object), "a\nb"),
        ([{"type": "text", "text": "Name"}, {"type": "text", "text": "a colour."}], "Name\na colour."),
        ([{"type": "output_text", "text": "Blue.", "image_url": None}], "Blue."),
        ([{"text": "no type"}, "and a string"], "no type\nand a string"),
    ],
)
def test_text(value: object, text: str | None) -> None:
    assert field_text(value, "x") == text


@pytest.mark.parametrize("number", ["1", "1.0", "1.10", "1e3", "-0.50", "123456789012345678901234567890"])
def test_a_number_of_json_is_text_as_written(number: str) -> None:
    assert field_text(parse_json(f'{{"a": {number}}}', "x")["a"], "x") == number


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.inf, "x: is not text (found inf; expected a string)"),
        (parse_json("1e999", "x"), "x: is not text (found inf; expected a string)"),
        (b"\x89PNG", "x: is not text (found 4 bytes that are not UTF-8; expected a string)"),
        ({"a": 1, "body": "x"}, "x: is not text (found an object with a, body; expected a string). Name doc.body"),
        ([["nested"]], "x: has an item that is not text (found a list of 1 items; expected a string)"),
        ([{"a": "b"}], "x: has an item that is not text (found an object with a; expected a string)"),
        (
            [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}],
            "x: has a part that is not text (found image_url",
        ),
        ([{"type": "tool_use", "name": "f"}], "x: has a part that is not text (found tool_use"),
        ([{"type": "text", "text": 3}], "x: has a part that is not text (found text"),
    ],
)
def test_what_is_not_text(value: object, message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        field_text(value, "x", advise=lambda inner: f"Name doc.{inner}")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [3, 0.5, True, ["a", "b"], datetime.date(2020, 1, 2), [1, 2]])
def test_a_corpus_takes_only_text(value: object) -> None:
    with pytest.raises(CorpusError, match="is not text"):
        field_text(value, "x", only_text=True)


def test_a_corpus_takes_parts_of_text() -> None:
    assert field_text([{"type": "text", "text": "a"}], "x", only_text=True) == "a"
    assert field_text(json.loads("NaN"), "x", only_text=True) is None
