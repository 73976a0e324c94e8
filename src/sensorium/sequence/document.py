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
    """A medium ``[C, H, W]`` on a patch grid. ``noisy`` media are to be generated."""

    modality: str
    array: np.ndarray
    grid: Grid
    noisy: bool = False


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
    """

    segments: Sequence[Segment]
    sample_id: str = ""
    task: str = ""
    pair_key: str = ""
    group_keys: tuple[str, ...] = ()


@dataclass
class Layout:
    """Flat arrays of one document of T positions, and its media in order of their first position."""

    token_ids_T: np.ndarray
    labels_T: np.ndarray
    positions_T3: np.ndarray
    block_id_T: np.ndarray
    is_noisy_T: np.ndarray
    media: list[tuple[int, MediaSegment]] = field(default_factory=list)
    emb: list[tuple[int, str]] = field(default_factory=list)
    end_position: int = 0

    def __len__(self) -> int:
        return len(self.token_ids_T)


def layout(segments: Sequence[Segment], *, pad_id: int, emb_id: int, start_position: int = 0) -> Layout:
    """Lay segments out.

    Args:
        segments: in order of the sequence.
        pad_id: the id that stands at media positions (its embedding is replaced by features).
        emb_id: the id of ``<emb>``.
        start_position: of the first token on all three axes.

    Returns:
        Labels are aligned with the position that predicts them: ``labels[i]`` is the token at ``i + 1``.
        After a generated block the clean copy predicts, never the noisy block itself.
    """
    length = sum(_length(segment, index + 1 < len(segments)) for index, segment in enumerate(segments))
    if not length:
        raise ValueError("the document is empty; give at least one token or medium")
    out = Layout(
        token_ids_T=np.full(length, pad_id, np.int64),
        labels_T=np.full(length, IGNORE, np.int64),
        positions_T3=np.empty((length, 3), np.int64),
        block_id_T=np.full(length, -1, np.int64),
        is_noisy_T=np.zeros(length, bool),
    )
    target_T = np.full(length, IGNORE, np.int64)  # the token itself where it is supervised
    position, at, block = start_position, 0, 0
    for index, segment in enumerate(segments):
        if isinstance(segment, MediaSegment):
            offsets = block_offsets(segment.modality, segment.grid)
            copies = [segment]
            if segment.noisy and index + 1 < len(segments):
                copies.append(replace(segment, noisy=False))
            for copy in copies:
                span = slice(at, at + len(offsets))
                out.media.append((at, copy))
                out.positions_T3[span] = offsets + position
                out.block_id_T[span] = block
                out.is_noisy_T[span] = copy.noisy
                block += 1
                at = span.stop
            position += int(offsets.max()) + 1
            continue
        if isinstance(segment, EmbSegment):
            out.emb.append((at, segment.side))
            token_ids: Sequence[int] = (emb_id,)
        else:
            token_ids = segment.token_ids
        span = slice(at, at + len(token_ids))
        out.token_ids_T[span] = token_ids
        if isinstance(segment, TextSegment) and segment.supervised:
            target_T[span] = token_ids
        out.positions_T3[span] = np.arange(position, position + len(token_ids))[:, None]
        position += len(token_ids)
        at = span.stop
    out.labels_T[:-1] = target_T[1:]
    # The last position of a noisy block must not predict: the clean copy stands right behind it.
    out.labels_T[out.is_noisy_T] = IGNORE
    out.end_position = position
    return out


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
