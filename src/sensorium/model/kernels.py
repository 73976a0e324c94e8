"""Norm, rotation and attention for training on a CPU, with backward passes written out, which have none of their own.

There eager PyTorch goes through memory once for every elementary step of the same formulas, forward and backward, and
its fused attention is made for sequences far longer than a document of a picture and its name.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 256  # tokens up to which all weights of an attention are kept for its backward pass


def _full(x: Tensor) -> Tensor:
    """What sums and exponentials are computed in: half precision only carries products."""
    return x.float() if x.element_size() == 2 else x


class RMSNormFunction(torch.autograd.Function):
    """``y = x r w`` with ``r = 1 / rms(x)``; ``dx = r g w - x r^3 mean(g w x)`` (arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Any shape ending in dim -> the same shape; of half precision in float32."""
        x_full = _full(x)
        mean_square = torch.linalg.vector_norm(x_full, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        r = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, r, weight)
        return (x_full * r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of x and weight."""
        x, r, weight = ctx.saved_tensors
        x_TD, g_TD, r_T1 = (_full(a).reshape(-1, a.shape[-1]) for a in (x, grads[0], r))
        gx_TD = g_TD * x_TD
        grad_weight = (r_T1.t() @ gx_TD)[0]
        pull_T1 = (gx_TD @ weight)[:, None].mul_(r_T1.pow(3)).div_(-x.shape[-1])
        grad_TD = (g_TD * weight).mul_(r_T1).addcmul_(x_TD, pull_T1)
        return grad_TD.view(x.shape).to(x.dtype), grad_weight, None


class TurnFunction(torch.autograd.Function):
    """Rotation of pairs (i, i + H/2); its backward turns the gradient the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Shapes as in ``layers.apply_rope``."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return out


class ShortAttentionFunction(torch.autograd.Function):
    """Softmax attention of at most ``SHORT`` tokens by plain products (arXiv 1706.03762, equation 1).

    The query heads that share a kv head stand below each other, so that each kv head is one product. Products are in
    autocast's type, if there is one, the softmax is in float32.
    """

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, hidden: Tensor | None) -> Tensor:
        """Shapes as in ``layers.attend``; ``hidden`` is True where a query may not see a key."""
        B, N, T, H = q_BNTH.shape
        ctx.dtypes = q_BNTH.dtype, k_BKTH.dtype, v_BKTH.dtype
        # Not the type of the values: what no product has made is in float32 under autocast, too.
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else v_BKTH.dtype
        q, k, v = (_in_rows(x, dtype, k_BKTH.shape[1]) for x in (q_BNTH, k_BKTH, v_BKTH))
        scores = _full(_scaled(q, k.transpose(1, 2), H**-0.5))
        if hidden is not None:
            scores.view(B, N, T, T).masked_fill_(hidden, -torch.inf)
        weights = scores.softmax(-1).to(v.dtype)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v).view(B, N, T, H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of queries, keys and values."""
        q, k, v, weights = ctx.saved_tensors
        B, N, T, H = grads[0].shape
        grad = grads[0].reshape(q.shape)
        pull = _full(torch.bmm(grad, v.transpose(1, 2)))
        grad_scores = torch._softmax_backward_data(pull, _full(weights), -1, pull.dtype).to(q.dtype)
        found = (
            _scaled(grad_scores, k, H**-0.5).view(B, N, T, H),
            _scaled(grad_scores.transpose(1, 2), q, H**-0.5).view(B, -1, T, H),
            torch.bmm(weights.transpose(1, 2), grad).view(B, -1, T, H),
        )
        grad_q, grad_k, grad_v = (x.to(dtype) for x, dtype in zip(found, ctx.dtypes, strict=True))
        return grad_q, grad_k, grad_v, None


def _in_rows(x_BNTH: Tensor, dtype: torch.dtype, num_kv_heads: int) -> Tensor:
    """Heads -> ``[B K, N / K T, H]``: those that share a kv head below each other; at most one copy."""
    B, N, T, H = x_BNTH.shape
    x = x_BNTH.to(
        dtype, memory_format=torch.contiguous_format
    ).contiguous()  # where the type stays, to() does nothing
    return x.view(B * num_kv_heads, N // num_kv_heads * T, H)


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale a b``, in one pass."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)
