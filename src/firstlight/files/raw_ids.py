"""Recognise what is in a file of token ids without a header: the width of an id, and files that hold no ids at all."""

import numpy as np

SAMPLE_BYTES = 1 << 16
_MIN_IDS = 16  # fewer do not show a pattern
_MOST, _FEW = 0.9, 0.5
# First bytes of other kinds of files.
_OTHER_KINDS = {
    b"\x1f\x8b\x08": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"\x93NUMPY": "a .npy file",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"LITPKDS": "a packed dataset of lit-gpt",
    b"MMIDIDX": "the index of Megatron-LM",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
}


def other_kind(sample: bytes) -> str | None:
    """Return what a file is that starts with these bytes, if it is clearly not one of raw ids, such as a text."""
    kind = next((kind for start, kind in _OTHER_KINDS.items() if sample.startswith(start)), None)
    if kind is not None or len(sample) < 64:
        return kind
    try:
        text = sample[: len(sample) & ~3].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 8:  # otherwise a character that the sample cuts
            return None
        text = sample[: error.start].decode("utf-8")
    return None if any(c < " " and c not in "\t\n\r\f" for c in text) else "a text file"


def stored_dtype(sample: bytes, vocab_size: int) -> str | None:
    """Tell how wide the ids are, and in which byte order, from the start of a file.

    The upper half of an id of 32 bits is at most that of the highest id: 0, or one of a few numbers. In a file of such
    ids every second number of 16 bits is that small, which no file of 16-bit ids has. The same holds for 64 bits. Where
    most ids are that small themselves, as in padded sequences or images, every larger number must be a lower half.

    Args:
        sample: bytes from the start of the file.
        vocab_size: number of ids.

    Returns:
        Such as "<u4", as in ``numpy.dtype``; None where the file shows too little to tell, or no type fits.
    """
    sample = sample[: len(sample) & ~7]
    if len(sample) < 2 * _MIN_IDS:
        return None
    halves = np.frombuffer(sample, "<u4")
    if len(halves) >= _MIN_IDS:
        order = _order_of_upper_halves(halves, 0)
        if order is not None:
            return f"{order}i8"
        order = _order_of_upper_halves(np.frombuffer(sample, "<u2"), (vocab_size - 1) >> 16)
        if order is not None:
            return f"{order}u4"
    ids = np.frombuffer(sample, "<u2")
    if not ids[1::2].any():  # too few ids that are not 0 to tell 16 bits from 32
        return None
    if int(ids.max()) < vocab_size:
        return "<u2"
    if int(ids.byteswap().max()) < vocab_size and np.mean(ids < vocab_size) < _MOST:
        return ">u2"
    return "<u2" if np.mean(ids < vocab_size) >= _MOST else None


def _order_of_upper_halves(halves: np.ndarray, most: int) -> str | None:
    """Tell whether every second number is the upper half of a wide id: "<" if the second of each two, ">" the first."""
    first, second = halves[::2], halves[1::2]
    if _are_halves(second, first, most):
        return "<"
    return ">" if _are_halves(first.byteswap(), second.byteswap(), most) else None


def _are_halves(upper: np.ndarray, lower: np.ndarray, most: int) -> bool:
    """Whether these numbers may be the upper and lower halves of ids whose upper half is at most ``most``."""
    upper_small, lower_small = np.mean(upper <= most), np.mean(lower <= most)
    n_large = np.count_nonzero(lower > most)
    return bool((upper_small >= _MOST and lower_small < _FEW) or (upper_small == 1 and n_large >= _MIN_IDS))
