"""A document is a list of segments; ``layout`` turns it into flat arrays, one entry per position.

Segments: text, media given as context (clean), media to be generated (noisy), and the ``<emb>`` token whose
hidden state becomes a latent. Where something follows a generated block, its clean copy comes after it with
identical positions and a block id of its own, so that what follows sees the signal and never the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from sensorium.media.modality import Grid, get_modality

IGNORE = -100  # a label that no loss counts


@dataclass(frozen=True)
class TextSegment:
    """Token ids; ``supervised`` tokens are next-token targets."""

    token_ids: Sequence[int]
    supervised: bool = False


@dataclass(frozen=True)
class MediaSegment:
    """A medium ``[C, H, W]`` on a patch grid. ``noisy`` media are to be generated; ``is_frame``: it is of a video."""

    modality: str
    array: np.ndarray
    grid: Grid
    noisy: bool = False
    is_frame: bool = False


@dataclass(frozen=True)
class EmbSegment:
    """``<emb>``. ``side`` says which side of a pair this document embeds ("a" media, "b" text).

    An empty side takes no part in the alignment loss (a condition that was dropped, or no pair at all).
    """

    side: str = ""


Segment = TextSegment | MediaSegment | EmbSegment


@dataclass(frozen=True)
class Document:
    """Segments with what losses and logs must know of their origin.

    Args:
        pair_key: documents of one pair share it; "" for none.
        group_keys: documents that share any key are positives of each other in the alignment loss (same text,
            same concept).
        spelled: what is said in its first sound, word for word; "" where that is not known.
    """

    segments: Sequence[Segment]
    sample_id: str = ""
    task: str = ""
    pair_key: str = ""
    group_keys: tuple[str, ...] = ()
    spelled: str = ""


@dataclass
class Canvas:
    """Flat arrays of N positions that documents are laid out on. Empty ones are padding."""

    token_ids_N: np.ndarray
    labels_N: np.ndarray
    positions_N3: np.ndarray
    block_id_N: np.ndarray
    is_noisy_N: np.ndarray

    @classmethod
    def empty(cls, length: int, pad_id: int) -> "Canvas":
        """All padding."""
        return cls(
            token_ids_N=np.full(length, pad_id, np.int64),
            labels_N=np.full(length, IGNORE, np.int64),
            positions_N3=np.zeros((length, 3), np.int64),
            block_id_N=np.full(length, -1, np.int64),
            is_noisy_N=np.zeros(length, bool),
        )


@dataclass
class Layout:
    """Where one document of T positions lies on a canvas, and its media in order of their first position."""

    canvas: Canvas
    start: int
    length: int
    media: list[tuple[int, MediaSegment]] = field(default_factory=list)  # (position on the canvas, medium)
    emb: list[tuple[int, str]] = field(default_factory=list)  # (position on the canvas, side)
    end_position: int = 0

    def __len__(self) -> int:
        return self.length

    def _own(self, values: np.ndarray) -> np.ndarray:
        return values[self.start : self.start + self.length]

    @property
    def token_ids_T(self) -> np.ndarray:
        """Ids; padding's where media stand."""
        return self._own(self.canvas.token_ids_N)

    @property
    def labels_T(self) -> np.ndarray:
        """What each position predicts, or IGNORE."""
        return self._own(self.canvas.labels_N)

    @property
    def positions_T3(self) -> np.ndarray:
        """Time, height and width."""
        return self._own(self.canvas.positions_N3)

    @property
    def block_id_T(self) -> np.ndarray:
        """Number of the media block within the document, -1 on text."""
        return self._own(self.canvas.block_id_N)

    @property
    def is_noisy_T(self) -> np.ndarray:
        """Whether the position belongs to a block that is being generated."""
        return self._own(self.canvas.is_noisy_N)


def layout(
    segments: Sequence[Segment],
    *,
    pad_id: int,
    emb_id: int,
    start_position: int = 0,
    canvas: Canvas | None = None,
    start: int = 0,
) -> Layout:
    """Lay segments out.

    Args:
        segments: in order of the sequence.
        pad_id: the id that stands at media positions (its embedding is replaced by features).
        emb_id: the id of ``<emb>``.
        start_position: of the first token on all three axes.
        canvas: what is written on, from ``start`` on; a new one by default.

    Returns:
        Labels are aligned with the position that predicts them: ``labels[i]`` is the token at ``i + 1``.
        After a generated block the clean copy predicts, never the noisy block itself.
    """
    length = num_positions(segments)
    if not length:
        raise ValueError("the document is empty; give at least one token or medium")
    canvas = canvas or Canvas.empty(length, pad_id)
    out = Layout(canvas, start, length)
    position, at, block = start_position, start, 0
    for index, segment in enumerate(segments):
        if isinstance(segment, MediaSegment):
            offsets = block_offsets(segment.modality, segment.grid)
            copies = [segment]
            if segment.noisy and index + 1 < len(segments):
                copies.append(replace(segment, noisy=False))
            for copy in copies:
                span = slice(at, at + len(offsets))
                out.media.append((at, copy))
                canvas.positions_N3[span] = offsets + position
                canvas.block_id_N[span] = block
                canvas.is_noisy_N[span] = copy.noisy
                block += 1
                at = span.stop
            position += _extent(segment.modality, segment.grid)
            continue
        if isinstance(segment, EmbSegment):
            out.emb.append((at, segment.side))
            token_ids: Sequence[int] = (emb_id,)
        else:
            token_ids = segment.token_ids
        num_tokens = len(token_ids)
        canvas.token_ids_N[at : at + num_tokens] = token_ids
        if isinstance(segment, TextSegment) and segment.supervised:
            # Nothing stands before the first token of a document to predict it.
            first = at == start
            canvas.labels_N[at - 1 + first : at + num_tokens - 1] = token_ids[first:]
        canvas.positions_N3[at : at + num_tokens] = _counting(num_tokens) + position
        position += num_tokens
        at += num_tokens
    out.end_position = position
    return out


def num_positions(segments: Sequence[Segment]) -> int:
    """How many positions a document takes in a row."""
    return sum(_length(segment, index + 1 < len(segments)) for index, segment in enumerate(segments))


@lru_cache(maxsize=1024)
def _counting(num_tokens: int) -> np.ndarray:
    """0, 1, 2, ... on all three axes."""
    values = np.repeat(np.arange(num_tokens, dtype=np.int64)[:, None], 3, axis=1)
    values.setflags(write=False)
    return values


@lru_cache(maxsize=4096)
def _extent(modality: str, grid: Grid) -> int:
    """How far a block moves the position on."""
    return int(block_offsets(modality, grid).max()) + 1


@lru_cache(maxsize=4096)
def block_offsets(modality: str, grid: Grid) -> np.ndarray:
    """Positions of a medium's patches relative to its first; read-only, as it is shared."""
    offsets = np.asarray(get_modality(modality).offsets(grid), dtype=np.int64)
    offsets.setflags(write=False)
    return offsets


def _length(segment: Segment, followed: bool) -> int:
    """Positions of a segment; a generated block that something follows also has its clean copy."""
    if isinstance(segment, MediaSegment):
        return len(block_offsets(segment.modality, segment.grid)) * (2 if segment.noisy and followed else 1)
    return 1 if isinstance(segment, EmbSegment) else len(segment.token_ids)
