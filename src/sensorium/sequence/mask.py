"""The one attention rule, as a boolean mask (CPU, and any device) and as a FlexAttention block mask (GPU).

    allowed(q, k) = same document
                    and (k is not later than q, or both lie in the same media block)
                    and (k is clean, or both lie in the same media block)

Text is causal, a picture or a sound is bidirectional inside itself, and nothing but a noisy block itself ever
sees its noise. Padding has ``doc_id`` -1 and sees only itself, so that no row of the softmax is empty.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention_mask(doc_id_BT: Tensor, block_id_BT: Tensor, is_noisy_BT: Tensor) -> Tensor:
    """The rule as bool ``[B, 1, T, T]``: True where query (row) may see key (column)."""
    doc_q, doc_k = doc_id_BT[:, :, None], doc_id_BT[:, None, :]
    block_q, block_k = block_id_BT[:, :, None], block_id_BT[:, None, :]
    index = torch.arange(doc_id_BT.shape[1], device=doc_id_BT.device)
    not_later = index[None, :, None] >= index[None, None, :]
    same_block = (block_q == block_k) & (block_q >= 0)
    allowed = (doc_q == doc_k) & (not_later | same_block) & (~is_noisy_BT[:, None, :] | same_block)
    is_pad = doc_id_BT < 0
    itself = not_later & not_later.transpose(1, 2)
    return torch.where(is_pad[:, :, None], itself, allowed & ~is_pad[:, None, :])[:, None]


def flex_block_mask(doc_id_BT: Tensor, block_id_BT: Tensor, is_noisy_BT: Tensor) -> Any:
    """The same rule for ``torch.nn.attention.flex_attention`` (whole blocks of the mask are skipped)."""
    from torch.nn.attention.flex_attention import create_block_mask

    rule = flex_rule(doc_id_BT, block_id_BT, is_noisy_BT)
    B, T = doc_id_BT.shape
    return create_block_mask(rule, B, None, T, T, device=str(doc_id_BT.device))


def flex_rule(doc_id_BT: Tensor, block_id_BT: Tensor, is_noisy_BT: Tensor) -> Callable[..., Tensor]:
    """The rule as a ``mask_mod`` of FlexAttention."""

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        doc_q, doc_k = doc_id_BT[b, q], doc_id_BT[b, k]
        same_block = (block_id_BT[b, q] == block_id_BT[b, k]) & (block_id_BT[b, q] >= 0)
        seen = (doc_q == doc_k) & ((q >= k) | same_block) & (~is_noisy_BT[b, k] | same_block)
        return torch.where(doc_q < 0, q == k, seen)

    return allowed
