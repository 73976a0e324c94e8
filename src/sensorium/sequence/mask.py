"""The one attention rule: a boolean mask (any device), masks of documents side by side (training on a CPU), and a
FlexAttention block mask (training on a GPU).

    allowed(q, k) = same document
                    and (k is not later than q, or both lie in the same media block)
                    and (k is clean, or both lie in the same media block)

Text is causal, a picture or a sound is bidirectional inside itself, and nothing but a noisy block itself ever
sees its noise. Padding has ``doc_id`` -1 and sees only itself, so that no row of the softmax is empty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUP_COST = 16  # positions that a call of attention costs beside its work, about


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


@dataclass
class DocumentGroups:
    """Packed rows laid out anew: documents of like length side by side, so that none pays for another.

    Linear layers and norms see N positions, hardly any of them padding; attention sees each group as its own batch of
    rows, one document in each.

    Args:
        index_N: which of the ``[B*T]`` packed positions stands at each of N.
        inverse_BT: where among N each packed position went; padding went anywhere.
        masks: bool ``[rows, 1, length, length]`` of each group, in order of N.
    """

    index_N: Tensor
    inverse_BT: Tensor
    masks: list[Tensor]


def group_documents(doc_id_BT: Tensor, block_id_BT: Tensor, is_noisy_BT: Tensor) -> DocumentGroups:
    """The same rule for rows whose documents are contiguous, as ``sequence.packing`` makes them."""
    doc = doc_id_BT.cpu().numpy()
    new = np.ones(doc.shape, bool)
    new[:, 1:] = doc[:, 1:] != doc[:, :-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=doc.size)
    starts, lengths = (values[doc.flat[starts] >= 0] for values in (starts, lengths))
    order = np.argsort(lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    inverse_BT = np.zeros(doc.size, np.int64)
    index, masks, at = [], [], 0
    for begin, end in _spans(lengths):
        length = np.arange(lengths[end - 1])
        own = length < lengths[begin:end, None]
        # Where a document is shorter than its group, its last position fills up: it has finite values and no reader.
        places = starts[begin:end, None] + np.minimum(length, lengths[begin:end, None] - 1)
        inverse_BT[places[own]] = at + np.flatnonzero(own)
        index.append(torch.from_numpy(places).to(doc_id_BT.device))
        is_padding = torch.from_numpy(~own).to(doc_id_BT.device)
        doc_id, block_id, is_noisy = (x.flatten()[index[-1]] for x in (doc_id_BT, block_id_BT, is_noisy_BT))
        masks.append(attention_mask(doc_id.masked_fill(is_padding, -1), block_id, is_noisy))
        at += places.size
    inverse = torch.from_numpy(inverse_BT).to(doc_id_BT.device).view(doc_id_BT.shape)
    return DocumentGroups(torch.cat([i.flatten() for i in index]), inverse, masks)


def _spans(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Cut ascending lengths into groups at the least cost: padded positions, and a constant for each group."""
    ends = (
        np.append(np.flatnonzero(np.diff(lengths)), len(lengths) - 1) + 1
    )  # a cut between equal lengths saves nothing
    begins = np.append(0, ends[:-1])
    cost, cut = np.zeros(len(ends) + 1), np.zeros(len(ends), np.int64)
    for last, end in enumerate(ends):
        total = cost[: last + 1] + (end - begins[: last + 1]) * lengths[end - 1] + GROUP_COST
        cut[last] = np.argmin(total)
        cost[last + 1] = total[cut[last]]
    spans: list[tuple[int, int]] = []
    last = len(ends) - 1
    while last >= 0:
        spans.insert(0, (int(begins[cut[last]]), int(ends[last])))
        last = int(cut[last]) - 1
    return spans
