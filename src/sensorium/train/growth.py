"""A model grown to twice its width: it starts where the narrow one ended, and goes on learning with more room.

Widening that keeps the function: Net2Net, arXiv 1511.05641; for a transformer with its norms: arXiv 2203.06211.
"""

import dataclasses

import torch
from torch import Tensor

from sensorium.config import ModelConfig
from sensorium.model.heads import is_head
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import check_tensors

WIDTHS = ("dim", "mlp_dim", "latent_dim", "num_heads", "num_kv_heads")  # num_kv_heads with num_heads


def widen(model: Sensorium, wide: ModelConfig, where: str, seed: int = 0) -> dict[str, Tensor]:
    """A model -> weights of one in which every width is the same or doubled, computing the same.

    The residual stream becomes ``[x, x]``: what writes to it is written twice, and what reads it reads ``W / 2 + d``
    from one half and ``W / 2 - d`` from the other. The random ``d`` cancels as long as both halves are equal, gives
    each half gradients of its own, so that they part, and makes entries as large as those of a wide layer.

    Args:
        where: what the model is called in errors.

    Returns:
        Tensors in the shapes of the wide model; the model's own where no width differs. A speller that it lacks is new.

    Raises:
        ValueError: a width that is neither the same nor twice as large, or a tensor that differs in more than widths.
    """
    narrow, tensors = model.config, model.state_dict()
    found = {key: (getattr(narrow, key), getattr(wide, key)) for key in WIDTHS}
    for key, (old, new) in found.items():
        if new not in (old, 2 * old):
            raise ValueError(
                f"{where}: model.{key} is {old}, the configuration has {new}; a run starts from a model of the same "
                f"width or half of it: set it to {old} or {2 * old}"
            )
    if narrow.num_heads * wide.num_kv_heads != wide.num_heads * narrow.num_kv_heads:
        raise ValueError(
            f"{where}: {narrow.num_heads} heads share {narrow.num_kv_heads} key-value heads, and {wide.num_heads} are to "
            f"share {wide.num_kv_heads}; double both or neither"
        )
    with torch.device("meta"):
        like = Sensorium(
            dataclasses.replace(wide, **{key: old for key, (old, _) in found.items()})
        ).state_dict()
        grown = Sensorium(wide).state_dict()
    # A speller that the narrow model lacks starts anew: no other part reads what it says.
    lacking = [name for name in grown if name.startswith("spellers.") and name not in tensors]
    new = {}
    if lacking:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = Sensorium(wide).state_dict()
        new = {name: fresh[name] for name in lacking}
    check_tensors(tensors, {name: tensor for name, tensor in like.items() if name not in new}, where)
    generator = torch.Generator().manual_seed(seed)
    return new | {
        name: tensor
        if tensor.shape == grown[name].shape
        else _widened(name, tensor, grown[name].shape, generator)
        for name, tensor in tensors.items()
    }


def _widened(name: str, weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    weight = weight.float()
    times = [new // old for old, new in zip(weight.shape, shape, strict=True)]
    if name == "norm.weight":
        # Whatever reads the last hidden states, tied embeddings too, would find them twice.
        return weight.repeat(times) / 2
    if len(times) < 2 or times[1] == 1 or name == "embed_tokens.weight":
        return weight.repeat(times)
    # What the last norm leaves is halved already.
    halved = weight if is_head(name) else weight / 2
    rows = halved.repeat(times[0], *[1] * (weight.dim() - 1))
    apart = torch.randn(rows.shape, generator=generator) * weight.std() / 2
    return torch.cat([rows + apart, rows - apart], dim=1)
