"""Sequences and what is kept of them: positions to be read, keys and values of shared prefixes, media features."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sensorium.sequence.document import MediaSegment, Segment, block_offsets, layout
from sensorium.sequence.tokenizer import Tokenizer

# Columns of a sequence's table. KEY tells what stands at a position: the token, or the content of its medium.
TOKEN, KEY, TIME, HEIGHT, WIDTH, BLOCK = range(6)


@dataclass(frozen=True)
class Placed:
    """A medium of a sequence: where its first patch stands, and the hash of its content."""

    at: int
    segment: MediaSegment
    key: int

    @property
    def end(self) -> int:
        """One past its last patch."""
        return self.at + len(block_offsets(self.segment.modality, self.segment.grid))


class TokenSequence:
    """What stands at each position, and how far it has been read into a row of the cache.

    Args:
        segments: text and clean media, in order.
    """

    def __init__(self, tokenizer: Tokenizer, segments: Sequence[Segment] = ()) -> None:
        self.tokenizer = tokenizer
        self.table = np.empty((64, 6), np.int64)
        self.total = 0  # positions
        self.num_read = 0  # of them in the cache
        self.num_reused = 0  # of them copied from another sequence
        self.position = 0  # on all three axes, of the next token
        self.num_blocks = 0
        self.media: list[Placed] = []
        self.row: int | None = None
        self.hidden_D: Tensor | None = None  # of the last position, once everything is read
        if segments:
            self.append(segments)

    @property
    def num_unread(self) -> int:
        """Positions that are still to be read."""
        return self.total - self.num_read

    @property
    def keys(self) -> np.ndarray:
        """Identity of every position."""
        return self.table[: self.total, KEY]

    def append(self, segments: Sequence[Segment]) -> None:
        """Add segments behind what stands there."""
        new = layout(
            segments,
            pad_id=self.tokenizer.pad,
            emb_id=self.tokenizer.emb,
            start_position=self.position,
        )
        self._reserve(len(new))
        at = slice(self.total, self.total + len(new))
        rows = self.table[at]
        rows[:, TOKEN] = rows[:, KEY] = new.token_ids_T
        rows[:, TIME : WIDTH + 1] = new.positions_T3
        rows[:, BLOCK] = np.where(new.block_id_T >= 0, new.block_id_T + self.num_blocks, -1)
        for start, segment in new.media:
            placed = Placed(self.total + start, segment, content_key(segment))
            self.table[placed.at : placed.end, KEY] = placed.key
            self.media.append(placed)
        self.num_blocks += len(new.media)
        self.total, self.position, self.hidden_D = at.stop, new.end_position, None

    def append_token(self, token_id: int) -> None:
        """Add one token of text."""
        self._reserve(1)
        p = self.position
        self.table[self.total] = (token_id, token_id, p, p, p, -1)
        self.total, self.position, self.hidden_D = self.total + 1, p + 1, None

    def cut(self, at: int) -> int:
        """The last place up to ``at`` that is not inside a medium, which is read as a whole."""
        blocks = self.table[:, BLOCK]
        if 0 < at < self.total and blocks[at] >= 0 and blocks[at] == blocks[at - 1]:
            return next(placed.at for placed in self.media if placed.at < at < placed.end)
        return at

    def next_chunk(self, limit: int) -> int:
        """How many positions to read next: about ``limit``, with media whole."""
        if self.num_unread <= limit:
            return self.num_unread
        end = self.cut(self.num_read + limit)
        if end == self.num_read:  # a medium larger than the limit
            end = next(placed.end for placed in self.media if placed.at == end)
        return end - self.num_read

    def _reserve(self, count: int) -> None:
        if self.total + count > len(self.table):
            grown = np.empty((max(self.total + count, 2 * len(self.table)), 6), np.int64)
            grown[: self.total] = self.table[: self.total]
            self.table = grown


def content_key(segment: MediaSegment) -> int:
    """A hash of a medium's kind, size and content; negative, so that it is no token."""
    digest = hashlib.blake2b(f"{segment.modality} {segment.grid}".encode(), digest_size=7)
    digest.update(np.ascontiguousarray(segment.array).data)
    return -1 - int.from_bytes(digest.digest(), "little")


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning of two sequences of keys."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


class PrefixCache:
    """Keys and values of sequences that have left, the longest unused go first.

    Args:
        max_tokens: positions kept; 0 keeps nothing.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens, self.num_tokens = max_tokens, 0
        self.entries: OrderedDict[int, tuple[np.ndarray, Tensor]] = OrderedDict()
        self._number = 0

    def put(self, keys: np.ndarray, kept: Tensor) -> None:
        """Keep an exported row; entries that are its beginning are replaced by it."""
        if not 0 < len(keys) <= self.max_tokens:
            return
        for number, (others, _) in list(self.entries.items()):
            common = common_prefix(keys, others)
            if common == len(keys):
                self.entries.move_to_end(number)
                return
            if common == len(others):
                self._drop(number)
        while self.num_tokens + len(keys) > self.max_tokens:
            self._drop(next(iter(self.entries)))
        self._number += 1
        self.entries[self._number] = (keys.copy(), kept)
        self.num_tokens += len(keys)

    def find(self, keys: np.ndarray) -> tuple[int, Tensor | None]:
        """The longest common beginning with anything kept, and the row that has it."""
        best, chosen = 0, None
        for number, (others, _) in self.entries.items():
            common = common_prefix(keys, others)
            if common > best:
                best, chosen = common, number
        if chosen is None:
            return 0, None
        self.entries.move_to_end(chosen)
        return best, self.entries[chosen][1]

    def clear(self) -> None:
        """Forget everything (the weights have changed)."""
        self.entries.clear()
        self.num_tokens = 0

    def _drop(self, number: int) -> None:
        keys, _ = self.entries.pop(number)
        self.num_tokens -= len(keys)


class FeatureCache:
    """Encoder features of media by content, the longest unused go first.

    Args:
        max_patches: kept; 0 keeps nothing.
    """

    def __init__(self, max_patches: int) -> None:
        self.max_patches, self.num_patches = max_patches, 0
        self.entries: OrderedDict[int, Tensor] = OrderedDict()

    def get(self, key: int) -> Tensor | None:
        """Features ``[P, D]`` or None."""
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def put(self, key: int, features_PD: Tensor) -> None:
        """Keep features; ones too large for the budget are not kept."""
        if key in self.entries or len(features_PD) > self.max_patches:
            return
        self.entries[key] = features_PD
        self.num_patches += len(features_PD)
        while self.num_patches > self.max_patches:
            self.num_patches -= len(self.entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything (the weights have changed)."""
        self.entries.clear()
        self.num_patches = 0
