"""Media -> features: a stem cuts and projects, then a few bidirectional blocks of the medium's own.

Items of one call may differ in size: they come zero-padded, and what is padded is masked after every layer,
so that a medium has the same features alone or in a batch.
Shape legend: N items, C channels, F frames or rows, W columns, P patches (padded), D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.config import ModalityConfig, ModelConfig
from sensorium.media.modality import Modality
from sensorium.model.layers import Block, Linear, RMSNorm, rope_tables
from sensorium.sequence.packing import MediaBatch


def patchify(x_NCHW: Tensor, patch: tuple[int, int]) -> Tensor:
    """``[N, C, H, W]`` -> ``[N, P, C*ph*pw]`` in row order (the twin of ``media.modality.patchify``)."""
    N, C, H, W = x_NCHW.shape
    rows, cols = H // patch[0], W // patch[1]
    x = x_NCHW.reshape(N, C, rows, patch[0], cols, patch[1]).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(N, rows * cols, -1)


def unpatchify(x_NPd: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``."""
    N, _, d = x_NPd.shape
    C = d // (patch[0] * patch[1])
    x = x_NPd.reshape(N, grid[0], grid[1], C, patch[0], patch[1]).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(N, C, grid[0] * patch[0], grid[1] * patch[1])


def patch_mask(grids_N2: Tensor, padded: tuple[int, int]) -> Tensor:
    """Bool ``[N, rows, cols]``: which patches of the padded grid belong to the item."""
    rows = torch.arange(padded[0], device=grids_N2.device)[None, :, None] < grids_N2[:, 0, None, None]
    cols = torch.arange(padded[1], device=grids_N2.device)[None, None, :] < grids_N2[:, 1, None, None]
    return rows & cols


def enlarge(mask_Nrc: Tensor, scale: tuple[int, int]) -> Tensor:
    """A mask of patches -> a mask ``[N, 1, rows, cols]`` of the finer grid inside them."""
    return mask_Nrc.repeat_interleave(scale[0], 1).repeat_interleave(scale[1], 2)[:, None]


def unpad(x_NPD: Tensor, mask_NP: Tensor | None) -> Tensor:
    """What the mask lets stay, item after item, ``[sum of P, D]``; None: all, without asking the device how many."""
    return x_NPD.flatten(0, 1) if mask_NP is None else x_NPD[mask_NP]


def strides_of(patch: int) -> list[int]:
    """Prime factors of a patch side, smallest first: 8 -> [2, 2, 2], 6 -> [2, 3]."""
    factors, divisor = [], 2
    while patch > 1:
        while patch % divisor == 0:
            factors.append(divisor)
            patch //= divisor
        divisor += 1
    return factors or [1]


class ConvStem(nn.Module):
    """Early convolutions (arXiv 2106.14881): 3-wide, strided so that their product is the patch.

    A spectrogram's bands are channels and only time is convolved; a picture is convolved in both directions.
    """

    def __init__(self, config: ModelConfig, modality: ModalityConfig) -> None:
        super().__init__()
        self.bands_as_channels = modality.patch[1] == modality.max_size[1]
        heights = strides_of(modality.patch[0])
        widths = [1] * len(heights) if self.bands_as_channels else strides_of(modality.patch[1])
        if len(heights) != len(widths):
            raise ValueError(f"patch {modality.patch} cannot be reached by paired strides; use stem='linear'")
        channels = modality.channels * (modality.max_size[1] if self.bands_as_channels else 1)
        narrow = config.dim if self.bands_as_channels else config.dim // 2 ** (len(heights) - 1)
        convolutions = []
        for level, stride in enumerate(zip(heights, widths, strict=True)):
            out = config.dim if level == len(heights) - 1 else min(config.dim, narrow * 2**level)
            # A stride over 3 would skip values: widen the kernel to the stride. The padding is the overlap of
            # neighbouring windows, so that the last value of a medium is read as well.
            kernel = (max(3, stride[0]), 1 if self.bands_as_channels else max(3, stride[1]))
            padding = ((kernel[0] - stride[0] + 1) // 2, (kernel[1] - stride[1] + 1) // 2)
            convolutions.append(nn.Conv2d(channels, out, kernel, stride, padding))
            channels = out
        self.convolutions = nn.ModuleList(convolutions)
        self.projection = Linear(config.dim, config.dim, bias=False)

    def forward(self, x_NCHW: Tensor, mask_Nrc: Tensor | None) -> Tensor:
        """-> ``[N, P, D]``; padding is zeroed after every layer, as if each item stood alone."""
        if self.bands_as_channels:
            x_NCHW = x_NCHW.permute(0, 1, 3, 2).flatten(1, 2)[..., None]
        # Narrow convolutions are quicker with channels last, and patches come out as the next layer wants them.
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            x_NCHW = F.gelu(convolution(x_NCHW))
            if mask_Nrc is not None:
                rows, cols = x_NCHW.shape[2:]
                x_NCHW = x_NCHW * enlarge(mask_Nrc, (rows // mask_Nrc.shape[1], cols // mask_Nrc.shape[2]))
        return self.projection(x_NCHW.flatten(2).transpose(1, 2))


class LinearStem(nn.Module):
    """One projection of each patch (arXiv 2010.11929)."""

    def __init__(self, config: ModelConfig, modality: ModalityConfig) -> None:
        super().__init__()
        self.patch = modality.patch
        self.projection = Linear(modality.patch_dim, config.dim)

    def forward(self, x_NCHW: Tensor, mask_Nrc: Tensor | None) -> Tensor:
        """-> ``[N, P, D]``."""
        return self.projection(patchify(x_NCHW, self.patch))


class MediaEncoder(nn.Module):
    """Stem, unshared bidirectional blocks, norm."""

    def __init__(self, config: ModelConfig, modality_config: ModalityConfig, modality: Modality) -> None:
        super().__init__()
        self.config, self.modality_config, self.modality = config, modality_config, modality
        stem = ConvStem if modality_config.stem == "conv" else LinearStem
        self.stem = stem(config, modality_config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(modality_config.num_encoder_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, media: MediaBatch) -> Tensor:
        """Features ``[sum of P, D]`` of all items, item after item in row order."""
        patch = self.modality_config.patch
        padded = (media.arrays_NCHW.shape[2] // patch[0], media.arrays_NCHW.shape[3] // patch[1])
        mask_Nrc = patch_mask(media.grids_N2, padded)
        x_NCHW = media.arrays_NCHW - self.modality_config.blank
        ragged = media.is_ragged(patch)
        if ragged:
            x_NCHW = x_NCHW * enlarge(mask_Nrc, patch)
        x_NPD = self.stem(x_NCHW, mask_Nrc if ragged else None)
        mask_NP = mask_Nrc.flatten(1)
        if len(self.blocks):
            offsets_P3 = torch.as_tensor(self.modality.offsets(padded), device=x_NPD.device)
            rope = rope_tables(offsets_P3[None], self.config.head_dim, self.config.rope_theta)
            attend = mask_NP[:, None, None, :] if ragged else None
            for block in self.blocks:
                x_NPD = block(x_NPD, rope, attend)
        return unpad(self.norm(x_NPD), mask_NP if ragged else None)
