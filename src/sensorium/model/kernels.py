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

    The query heads that share a kv head stand below each other, so that each kv head is one product. All of it is in
    float32, under autocast too: half precision would need a kernel for every new shape (``HalfLinearFunction``).
    """

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, hidden: Tensor | None) -> Tensor:
        """Shapes as in ``layers.attend``; ``hidden`` is True where a query may not see a key."""
        B, N, T, H = q_BNTH.shape
        K = k_BKTH.shape[1]
        ctx.dtype_of_v = v_BKTH.dtype
        with torch.autocast("cpu", enabled=False):
            q = (_full(q_BNTH) * H**-0.5).reshape(B * K, N // K * T, H)
            k, v = (_full(x).reshape(B * K, T, H) for x in (k_BKTH, v_BKTH))
            scores = torch.bmm(q, k.transpose(1, 2))
            if hidden is not None:
                scores.view(B, N, T, T).masked_fill_(hidden, -torch.inf)
            weights = scores.softmax(-1)
            ctx.save_for_backward(q, k, v, weights)
            return torch.bmm(weights, v).view(B, N, T, H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of queries, keys and values."""
        q, k, v, weights = ctx.saved_tensors
        B, N, T, H = grads[0].shape
        grad = grads[0].reshape(q.shape)
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        pull = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(pull, weights, -1, pull.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(H**-0.5)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        grad_v = grad_v.view(B, -1, T, H).to(ctx.dtype_of_v)
        return grad_q.view(B, N, T, H), grad_k.view(B, -1, T, H), grad_v, None


class HalfLinearFunction(torch.autograd.Function):
    """``x W^T + b`` with products in bfloat16, on a number of rows that is rounded up.

    The library behind such products compiles a kernel for every new shape, which takes milliseconds and a megabyte that
    it keeps. A number of tokens that changes with every step would have it compile without end; rounded up there are
    sixteen numbers between one and its double.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[..., D]`` -> ``[..., M]`` in bfloat16."""
        x_TD, half = x.reshape(-1, x.shape[-1]), weight.to(torch.bfloat16)
        x_PD = _rounded(x_TD)
        ctx.save_for_backward(x_PD, half)
        ctx.shape, ctx.dtypes, ctx.has_bias = x.shape, (x.dtype, weight.dtype), bias is not None
        y_PM = x_PD @ half.t()
        if bias is not None:
            y_PM.add_(bias)
        return y_PM[: len(x_TD)].view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Gradients of x, weight and bias."""
        x_PD, half = ctx.saved_tensors
        g_TM = grads[0].reshape(-1, grads[0].shape[-1])
        g_PM = _rounded(g_TM)
        of_x, of_weight = ctx.dtypes
        grad_x = (g_PM @ half)[: len(g_TM)].view(ctx.shape).to(of_x) if ctx.needs_input_grad[0] else None
        grad_bias = g_TM.sum(0, dtype=of_weight) if ctx.has_bias else None
        return grad_x, (g_PM.t() @ x_PD).to(of_weight), grad_bias


def _rounded(x_TD: Tensor) -> Tensor:
    """A copy in bfloat16 with rows of zeros below, at most a sixteenth more than there are (or 31)."""
    T, D = x_TD.shape
    step = max(32, (1 << T.bit_length()) >> 5)
    out_PD = x_TD.new_empty(-(-T // step) * step, D, dtype=torch.bfloat16)
    out_PD[:T] = x_TD
    out_PD[T:] = 0
    return out_PD
