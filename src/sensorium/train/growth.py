"""A model grown to twice its width: it starts where the narrow one ended, and goes on learning with more room.

Widening that keeps the function: Net2Net, arXiv 1511.05641; for a transformer with its norms: arXiv 2203.06211.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def widen(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], seed: int = 0
) -> dict[str, Tensor]:
    """Weights of a model -> weights of one in which every width is the same or doubled, computing the same.

    The residual stream becomes ``[x, x]``: what writes to it is written twice, and what reads it reads ``W / 2 + d``
    from one half and ``W / 2 - d`` from the other. The random ``d`` cancels as long as both halves are equal, gives
    each half gradients of its own, so that they part, and makes entries as large as those of a wide layer.

    Args:
        tensors: of the narrow model. shapes: name -> shape in the wide one.

    Returns:
        A tensor of the wanted shape, float32, for every name of ``tensors`` that ``shapes`` has. A shape that doubling
        does not reach is left as it is, for the loader to name.

    Raises:
        ValueError: heads are wider: they would turn by other angles and attend elsewhere.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = {}
    for name, tensor in tensors.items():
        wanted = shapes.get(name, tensor.shape)
        times = _times(tensor.shape, wanted)
        if times == [2] and name.endswith((".q_norm.weight", ".k_norm.weight")):
            raise ValueError(
                f"{name} has {len(tensor)} values and {wanted[0]} are wanted: heads cannot be grown; keep "
                "model.head_dim and double model.num_heads and model.num_kv_heads"
            )
        wide[name] = tensor if times is None else _widened(name, tensor.float(), times, generator)
    return wide


def _times(shape: torch.Size, wanted: torch.Size) -> list[int] | None:
    """How often each axis is repeated, 1 or 2; None where that does not lead from one shape to the other."""
    if len(shape) != len(wanted) or any(b not in (a, 2 * a) for a, b in zip(shape, wanted, strict=True)):
        return None
    return [b // a for a, b in zip(shape, wanted, strict=True)]


def _widened(name: str, weight: Tensor, times: list[int], generator: torch.Generator) -> Tensor:
    if name == "norm.weight":
        # Whatever reads the last hidden states, tied embeddings too, would find them twice.
        return weight.repeat(times) / max(times)
    if len(times) < 2 or times[1] == 1 or name == "embed_tokens.weight":
        return weight.repeat(times)
    halved = weight if _reads_hidden_states(name) else weight / 2
    rows = halved.repeat(times[0], *[1] * (weight.dim() - 1))
    apart = torch.randn(rows.shape, generator=generator) * weight.std() / 2
    return torch.cat([rows + apart, rows - apart], dim=1)


def _reads_hidden_states(name: str) -> bool:
    """Whether a weight reads what the last norm leaves, which is halved already."""
    return name.startswith(("lm_head.", "latent_proj.")) or name.endswith((".out.weight", ".gate.weight"))
