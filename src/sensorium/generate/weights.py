"""Weight matrices laid out for inference, each with the product ``x W^T`` that its layout is for.

Shape legend: M rows of activations, N outputs, K inputs, Q = K / 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Int8Weight:
    """Symmetric 8-bit integers with one float32 scale for each output; activations stay in float32.

    Four integers share a word: byte i of word j of a row is input ``i Q + j``, so that shifts turn words into
    whole vectors of neighbouring inputs.

    Args:
        words_NQ: int32. scale_N: float32.
    """

    words_NQ: Tensor
    scale_N: Tensor

    def dequantize(self) -> Tensor:
        """float32 ``[N, K]``."""
        bytes_NK = self.words_NQ.view(torch.int8).view(*self.words_NQ.shape, 4).transpose(1, 2).flatten(1)
        return bytes_NK.float() * self.scale_N[:, None]


def quantize(weight_NK: Tensor) -> Int8Weight:
    """Round to the nearest of 255 steps between plus and minus the largest weight of each output.

    Raises:
        ValueError: the number of inputs is not a multiple of 4.
    """
    N, K = weight_NK.shape
    if K % 4:
        raise ValueError(f"int8 weights need inputs in fours and a matrix has {K}; use weights='float32'")
    scale_N = weight_NK.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    steps_NK = (weight_NK / scale_N[:, None]).round().to(torch.int8)
    bytes_NQ4 = steps_NK.view(N, 4, K // 4).transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return Int8Weight(bytes_NQ4.view(torch.int32).view(N, K // 4), scale_N)


@dataclass(frozen=True)
class BlockedWeight:
    """float32 in the blocks of oneDNN, for any number of rows."""

    blocks: Tensor


def blocked(weight_NK: Tensor) -> BlockedWeight | Tensor:
    """The blocked copy of a matrix; the matrix itself where oneDNN does not serve its device or dtype."""
    if weight_NK.device.type != "cpu" or weight_NK.dtype != torch.float32:
        return weight_NK
    if not torch.backends.mkldnn.is_available():
        return weight_NK
    return BlockedWeight(torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), 64))


def linear(x_MK: Tensor, weight: BlockedWeight | Tensor) -> Tensor:
    """``[M, K]`` -> ``[M, N]``."""
    if isinstance(weight, BlockedWeight):
        return torch.ops.mkldnn._linear_pointwise(x_MK.contiguous(), weight.blocks, None, "none", [], "")
    return F.linear(x_MK, weight)


def linear_row(x_1K: Tensor, weights: Sequence[Tensor | tuple[Tensor, Tensor]]) -> Tensor:
    """One row times several matrices, side by side, written for the compiler ``torch.compile`` brings.

    A sum over products of each output becomes a loop that streams a matrix once at the speed of the memory, in all
    threads and fused with what stands around it; the libraries' products of one row reach a third of that.

    Args:
        weights: float32 ``[N, K]``, or words and scales of an ``Int8Weight``.
    """
    return torch.cat([_row_product(x_1K[0], weight) for weight in weights])[None]


def _row_product(x_K: Tensor, weight: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    if isinstance(weight, Tensor):
        return (weight * x_K).sum(-1)
    words_NQ, scale_N = weight
    x_4Q = x_K.view(4, -1)
    # Shifting up and down again extends the sign of each byte; converting bytes as such is ten times slower.
    parts = (((words_NQ << 8 * (3 - i)) >> 24).float() * x_4Q[i] for i in range(4))
    return sum(parts, start=torch.zeros(())).sum(-1) * scale_N
