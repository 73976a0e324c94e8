"""Documents -> packed rows -> one ``Batch`` of tensors, with every media token accounted for."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import ModelConfig
from sensorium.media.modality import Grid
from sensorium.sequence.document import IGNORE, Canvas, Document, Layout, MediaSegment, layout, num_positions
from sensorium.sequence.tokenizer import Tokenizer


@dataclass
class Sources:
    """What media that are generated may copy from, see ``source_of``.

    Args:
        arrays_NCHW: one beside each item, of the items' shape; zero without one.
        is_there_N: bool.
    """

    arrays_NCHW: Tensor
    is_there_N: Tensor


@dataclass
class MediaBatch:
    """All media of one modality in a batch, either the clean ones or the ones to be generated.

    Args:
        arrays_NCHW: float32, zero-padded at the bottom and right to the largest.
        grids_N2: patches along height and width.
        token_index_P: where each patch stands in the flattened ``[B*T]`` positions, item after item.
        seeds_N: int64, a number of each item's own: what is drawn for it at random depends on nothing else in the
            batch, and so not on the number of ranks and micro-batches.
        sources: of media to be generated; None where the model copies from none.
    """

    arrays_NCHW: Tensor
    grids_N2: Tensor
    token_index_P: Tensor
    seeds_N: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sources: Sources | None = None

    def is_ragged(self, patch: tuple[int, int]) -> bool:
        """Whether items differ in size, so that padding has to be masked; told by shapes: no device is waited for."""
        N, _, H, W = self.arrays_NCHW.shape
        return len(self.token_index_P) * patch[0] * patch[1] != N * H * W

    @property
    def num_patches_N(self) -> Tensor:
        """Tokens of each item."""
        return self.grids_N2[:, 0] * self.grids_N2[:, 1]


@dataclass
class Spelled:
    """Sounds in which words are said that are known.

    Args:
        token_index_P: where each patch stands in the flattened ``[B*T]`` positions, sound after sound.
        num_patches_N: of each sound.
        letters_S: int64, what is said, in bytes of lower-case UTF-8 (never 0), sound after sound.
        num_letters_N: of each sound.
    """

    token_index_P: Tensor
    num_patches_N: Tensor
    letters_S: Tensor
    num_letters_N: Tensor


@dataclass
class Batch:
    """Packed rows. ``doc_id`` is -1 on padding, ``block_id`` is -1 on text and unique within a document.

    Args:
        context: modality -> clean media; ``targets``: modality -> media to be generated.
        spelled: modality -> its clean media with known words, where the model learns to spell them.
        emb_a_M, emb_b_M: flat positions of the ``<emb>`` of the media side and of the text side of M pairs.
        groups_MG: int64, the groups of each pair, padded with 0: pairs that share one belong together.
        read_R: flat positions, ascending, whose hidden state a loss reads: those with a label, noisy ones, and the
            ``<emb>`` of pairs.
        sample_ids, tasks: one entry per document, for logs.
        num_visits: samples that were drawn; ``bad`` and ``over_budget``: (id, reason) of those left out.
    """

    token_ids_BT: Tensor
    labels_BT: Tensor
    positions_BT3: Tensor
    doc_id_BT: Tensor
    block_id_BT: Tensor
    is_noisy_BT: Tensor
    context: dict[str, MediaBatch]
    targets: dict[str, MediaBatch]
    spelled: dict[str, Spelled]
    emb_a_M: Tensor
    emb_b_M: Tensor
    groups_MG: Tensor
    read_R: Tensor
    emb_D: Tensor  # flat position of the last <emb> of each document, -1 without one
    last_D: Tensor  # flat position of the last token of each document
    end_position_D: Tensor
    sample_ids: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    num_visits: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    over_budget: list[tuple[str, str]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return int((self.doc_id_BT >= 0).sum())

    @property
    def positives_MM(self) -> Tensor:
        """Bool: pair i's media and pair j's text belong together."""
        return share_a_group(self.groups_MG, self.groups_MG).fill_diagonal_(True)

    def to(self, device: torch.device | str) -> "Batch":
        """A copy on another device."""
        return map_arrays(self, lambda t: t.to(device, non_blocking=True), Tensor)


def share_a_group(groups_MG: Tensor, others_NG: Tensor) -> Tensor:
    """Bool ``[M, N]``: whether two pairs have a group in common; 0 is none."""
    shared_MN = torch.zeros(len(groups_MG), len(others_NG), dtype=torch.bool, device=groups_MG.device)
    for own_M in groups_MG.T:
        for other_N in others_NG.T:
            shared_MN |= (own_M[:, None] == other_N) & (own_M[:, None] != 0)
    return shared_MN


def map_arrays(value: Any, fn: Any, kind: type) -> Any:
    """A copy of a batch with every array of a kind replaced by ``fn`` of it."""
    if isinstance(value, kind):
        return fn(value)
    if isinstance(value, dict):
        return {key: map_arrays(item, fn, kind) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map_arrays(item, fn, kind) for item in value)
    if is_dataclass(value):
        own: Any = type(value)
        return own(**{f.name: map_arrays(getattr(value, f.name), fn, kind) for f in fields(value)})
    return value


def assign_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit decreasing: indices of the documents of each row.

    Deterministic, and within 22% of the fewest rows in the worst case (Johnson, 1973); close to full rows in
    practice because documents are much shorter than rows.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > row_length:
            raise ValueError(
                f"document {index} has {lengths[index]} tokens and a row has {row_length}; raise row_length "
                "or shorten the text or the media"
            )
        for row, free in enumerate(room):
            if free >= lengths[index]:
                rows[row].append(index)
                room[row] -= lengths[index]
                break
        else:
            rows.append([index])
            room.append(row_length - lengths[index])
    return rows


def pack(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    config: ModelConfig,
    *,
    row_length: int,
    one_per_row: bool = False,
) -> Batch:
    """Pack documents into rows of ``row_length`` positions.

    Args:
        one_per_row: document i gets row i (for generation).

    Raises:
        ValueError: a document is longer than a row, there is none, or one has a medium that the model lacks.
    """
    if not documents:
        raise ValueError("there are no documents to pack; give at least one")
    lengths = [num_positions(d.segments) for d in documents]
    rows = [[i] for i in range(len(documents))] if one_per_row else assign_rows(lengths, row_length)
    B, T = len(rows), row_length
    canvas = Canvas.empty(B * T, tokenizer.pad)
    doc_id = np.full(B * T, -1, np.int64)
    placed: dict[int, Layout] = {}
    for row, members in enumerate(rows):
        at = row * T
        for index in members:
            placed[index] = layout(
                documents[index].segments,
                pad_id=tokenizer.pad,
                emb_id=tokenizer.emb,
                canvas=canvas,
                start=at,
            )
            doc_id[at : at + lengths[index]] = index
            at += lengths[index]
    layouts = [placed[index] for index in range(len(documents))]
    media = [item for placed in layouts for item in placed.media]
    seeds = _seeds(documents, layouts)
    emb_a, emb_b, groups = _pairs(documents, layouts)
    return Batch(
        token_ids_BT=torch.from_numpy(canvas.token_ids_N.reshape(B, T)),
        labels_BT=torch.from_numpy(canvas.labels_N.reshape(B, T)),
        positions_BT3=torch.from_numpy(canvas.positions_N3.reshape(B, T, 3)),
        doc_id_BT=torch.from_numpy(doc_id.reshape(B, T)),
        block_id_BT=torch.from_numpy(canvas.block_id_N.reshape(B, T)),
        is_noisy_BT=torch.from_numpy(canvas.is_noisy_N.reshape(B, T)),
        context=_media_batches([m for m in media if not m[1].noisy], config, seeds),
        targets=_media_batches([m for m in media if m[1].noisy], config, seeds, _sources(layouts)),
        spelled=_spelled(documents, layouts, config, canvas.labels_N),
        emb_a_M=torch.tensor(emb_a, dtype=torch.int64),
        emb_b_M=torch.tensor(emb_b, dtype=torch.int64),
        groups_MG=groups,
        read_R=torch.from_numpy(_read(canvas, [*emb_a, *emb_b])),
        emb_D=torch.tensor([x.emb[-1][0] if x.emb else -1 for x in layouts]),
        last_D=torch.tensor([x.start + x.length - 1 for x in layouts]),
        end_position_D=torch.tensor([x.end_position for x in layouts]),
        sample_ids=[d.sample_id for d in documents],
        tasks=[d.task for d in documents],
    )


def _spelled(
    documents: Sequence[Document], layouts: Sequence[Layout], config: ModelConfig, labels_N: np.ndarray
) -> dict[str, Spelled]:
    """The first medium of each document whose words are known, where they fit into its patches.

    A patch that the text follows at once is left out: its last state is what says the text's first token.
    """
    out = {}
    for name, modality in config.modalities.items():
        index: list[np.ndarray] = []
        num_patches: list[int] = []
        letters: list[int] = []
        num_letters: list[int] = []
        for document, item in zip(documents, layouts, strict=True):
            found = [(at, m) for at, m in item.media if m.modality == name and not m.noisy][:1]
            said = document.spelled.lower().encode()
            # Between two letters that are the same stands a blank.
            needed = len(said) + sum(one == two for one, two in itertools.pairwise(said))
            for at, segment in found:
                patches = at + np.arange(segment.grid[0] * segment.grid[1])
                patches = patches[labels_N[patches] == IGNORE]
                if 0 < needed <= len(patches) * modality.spelled_per_patch:
                    index.append(patches)
                    num_patches.append(len(patches))
                    letters += said
                    num_letters.append(len(said))
        if index:
            out[name] = Spelled(
                torch.from_numpy(np.concatenate(index)),
                *map(torch.tensor, (num_patches, letters, num_letters)),
            )
    return out


def _seeds(documents: Sequence[Document], layouts: Sequence[Layout]) -> dict[int, int]:
    """Position of a medium -> a number that depends on its sample and its place in it only."""
    count: Counter[str] = Counter()
    seeds = {}
    for index, (document, item) in enumerate(zip(documents, layouts, strict=True)):
        # A document outside a data stream has no key of its own.
        key = document.pair_key or f"document {index}"
        for at, _ in item.media:
            seeds[at] = _number(f"{key}/{count[key]}")
            count[key] += 1
    return seeds


def source_of(target: tuple[str, Grid], before: Iterable[MediaSegment]) -> Tensor | None:
    """What a medium that is generated may copy from: the last clean one of its kind and size that stands before it.

    Frames of a video are none: what follows them is said or drawn of all of them.
    """
    found = None
    for segment in before:
        if (segment.modality, segment.grid) == target and not (segment.noisy or segment.is_frame):
            found = segment.array
    return None if found is None else torch.from_numpy(found)


def stack_sources(sources: Sequence[Tensor | None], arrays_NCHW: Tensor) -> Sources:
    """Sources of items, beside the items' own arrays."""
    stacked = torch.zeros_like(arrays_NCHW)
    for n, source in enumerate(sources):
        if source is not None:
            stacked[n, :, : source.shape[1], : source.shape[2]] = source
    is_there_N = torch.tensor([source is not None for source in sources], device=stacked.device)
    return Sources(stacked, is_there_N)


def _sources(layouts: Sequence[Layout]) -> dict[int, Tensor | None]:
    """Position of a medium to be generated -> its source."""
    return {
        at: source_of((segment.modality, segment.grid), (earlier for _, earlier in item.media[:number]))
        for item in layouts
        for number, (at, segment) in enumerate(item.media)
        if segment.noisy
    }


def _number(text: str) -> int:
    """63 bits of a text; two of a step's texts share them with a probability of about 1e-11."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _read(canvas: Canvas, emb: Sequence[int]) -> np.ndarray:
    """Positions whose hidden state a loss reads."""
    read = (canvas.labels_N != IGNORE) | canvas.is_noisy_N
    read[np.asarray(emb, np.int64)] = True
    return np.flatnonzero(read)


def _media_batches(
    media: Sequence[tuple[int, MediaSegment]],
    config: ModelConfig,
    seeds: dict[int, int],
    sources: dict[int, Tensor | None] | None = None,
) -> dict[str, MediaBatch]:
    """Group media by modality, check each against its grid, and note where each patch stands."""
    out: dict[str, MediaBatch] = {}
    for name, modality in config.modalities.items():
        items = [(at, segment) for at, segment in media if segment.modality == name]
        if not items:
            continue
        for _, segment in items:
            size = (segment.grid[0] * modality.patch[0], segment.grid[1] * modality.patch[1])
            if segment.array.shape != (modality.channels, *size):
                raise ValueError(
                    f"{name} array of shape {segment.array.shape} does not fill its grid {segment.grid} of "
                    f"{modality.patch} patches, which needs {(modality.channels, *size)}: media tokens would "
                    "not equal media features"
                )
        height = max(segment.array.shape[1] for _, segment in items)
        width = max(segment.array.shape[2] for _, segment in items)
        arrays = np.zeros((len(items), modality.channels, height, width), np.float32)
        for n, (_, segment) in enumerate(items):
            arrays[n, :, : segment.array.shape[1], : segment.array.shape[2]] = segment.array
        index = np.concatenate([at + np.arange(s.grid[0] * s.grid[1]) for at, s in items])
        out[name] = MediaBatch(
            torch.from_numpy(arrays),
            torch.tensor([segment.grid for _, segment in items], dtype=torch.int64),
            torch.from_numpy(index),
            torch.tensor([seeds[at] for at, _ in items], dtype=torch.int64),
        )
        if modality.copies_source and sources is not None:
            out[name].sources = stack_sources([sources[at] for at, _ in items], out[name].arrays_NCHW)
    unknown = {segment.modality for _, segment in media} - set(config.modalities)
    if unknown:
        raise ValueError(
            f"the model has no modality {sorted(unknown)[0]!r}; it knows {', '.join(config.modalities)}; "
            "remove the medium or use a model trained with it"
        )
    return out


def _pairs(documents: Sequence[Document], layouts: Sequence[Layout]) -> tuple[list[int], list[int], Tensor]:
    """Flat positions of both sides of each complete pair, and the groups of each."""
    sides: dict[str, dict[str, int]] = {}
    groups: dict[str, set[str]] = {}
    for document, item in zip(documents, layouts, strict=True):
        for at, side in item.emb:
            if side and document.pair_key:
                sides.setdefault(document.pair_key, {})[side] = at
                groups.setdefault(document.pair_key, set()).update(document.group_keys)
    keys = [key for key, found in sides.items() if len(found) == 2]
    groups_MG = np.zeros((len(keys), max((len(groups[key]) for key in keys), default=0)), np.int64)
    for row, key in enumerate(keys):
        groups_MG[row, : len(groups[key])] = [_number(group) for group in sorted(groups[key])]
    return [sides[k]["a"] for k in keys], [sides[k]["b"] for k in keys], torch.from_numpy(groups_MG)
