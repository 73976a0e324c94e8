"""Positions and noise through the trunk: the three kinds of work that the engine does, and nothing of their order.

Shape legend: B sequences, T new positions, S positions so far, D width, N media, P patches, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sensorium.generate.denoising import Drawing
from sensorium.generate.sequences import BLOCK, TIME, TOKEN, WIDTH, FeatureCache, Placed, TokenSequence
from sensorium.model.flow import to_clean, velocity
from sensorium.model.kv_cache import KVCache
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import block_offsets
from sensorium.sequence.packing import MediaBatch, stack_sources


class Runtime(Protocol):
    """What runs the trunk: the model itself, or a faster stand-in with its weights."""

    def trunk(
        self,
        x_BTD: Tensor,
        positions_BT3: Tensor,
        mask: Tensor | None,
        is_noisy_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Embeds -> hidden states; see ``Sensorium.trunk``."""

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., V]``."""


class Reader:
    """Reads sequences into the cache and takes denoising steps behind them."""

    def __init__(self, model: Sensorium, runtime: Runtime, cache: KVCache, features: FeatureCache) -> None:
        self.model, self.runtime, self.cache, self.features = model, runtime, cache, features
        self.device = model.embed_tokens.weight.device

    def read(self, chunks: Sequence[tuple[TokenSequence, int]]) -> None:
        """Read so many positions of each sequence; where all is read, ``hidden_D`` is set."""
        sequences = [sequence for sequence, _ in chunks]
        counts = [count for _, count in chunks]
        B, T = len(chunks), max(counts)
        table = np.zeros((B, T, 6), np.int64)
        table[:, :, BLOCK] = -1
        for b, (sequence, count) in enumerate(chunks):
            table[b, :count] = sequence.table[sequence.num_read : sequence.num_read + count]
        tables = torch.from_numpy(table).to(self.device)
        x_BTD = self.model.embed_tokens(tables[:, :, TOKEN])
        if (table[:, :, BLOCK] >= 0).any():
            x_BTD = self._with_features(x_BTD, chunks)
        self.cache.begin([_row(s) for s in sequences], counts)
        mask = self._mask(tables[:, :, BLOCK], counts)
        positions = tables[:, :, TIME : WIDTH + 1]
        hidden_BTD = self.runtime.trunk(x_BTD, positions, mask, None, self.cache)
        self.cache.commit()
        for b, (sequence, count) in enumerate(chunks):
            sequence.num_read += count
            if not sequence.num_unread:
                # A copy: a view would keep the hidden states of the whole chunk alive.
                sequence.hidden_D = hidden_BTD[b, count - 1].clone()

    def logits(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Next-token logits ``[B, V]`` in float32."""
        hidden = [s.hidden_D for s in sequences if s.hidden_D is not None]
        return self.runtime.logits(torch.stack(hidden)).float()

    def spelled(self, placed: Placed) -> Tensor:
        """Log-probabilities ``[T, 256]`` of what the encoder spells of a medium, several times to a patch."""
        modality = placed.segment.modality
        return self.model.spell(modality, self._encode([placed])[placed.key]).float().log_softmax(dim=-1)

    def denoise(self, modality: str, items: Sequence[tuple[Drawing, str]]) -> None:
        """One evaluation of the velocity of each drawing's block behind one of its branches."""
        config = self.model.config
        modality_config = config.modalities[modality]
        drawings = [drawing for drawing, _ in items]
        sequences = [drawing.branches[branch] for drawing, branch in items]
        grids = [drawing.grid for drawing in drawings]
        media = blank_media(grids, modality_config.channels, modality_config.patch, self.device)
        for n, drawing in enumerate(drawings):
            media.arrays_NCHW[n, :, : drawing.z.shape[1], : drawing.z.shape[2]] = drawing.z
        sources = [drawing.sources[branch] for drawing, branch in items]
        if any(source is not None for source in sources):
            media.sources = stack_sources(sources, media.arrays_NCHW)
        t_N = torch.tensor([drawing.t for drawing in drawings], device=self.device)
        num_new = [h * w for h, w in grids]
        B, T = len(items), max(num_new)
        head: Any = self.model.media_heads[modality]
        embeds_PD = head.embed(media.arrays_NCHW, t_N, media)
        x_BTD = embeds_PD.new_zeros(B * T, config.dim).index_copy(0, media.token_index_P, embeds_PD)
        offsets = np.zeros((B, T, 3), np.int64)
        for b, (sequence, grid) in enumerate(zip(sequences, grids, strict=True)):
            offsets[b, : num_new[b]] = block_offsets(modality, grid) + sequence.position
        self.cache.begin([_row(s) for s in sequences], num_new)
        ends = torch.tensor([s.num_read + n for s, n in zip(sequences, num_new, strict=True)])
        mask = (torch.arange(self.cache.end) < ends[:, None])[:, None, None].to(self.device)
        hidden = self.runtime.trunk(
            x_BTD.view(B, T, -1),
            torch.from_numpy(offsets).to(self.device),
            mask if B > 1 else None,
            torch.ones(B, T, dtype=torch.bool, device=self.device),
            self.cache,
        )
        said = self.model.predict(modality, hidden.flatten(0, 1)[media.token_index_P], media)
        clean = to_clean(said, media.arrays_NCHW, t_N, config.target)
        v_NCHW = velocity(clean, media.arrays_NCHW, t_N)
        for n, (drawing, branch) in enumerate(items):
            drawing.take(branch, v_NCHW[n, :, : drawing.z.shape[1], : drawing.z.shape[2]])

    def _mask(self, block_BT: Tensor, counts: Sequence[int]) -> Tensor | None:
        """Who sees whom in a step: everything read before, and of the new positions what the one mask allows."""
        B, T = block_BT.shape
        past_B = self.cache.slots_BT[:, 0]
        end = self.cache.end
        if T == 1:
            if B == 1:
                return None
            return (torch.arange(end, device=self.device) <= past_B[:, None])[:, None, None]
        # Where key s stands among the new positions; below 0 it was read before.
        new_BS = torch.arange(end, device=self.device) - past_B[:, None]
        counts_B = torch.tensor(counts, device=self.device)
        key_block_BS = block_BT.gather(1, new_BS.clamp(0, T - 1))
        key_block_BS = key_block_BS.masked_fill((new_BS < 0) | (new_BS >= counts_B[:, None]), -1)
        not_later = new_BS[:, None] <= torch.arange(T, device=self.device)[None, :, None]
        same_block = (key_block_BS[:, None] == block_BT[:, :, None]) & (block_BT[:, :, None] >= 0)
        return (not_later | same_block)[:, None]

    def _with_features(self, x_BTD: Tensor, chunks: Sequence[tuple[TokenSequence, int]]) -> Tensor:
        """Put features where media stand in the chunks."""
        found: list[tuple[int, int, Placed]] = []
        for b, (sequence, count) in enumerate(chunks):
            start, end = sequence.num_read, sequence.num_read + count
            found += [(b, p.at - start, p) for p in sequence.media if start <= p.at < end]
        features = self._encode([placed for _, _, placed in found])
        for b, at, placed in found:
            feature = features[placed.key]
            assert len(feature) == placed.end - placed.at, "media tokens must equal media features"
            x_BTD[b, at : at + len(feature)] = feature.to(x_BTD.dtype)
        return x_BTD

    def _encode(self, media: Sequence[Placed]) -> dict[int, Tensor]:
        """Features of media by content; those of one size that are not known yet are encoded together."""
        out: dict[int, Tensor] = {}
        groups: dict[tuple[str, tuple[int, int]], list[Placed]] = {}
        for placed in media:
            known = out.get(placed.key)
            known = self.features.get(placed.key) if known is None else known
            if known is not None:
                out[placed.key] = known
            else:
                group = groups.setdefault((placed.segment.modality, placed.segment.grid), [])
                if all(placed.key != other.key for other in group):
                    group.append(placed)
        for (modality, grid), group in groups.items():
            arrays = torch.from_numpy(np.stack([placed.segment.array for placed in group])).to(self.device)
            grids = torch.tensor([grid] * len(group), device=self.device)
            index = torch.arange(len(group) * grid[0] * grid[1], device=self.device)
            features = self.model.encoders[modality](MediaBatch(arrays, grids, index))
            for placed, feature in zip(group, features.chunk(len(group)), strict=True):
                out[placed.key] = feature.clone()
                self.features.put(placed.key, out[placed.key])
        return out


def blank_media(
    grids: Sequence[tuple[int, int]],
    channels: int,
    patch: tuple[int, int],
    device: torch.device,
) -> MediaBatch:
    """The frame of blocks that stand at the start of rows of their own."""
    height, width = max(h for h, _ in grids), max(w for _, w in grids)
    longest = max(h * w for h, w in grids)
    index = torch.cat([row * longest + torch.arange(h * w) for row, (h, w) in enumerate(grids)])
    arrays = torch.zeros(len(grids), channels, height * patch[0], width * patch[1], device=device)
    return MediaBatch(arrays, torch.tensor(grids, device=device), index.to(device))


def _row(sequence: TokenSequence) -> int:
    assert sequence.row is not None
    return sequence.row
