"""Documents -> packed rows -> one ``Batch`` of tensors, with every media token accounted for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import ModelConfig
from sensorium.sequence.document import IGNORE, Document, Layout, MediaSegment, layout
from sensorium.sequence.tokenizer import Tokenizer


@dataclass
class MediaBatch:
    """All media of one modality in a batch, either the clean ones or the ones to be generated.

    Args:
        arrays_NCHW: float32, zero-padded at the bottom and right to the largest.
        grids_N2: patches along height and width.
        token_index_P: where each patch stands in the flattened ``[B*T]`` positions, item after item.
    """

    arrays_NCHW: Tensor
    grids_N2: Tensor
    token_index_P: Tensor

    @property
    def is_ragged(self) -> bool:
        """Whether items differ in size, so that padding has to be masked."""
        return int(self.num_patches_N.sum()) != len(self.grids_N2) * int(self.grids_N2.amax(dim=0).prod())

    @property
    def num_patches_N(self) -> Tensor:
        """Tokens of each item."""
        return self.grids_N2[:, 0] * self.grids_N2[:, 1]


@dataclass
class Batch:
    """Packed rows. ``doc_id`` is -1 on padding, ``block_id`` is -1 on text and unique within a document.

    Args:
        context: modality -> clean media; ``targets``: modality -> media to be generated.
        emb_a_M, emb_b_M: flat positions of the ``<emb>`` of the media side and of the text side of M pairs.
        positives_MM: bool, pair i's media and pair j's text belong together.
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
    emb_a_M: Tensor
    emb_b_M: Tensor
    positives_MM: Tensor
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

    def to(self, device: torch.device | str) -> "Batch":
        """A copy on another device."""
        return _map_tensors(self, lambda t: t.to(device, non_blocking=True))


def _map_tensors(value: Any, fn: Any) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, fn) for key, item in value.items()}
    if is_dataclass(value):
        kind: Any = type(value)
        return kind(**{f.name: _map_tensors(getattr(value, f.name), fn) for f in fields(value)})
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
    documents: Sequence[Document], tokenizer: Tokenizer, config: ModelConfig, *, row_length: int
) -> Batch:
    """Pack documents into rows of ``row_length`` positions.

    Raises:
        ValueError: a document is longer than a row.
    """
    layouts = [layout(d.segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb) for d in documents]
    return pack_layouts(documents, layouts, config, row_length=row_length)


def pack_layouts(
    documents: Sequence[Document],
    layouts: Sequence[Layout],
    config: ModelConfig,
    *,
    row_length: int,
    one_per_row: bool = False,
) -> Batch:
    """Pack documents that are laid out already. ``one_per_row`` gives document i row i (for generation)."""
    if not layouts:
        raise ValueError("there are no documents to pack; give at least one")
    lengths = [len(x) for x in layouts]
    rows = [[i] for i in range(len(layouts))] if one_per_row else assign_rows(lengths, row_length)
    B, T = len(rows), row_length
    token_ids = np.zeros((B, T), np.int64)
    labels = np.full((B, T), IGNORE, np.int64)
    positions = np.zeros((B, T, 3), np.int64)
    doc_id = np.full((B, T), -1, np.int64)
    block_id = np.full((B, T), -1, np.int64)
    is_noisy = np.zeros((B, T), bool)
    start = np.zeros(len(layouts), np.int64)  # flat position of each document
    for row, members in enumerate(rows):
        at = 0
        for index in members:
            item = layouts[index]
            span = slice(at, at + len(item))
            token_ids[row, span] = item.token_ids_T
            labels[row, span] = item.labels_T
            positions[row, span] = item.positions_T3
            doc_id[row, span] = index
            block_id[row, span] = item.block_id_T
            is_noisy[row, span] = item.is_noisy_T
            start[index] = row * T + at
            at += len(item)

    media = [(int(start[i]) + at, segment) for i, item in enumerate(layouts) for at, segment in item.media]
    emb_a, emb_b, positives = _pairs(documents, layouts, start)
    return Batch(
        token_ids_BT=torch.from_numpy(token_ids),
        labels_BT=torch.from_numpy(labels),
        positions_BT3=torch.from_numpy(positions),
        doc_id_BT=torch.from_numpy(doc_id),
        block_id_BT=torch.from_numpy(block_id),
        is_noisy_BT=torch.from_numpy(is_noisy),
        context=_media_batches([m for m in media if not m[1].noisy], config),
        targets=_media_batches([m for m in media if m[1].noisy], config),
        emb_a_M=torch.tensor(emb_a, dtype=torch.int64),
        emb_b_M=torch.tensor(emb_b, dtype=torch.int64),
        positives_MM=positives,
        emb_D=torch.tensor(
            [int(s) + x.emb[-1][0] if x.emb else -1 for s, x in zip(start, layouts, strict=True)]
        ),
        last_D=torch.from_numpy(start + np.array(lengths) - 1),
        end_position_D=torch.tensor([x.end_position for x in layouts]),
        sample_ids=[d.sample_id for d in documents],
        tasks=[d.task for d in documents],
    )


def _media_batches(media: Sequence[tuple[int, MediaSegment]], config: ModelConfig) -> dict[str, MediaBatch]:
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
        )
    unknown = {segment.modality for _, segment in media} - set(config.modalities)
    if unknown:
        raise ValueError(
            f"the model has no modality {sorted(unknown)[0]!r}; it knows {', '.join(config.modalities)}; "
            "remove the medium or use a model trained with it"
        )
    return out


def _pairs(
    documents: Sequence[Document], layouts: Sequence[Layout], start: np.ndarray
) -> tuple[list[int], list[int], Tensor]:
    """Flat positions of both sides of each complete pair, and which pairs are positives of each other."""
    sides: dict[str, dict[str, int]] = {}
    groups: dict[str, set[str]] = {}
    for document, item, at in zip(documents, layouts, start, strict=True):
        for offset, side in item.emb:
            if side and document.pair_key:
                sides.setdefault(document.pair_key, {})[side] = int(at) + offset
                groups.setdefault(document.pair_key, set()).update(document.group_keys)
    keys = [key for key, found in sides.items() if len(found) == 2]
    group_ids: dict[str, int] = {}
    cells = [
        (row, group_ids.setdefault(g, len(group_ids)))
        for row, key in enumerate(keys)
        for g in sorted(groups[key])
    ]
    member = np.zeros((len(keys), len(group_ids) + 1), np.float32)
    if cells:
        member[tuple(np.array(cells).T)] = 1.0
    positives = torch.from_numpy((member @ member.T > 0) | np.eye(len(keys), dtype=bool))
    return [sides[k]["a"] for k in keys], [sides[k]["b"] for k in keys], positives
