"""Damaged copies of a valid file, the same for the same seed: what a loader must survive."""

from collections.abc import Iterator

import numpy as np


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` copies, each damaged in one of five ways: bits flipped, bytes overwritten, cut short, a piece left out,
    a piece repeated.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(content)
        first, second = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
        match number % 5:
            case 0:
                for place in rng.integers(0, len(data), rng.integers(1, 9)):
                    data[place] ^= 1 << int(rng.integers(8))
            case 1:
                size = int(rng.integers(1, 65))
                first = min(first, len(data) - 1)
                data[first : first + size] = rng.bytes(min(size, len(data) - first))
            case 2:
                del data[first:]
            case 3:
                del data[first:second]
            case 4:
                data[second:second] = data[first:second]
        yield bytes(data)
