"""Noise in, signal out: the stem of noisy patches and the head that turns hidden states into a medium."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.config import ModalityConfig, ModelConfig
from sensorium.media.modality import Modality
from sensorium.model.encoders import enlarge, patch_mask, patchify, unpad, unpatchify
from sensorium.model.layers import Linear
from sensorium.sequence.packing import MediaBatch


class NoiseLevel(nn.Module):
    """t in [0, 1] -> an embedding that is *added* to noisy tokens (sinusoids, then a small network)."""

    def __init__(self, dim: int, num_frequencies: int = 64) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.up = Linear(2 * num_frequencies, dim)
        self.down = Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """``[...]`` -> ``[..., D]``."""
        steps = torch.arange(self.num_frequencies, device=t.device, dtype=torch.float32)
        frequency = torch.exp(-math.log(1000.0) * steps / self.num_frequencies) * 1000.0
        angles = t[..., None] * frequency
        return self.down(F.silu(self.up(torch.cat([angles.cos(), angles.sin()], dim=-1))))


def is_head(name: str) -> bool:
    """Whether a parameter of the model stands behind the trunk.

    These are the way out to patches, the projection to the shared space with its scale and bias, and a
    language-model head of its own. Token embeddings that are also the language-model head are a way in, too: no head.
    """
    return name.startswith(("lm_head.", "latent_proj.", "logit_")) or (
        name.startswith("media_heads.") and name.split(".")[2] in ("out", "refiner", "gate", "tint")
    )


class PatchHead(nn.Module):
    """The way in and out of a medium that is being generated.

    ``embed`` projects noisy patches and adds the noise level; ``forward`` projects hidden states to patches,
    puts them together and lets a zero-initialised 3x3 convolution mend the seams. With ``copies_source`` the patches of
    a source are added to the noisy ones, and what comes out is ``(1 - g) drawn + g (source + A source + b)``: a gate for
    each pixel, and a map of the colours for each patch (as the local affine models of arXiv 1707.02880). To paint, to
    take away or to grey what is there needs a few numbers then, and keeps every edge.
    """

    def __init__(self, config: ModelConfig, modality_config: ModalityConfig, modality: Modality) -> None:
        super().__init__()
        self.patch = modality_config.patch
        self.stem = Linear(modality_config.patch_dim, config.dim)
        self.noise_level = NoiseLevel(config.dim)
        self.out = Linear(config.dim, modality_config.patch_dim)
        self.blank = modality_config.blank
        self.stem_source: Linear | None = None
        self.gate: Linear | None = None
        self.tint: Linear | None = None
        channels, hidden = modality_config.channels, 16
        if modality_config.copies_source:
            self.stem_source = Linear(modality_config.patch_dim, config.dim, bias=False)
            self.gate = Linear(config.dim, self.patch[0] * self.patch[1])
            self.tint = Linear(config.dim, channels * (channels + 1))
        self.refiner: nn.Sequential | None = None
        if modality_config.refiner:
            self.refiner = nn.Sequential(
                nn.Conv2d(channels, hidden, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(hidden, channels, 3, padding=1),
            )

    def zeros(self) -> list[Any]:
        """What starts at zero, see the table of ``Sensorium``."""
        refined = self.refiner[-1] if self.refiner is not None else None
        modules = (self.out, refined, self.stem_source, self.gate, self.tint)
        return [module for module in modules if module is not None]

    def embed(self, z_NCHW: Tensor, t_N: Tensor, media: MediaBatch) -> Tensor:
        """Noisy arrays and their levels -> embeds ``[sum of P, D]``."""
        x_NPD = self.stem(patchify(z_NCHW, self.patch)) + self.noise_level(t_N)[:, None]
        if self.stem_source is not None and media.sources is not None:
            seen = media.sources.arrays_NCHW - self.blank
            x_NPD = (
                x_NPD + self.stem_source(patchify(seen, self.patch)) * media.sources.is_there_N[:, None, None]
            )
        return unpad(x_NPD, self._mask(media).flatten(1) if media.is_ragged(self.patch) else None)

    def forward(self, hidden_PD: Tensor, media: MediaBatch) -> Tensor:
        """Hidden states of noisy tokens, item after item -> arrays ``[N, C, H, W]``, zero where padded."""
        mask_Nrc = self._mask(media) if media.is_ragged(self.patch) else None
        x_NCHW = self._refine(self._assemble(self.out(hidden_PD), media, mask_Nrc), mask_Nrc)
        if self.gate is None or media.sources is None:
            return x_NCHW
        # In half precision an open gate would be exactly 1, and never close again: its gradient would be 0.
        logits_N1HW = self._assemble(self.gate(hidden_PD), media, mask_Nrc).float()
        gate_N1HW = torch.sigmoid(logits_N1HW) * media.sources.is_there_N[:, None, None, None]
        return x_NCHW + gate_N1HW * (self._tinted(hidden_PD, media, mask_Nrc) - x_NCHW)

    def _tinted(self, hidden_PD: Tensor, media: MediaBatch, mask_Nrc: Tensor | None) -> Tensor:
        """The sources ``[N, C, H, W]`` in other colours: those of each patch through its own affine map."""
        assert self.tint is not None
        assert media.sources is not None
        C = media.arrays_NCHW.shape[1]
        map_PCc = self.tint(hidden_PD).float().unflatten(1, (C, C + 1))
        source_NPd = patchify(media.sources.arrays_NCHW, self.patch)
        source_PCp = unpad(source_NPd, None if mask_Nrc is None else mask_Nrc.flatten(1)).unflatten(
            1, (C, -1)
        )
        # Not as a product of matrices: autocast would round the colours.
        mixed_PCp = (map_PCc[:, :, :C, None] * source_PCp[:, None]).sum(2)
        tinted_PCp = source_PCp + mixed_PCp + map_PCc[:, :, C:]
        return self._assemble(tinted_PCp.flatten(1), media, mask_Nrc)

    def _refine(self, x_NCHW: Tensor, mask_Nrc: Tensor | None) -> Tensor:
        if self.refiner is None:
            return x_NCHW
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        if mask_Nrc is None:
            return x_NCHW + self.refiner(x_NCHW)
        valid = enlarge(mask_Nrc, self.patch)
        hidden = self.refiner[1](self.refiner[0](x_NCHW)) * valid
        return (x_NCHW + self.refiner[2](hidden)) * valid

    def _assemble(self, patches_Pd: Tensor, media: MediaBatch, mask_Nrc: Tensor | None) -> Tensor:
        """Patches, item after item -> arrays ``[N, d / patch area, H, W]``, zero where the mask has none."""
        N, _, H, W = media.arrays_NCHW.shape
        grid = (H // self.patch[0], W // self.patch[1])
        if mask_Nrc is None:
            return unpatchify(patches_Pd.view(N, grid[0] * grid[1], -1), grid, self.patch)
        padded = patches_Pd.new_zeros(N, grid[0] * grid[1], patches_Pd.shape[-1])
        padded[mask_Nrc.flatten(1)] = patches_Pd
        return unpatchify(padded, grid, self.patch)

    def _mask(self, media: MediaBatch) -> Tensor:
        H, W = media.arrays_NCHW.shape[2:]
        return patch_mask(media.grids_N2, (H // self.patch[0], W // self.patch[1]))
