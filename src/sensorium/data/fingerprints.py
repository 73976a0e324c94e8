"""What is the same, found from hashes alone: repeated ids, the same medium twice, media that look alike.

64 bits stand for a SHA-256: among a hundred million different values, two share them with a chance of 1 in 3,700.
Near duplicates are found without comparing all with all: two 64-bit hashes that differ in at most `d` bits agree in
at least one of `d + 1` bands, so only hashes that share a band are compared (Manku, Jain, Das Sarma 2007).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from hashlib import sha256

import numpy as np

from sensorium.data.splits import SPLITS

MAX_NEAR_DISTANCE = 7
# Hashes that share a band are compared with this many neighbours in order of value, so that a band shared by
# very many (white pictures, one layout) costs a bounded time.
_MAX_NEIGHBOURS = 256
_COLOUR_SHIFTS = np.arange(0, 60, 5, dtype=np.uint64)
# Of 32 levels. Measured on 510 emoji: JPEG at quality 50 and scaling by 2 stay within 1 (and within 3 bits of hash
# in 92% and 99%); at 2, six times as many different small shapes of easy-VQA would count as alike.
COLOUR_DISTANCE = 1
_BITS = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def digest64(data: bytes) -> int:
    """The first 64 bits of the SHA-256, never 0, which stands for "nothing here"."""
    return int.from_bytes(sha256(data).digest()[:8], "big") or 1


def look_hasher() -> Callable[[np.ndarray], tuple[int, int]] | None:
    """pixels -> (64-bit perceptual hash by the library `imagehash`, colours); None where it is not installed.

    The perceptual hash is of brightness alone: a red and a blue heart share it. The colours are the mean of each
    quarter of the picture, 5 bits a channel.
    """
    try:
        import imagehash
    except ImportError:
        return None
    from PIL import Image

    def look(pixels: np.ndarray) -> tuple[int, int]:
        picture = Image.fromarray(pixels)
        bits = np.packbits(imagehash.phash(picture).hash)
        quarters = np.asarray(picture.resize((2, 2), Image.Resampling.BOX)).ravel() >> 3
        return int.from_bytes(bits.tobytes(), "big") or 1, sum(
            int(v) << 5 * i for i, v in enumerate(quarters)
        )

    return look


def repeats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of non-zero values that occurred before, ascending; and for each where that was first."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    first = first[inverse]
    later = np.flatnonzero((first < np.arange(len(values))) & (values != 0))
    return later, first[later]


def near_pairs(hashes: np.ndarray, colours: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of pictures whose hashes differ in at most `distance` bits, and whose colours are close.

    Args:
        hashes, colours: uint64 ``[N]``, of `look_hasher`.
        distance: in bits, 0 to 7.

    Returns:
        int64 ``[P, 2]``: indices, smaller first; of equal looks the first stands for all.
    """
    if not 0 <= distance <= MAX_NEAR_DISTANCE:
        raise ValueError(f"near distance {distance} bits; give 0 to {MAX_NEAR_DISTANCE}")
    looks, first = np.unique(np.stack([hashes, colours], axis=1), axis=0, return_index=True)
    quarters = (looks[:, 1:] >> _COLOUR_SHIFTS) & np.uint64(31)
    levels = quarters.astype(np.int8)
    found: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        key = (looks[:, 0] >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        for step in range(1, min(_MAX_NEIGHBOURS, len(looks) - 1) + 1):
            same = np.flatnonzero(sorted_key[:-step] == sorted_key[step:])
            if not same.size:
                break
            a, b = order[same], order[same + step]
            near = bits_between(looks[a, 0], looks[b, 0]) <= distance
            near &= np.abs(levels[a] - levels[b]).max(axis=1) <= COLOUR_DISTANCE
            found.append(np.stack([first[a[near]], first[b[near]]], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def bits_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distance of uint64 arrays."""
    words = np.ascontiguousarray(a ^ b).view(np.uint16).reshape(-1, 4)
    return _BITS[words].sum(axis=1)


def first_in_split(values: np.ndarray, splits: np.ndarray, pairs: np.ndarray | None = None) -> np.ndarray:
    """For every item and split: the first item there with the same value, or with one that is paired with it.

    Args:
        values: uint64 ``[N]``.
        splits: ``[N]``, indices into `SPLITS`.
        pairs: int64 ``[P, 2]``, items whose values count as the same, not passed on from pair to pair.

    Returns:
        int64 ``[N, 3]``; N where there is none.
    """
    unique, inverse = np.unique(values, return_inverse=True)
    first = np.full((len(unique), len(SPLITS)), len(values), np.int64)
    np.minimum.at(first, (inverse, splits), np.arange(len(values)))
    around = first.copy()
    if pairs is not None and len(pairs):
        a, b = inverse[pairs[:, 0]], inverse[pairs[:, 1]]
        np.minimum.at(around, a, first[b])
        np.minimum.at(around, b, first[a])
    return np.asarray(around[inverse])


def leaks(first: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items of validation and test that have an equal in a split before theirs, and that equal."""
    before = np.where(np.arange(len(SPLITS)) < splits[:, None], first, len(first)).min(axis=1)
    items = np.flatnonzero(before < len(first))
    return items, before[items]
