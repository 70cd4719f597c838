"""Counter-based random numbers: the same (seed, purpose, number) gives the same bits on every machine.

Philox (Salmon et al., SC 2011) has random access to any position of any stream. No global random state is read or
changed.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from numpy.typing import NDArray


@functools.cache
def _word(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def bits(seed: int, purpose: str, number: int) -> np.random.Philox:
    """The bit generator of (seed, purpose, number); different keys never overlap."""
    key = np.array([seed, _word(purpose)], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, number], dtype=np.uint64))


def uniforms(source: np.random.Philox, count: int) -> list[float]:
    """`count` random numbers in [0, 1) with 53 bits each."""
    values: list[float] = ((source.random_raw(count) >> 11) * 2.0**-53).tolist()
    return values


def permutation(seed: int, purpose: str, number: int, length: int) -> NDArray[np.int64]:
    """A random permutation of 0 … length − 1."""
    keys = bits(seed, purpose, number).random_raw(length)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)
