"""Messages in terminals whose encoding lacks some of their characters."""

import pytest

from firstlight.cli import streams


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"loss 1.5 - ETA 1:00 ... 95 % +/- 2 x ?"),
        ("latin-1", b"loss 1.5 \xb7 ETA 1:00 ... 95 % \xb1 2 \xd7 ?"),
        ("utf-8", "loss 1.5 · ETA 1:00 … 95 % ± 2 × 猫".encode()),
    ],
)
def test_known_characters_have_a_form_in_ascii(encoding: str, expected: bytes):
    text = "loss 1.5 · ETA 1:00 … 95 % ± 2 × 猫"
    assert text.encode(encoding, errors=streams._REPLACE) == expected
