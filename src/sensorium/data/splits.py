"""Which part of the data a concept belongs to: a pure function of its name.

The split follows the concept and never the file, so that a dog in one drawing style cannot be in training
while a dog in another style is in test.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_NUM_BUCKETS = 20


def split_of(name: str) -> Split:
    """Return the split of a concept: one in twenty is test, one in twenty validation, the rest training.

    Args:
        name: the English name of the concept (or whatever names a sample that has no concept); the case
            of its letters does not matter.

    Returns:
        "train", "validation" or "test": the first 8 hex digits of the SHA-1 of the lower-case name,
        modulo 20; 0 is test, 1 is validation.

    Raises:
        ValueError: the name is empty, so nothing could be kept apart by it.
    """
    if not name.strip():
        raise ValueError(
            f"cannot choose a split for the empty name {name!r}; pass the concept's English name"
        )
    bucket = int(sha1(name.lower().encode("utf-8")).hexdigest()[:8], 16) % _NUM_BUCKETS
    if bucket == 0:
        return "test"
    return "validation" if bucket == 1 else "train"
