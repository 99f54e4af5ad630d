"""A keyed pseudorandom permutation of 0 … n-1 with random access in O(1): a Feistel network with cycle walking.

Black and Rogaway 2002, section 4. Not for encryption. It has eight rounds of a 64-bit mixer: with four, the
positions of a handful of values are visibly uneven.
"""

import hashlib

import numpy as np

_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def round_keys(*parts: object) -> np.ndarray:
    """Derive eight round keys from any values, deterministically."""
    return np.frombuffer(hashlib.blake2b(repr(parts).encode(), digest_size=64).digest(), dtype="<u8")


def permute(indices: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """Evaluate the permutation of 0 … n-1 at ``indices`` (int64)."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    out = indices.astype(np.uint64)
    todo = np.ones(len(out), dtype=bool)
    while todo.any():
        x = out[todo]
        left, right = x >> half, x & mask
        with np.errstate(over="ignore"):
            for k in key:
                left, right = right, left ^ (mix64(right + k) & mask)
        out[todo] = (left << half) | right
        # A value beyond n is permuted again, until it is in range (cycle walking).
        todo[todo] = out[todo] >= n
    return out.astype(np.int64)


def uniform(first: int, n: int, key: np.ndarray) -> np.ndarray:
    """Return a pseudorandom number in [0, 1) for each index from ``first`` to ``first + n``; a function of the key."""
    with np.errstate(over="ignore"):
        x = mix64(mix64(np.arange(first, first + n, dtype=np.uint64) + key[0]) + key[1])
    return (x >> np.uint64(11)) / 2.0**53


def mix64(x: np.ndarray) -> np.ndarray:
    """Return hashes (uint64) whose bits depend on all bits of the values (the finalizer of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
