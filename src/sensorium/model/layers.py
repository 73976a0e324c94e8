"""The parts of a block: RMSNorm, three-axis rotary positions, grouped-query attention, SwiGLU, the block.

Shape legend: B batch, T tokens (queries), S tokens (keys), D width, N heads, K kv heads, H head dim.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.config import ModelConfig
from sensorium.model.kernels import (
    SHORT,
    HalfLinearFunction,
    RMSNormFunction,
    ShortAttentionFunction,
    TurnFunction,
)
from sensorium.model.kv_cache import LayerCache
from sensorium.sequence.mask import DocumentGroups

if TYPE_CHECKING:  # takes long to import, and is for training on a GPU
    from torch.nn.attention.flex_attention import BlockMask

Mask: TypeAlias = "Tensor | DocumentGroups | BlockMask | None"


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale (arXiv 1910.07467), computed in float32 as Qwen3 does."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any shape ending in dim -> the same shape."""
        if training_on_cpu(x):
            return RMSNormFunction.apply(x, self.weight, self.eps)
        if self.weight.dtype == torch.float32:
            x = x.float()  # what a product leaves under autocast; of two types there is no fused norm
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def training_on_cpu(x: Tensor) -> bool:
    """Whether the functions of ``kernels`` are the fast ones; under autocast for what products leave behind, too."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"))


class Linear(nn.Linear):
    """As its parent, with a product of its own where a CPU computes in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., M]``."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b``."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        return HalfLinearFunction.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def rope_tables(positions_BT3: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[B, 1, T, H]`` for three-axis positions.

    Frequency j turns by the position on axis ``j mod 3``: the axes are interleaved, so that each one sees the
    whole range of frequencies (Qwen3-VL; Qwen2-VL, arXiv 2409.12191, gives each axis one contiguous range). A
    text token at (p, p, p) gets exactly the angles of one-axis RoPE (arXiv 2104.09864).
    """
    half = head_dim // 2
    exponent = torch.arange(0, head_dim, 2, device=positions_BT3.device, dtype=torch.float32) / head_dim
    inverse_frequency = 1.0 / theta**exponent
    axis = torch.arange(half, device=positions_BT3.device) % 3
    angles = positions_BT3[..., axis].float() * inverse_frequency
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def apply_rope(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (i, i + H/2), the "rotate half" layout of Llama and Qwen."""
    if training_on_cpu(x_BNTH):
        return TurnFunction.apply(x_BNTH, cos, sin)
    first, second = x_BNTH.chunk(2, dim=-1)
    return x_BNTH * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask: Mask) -> Tensor:
    """Softmax attention, each kv head serving N / K query heads -> ``[B, N, T, H]``.

    Args:
        mask: bool, broadcastable to ``[B, N, T, S]``, True where a query may see a key; None: no mask;
            ``DocumentGroups``: B is 1 and T the N positions of the groups, each of which is attended on its own;
            ``BlockMask``: FlexAttention, on a GPU.
    """
    if isinstance(mask, DocumentGroups):
        return _attend_groups(q_BNTH, k_BKSH, v_BKSH, mask)
    if mask is None or isinstance(mask, Tensor):
        if training_on_cpu(q_BNTH) and q_BNTH.shape[2] == k_BKSH.shape[2] <= SHORT:
            return ShortAttentionFunction.apply(q_BNTH, k_BKSH, v_BKSH, None if mask is None else ~mask)
        return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=mask, enable_gqa=True)
    # Norms and rotation leave float32 behind where the projections are in half precision.
    q_BNTH, k_BKSH = q_BNTH.to(v_BKSH.dtype), k_BKSH.to(v_BKSH.dtype)
    return compiled_flex_attention()(q_BNTH, k_BKSH, v_BKSH, block_mask=mask, enable_gqa=True)


def _attend_groups(q_1NTH: Tensor, k_1KTH: Tensor, v_1KTH: Tensor, groups: DocumentGroups) -> Tensor:
    sizes = [mask.shape[0] * mask.shape[-1] for mask in groups.masks]
    parts = zip(*(x[0].split(sizes, dim=1) for x in (q_1NTH, k_1KTH, v_1KTH)), groups.masks, strict=True)
    out = [attend(_rows(q, len(m)), _rows(k, len(m)), _rows(v, len(m)), m) for q, k, v, m in parts]
    return torch.cat([x.transpose(0, 1).flatten(1, 2) for x in out], dim=1)[None]


def _rows(x_NTH: Tensor, num_rows: int) -> Tensor:
    """Positions one after the other -> ``[num_rows, N, length, H]``."""
    return x_NTH.unflatten(1, (num_rows, -1)).transpose(0, 1)


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Any:
    """Only compiled does it skip what the mask rules out."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def pick(x_BT: Tensor, read_R: Tensor) -> Tensor:
    """``[B, T, ...]`` -> ``[1, R, ...]`` at flat positions."""
    return x_BT.flatten(0, 1)[read_R][None]


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245) with per-head QK-norm and rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        self.q_proj = Linear(config.dim, self.num_heads * self.head_dim, bias=False)
        self.k_proj = Linear(config.dim, self.num_kv_heads * self.head_dim, bias=False)
        self.v_proj = Linear(config.dim, self.num_kv_heads * self.head_dim, bias=False)
        self.o_proj = Linear(self.num_heads * self.head_dim, config.dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x_BTD: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Mask,
        cache: LayerCache | None = None,
        read_R: Tensor | None = None,
    ) -> Tensor:
        """Attend within x, or over the cache, which then takes x in first.

        Args:
            read_R: flat positions that are wanted, ``[1, R, D]``; None: all.
        """
        B, T, _ = x_BTD.shape
        q_BNTH = self.q_norm(self.q_proj(x_BTD).view(B, T, self.num_heads, self.head_dim)).transpose(1, 2)
        k_BKTH = self.k_norm(self.k_proj(x_BTD).view(B, T, self.num_kv_heads, self.head_dim)).transpose(1, 2)
        v_BKTH = self.v_proj(x_BTD).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q_BNTH, k_BKTH = apply_rope(q_BNTH, *rope), apply_rope(k_BKTH, *rope)
        if cache is not None:
            k_BKTH, v_BKTH = cache.put(k_BKTH, v_BKTH)
        out_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, mask)
        out_BTD = out_BNTH.transpose(1, 2).flatten(2)
        return self.o_proj(out_BTD if read_R is None else pick(out_BTD, read_R))


class SwiGLU(nn.Module):
    """Gated feed-forward (arXiv 2002.05202)."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, mlp_dim, bias=False)
        self.up_proj = Linear(dim, mlp_dim, bias=False)
        self.down_proj = Linear(mlp_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape ending in dim -> the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm transformer block: the Qwen3 block, with an optional feed-forward for generated blocks.

    Args:
        config: widths.
        with_expert: add the second feed-forward that noisy tokens use (arXiv 2411.04996).
    """

    def __init__(self, config: ModelConfig, *, with_expert: bool = False) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.mlp_dim)
        self.noisy_mlp = SwiGLU(config.dim, config.mlp_dim) if with_expert else None

    def forward(
        self,
        x_BTD: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Mask,
        is_noisy_BT: Tensor | None = None,
        cache: LayerCache | None = None,
        read_R: Tensor | None = None,
    ) -> Tensor:
        """Shapes as in ``attend`` and ``Attention``; ``is_noisy`` chooses the feed-forward."""
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), rope, mask, cache, read_R)
        if read_R is not None:
            x_BTD = pick(x_BTD, read_R)
            is_noisy_BT = None if is_noisy_BT is None else pick(is_noisy_BT, read_R)
        x_BTD = x_BTD + attended_BTD
        h_BTD = self.post_attention_layernorm(x_BTD)
        if self.noisy_mlp is None or is_noisy_BT is None:
            return x_BTD + self.mlp(h_BTD)
        # Both feed-forwards are called in every step, on as many tokens as there are (none too): every rank
        # touches every parameter, and no token pays twice.
        out_BTD = torch.empty_like(x_BTD)
        out_BTD[~is_noisy_BT] = self.mlp(h_BTD[~is_noisy_BT]).to(x_BTD.dtype)
        out_BTD[is_noisy_BT] = self.noisy_mlp(h_BTD[is_noisy_BT]).to(x_BTD.dtype)
        return x_BTD + out_BTD
