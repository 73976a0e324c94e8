"""What a token and a step cost in FLOPs, read from the modules themselves.

A multiplication and an addition are two operations. For one token, one pass forward::

    FLOPs = 2 x weights used for the token + 4 x layers x heads x head_dim x tokens attended to

A weight of a matrix is used once for a token. A weight of a convolution is used once for each position it
puts out, so it counts as often as there are such positions for each token. Looking an embedding up is free;
norms, rotations and activations are left out. A test holds this against PyTorch's own counter.
A training step costs about three passes forward.
"""

import torch
from torch import nn

from sensorium.config import ModalityConfig, ModelConfig
from sensorium.model.encoders import MediaEncoder
from sensorium.model.heads import PatchHead
from sensorium.model.layers import Block
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import IGNORE
from sensorium.sequence.packing import Batch

FORMULA = "2 x weights used for the token + 4 x layers x heads x head_dim x tokens attended to"


def build(config: ModelConfig) -> Sensorium:
    """The model without its memory: shapes only, whatever the size."""
    with torch.device("meta"):
        return Sensorium(config)


def flops_per_token(model: Sensorium, context: int) -> dict[str, float]:
    """FLOPs of one pass forward for each kind of token that attends to ``context`` tokens in the trunk."""
    config = model.config
    trunk = _trunk(model) + attention(config, config.num_layers, context)
    out: dict[str, float] = {"text": trunk + 2 * config.vocab_size * config.dim}
    for name, modality in config.modalities.items():
        encoder, head = model.encoders[name], model.media_heads[name]
        assert isinstance(encoder, MediaEncoder)
        assert isinstance(head, PatchHead)
        num_tokens = modality.max_grid[0] * modality.max_grid[1]
        out[f"{name}, seen"] = trunk + _encoder(encoder, num_tokens)
        out[f"{name}, generated (each step)"] = trunk + _head(head, modality, num_tokens)
    return out


def attention(config: ModelConfig, num_layers: int, num_keys: int) -> int:
    """Queries times keys, and weights times values, for one token."""
    return 4 * num_layers * config.num_heads * config.head_dim * num_keys


def _trunk(model: Sensorium) -> int:
    """Matrices of the trunk for one token: with experts it uses one of the two feed-forwards."""
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    return sum(_linears(b) - (_linears(b.noisy_mlp) if b.noisy_mlp is not None else 0) for b in blocks)


def _encoder(encoder: MediaEncoder, num_tokens: int) -> float:
    blocks = sum(_linears(block) for block in encoder.blocks)
    return _stem(encoder.stem) + blocks + attention(encoder.config, len(encoder.blocks), num_tokens)


def _stem(stem: nn.Module) -> float:
    convolutions = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    total, positions = float(_linears(stem)), 1
    # From the last layer, which puts out one position for each token, back to the first.
    for convolution in reversed(convolutions):
        total += 2 * convolution.weight.numel() * positions
        positions *= convolution.stride[0] * convolution.stride[1]
    return total


def _head(head: PatchHead, modality: ModalityConfig, num_tokens: int) -> float:
    pixels = modality.patch[0] * modality.patch[1]
    refiner = [m for m in (head.refiner or []) if isinstance(m, nn.Conv2d)]
    # The noise level is embedded once for a medium.
    level = _linears(head.noise_level) / num_tokens
    matrices = [head.stem, head.out, head.stem_source, head.gate, head.tint]
    return (
        sum(_linears(m) for m in matrices if m is not None)
        + level
        + sum(2 * m.weight.numel() * pixels for m in refiner)
    )


def _linears(module: nn.Module) -> int:
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


class StepFlops:
    """FLOPs of a training step on a batch: three times the pass forward.

    A token attends to the whole of its document, as is usual where MFU is stated (PaLM, arXiv 2204.02311, appendix B,
    does not halve for causality); padding and other documents cost nothing, whatever the kernel does with them. Every
    block counts whole, also where a step leaves out what no loss reads.
    """

    def __init__(self, config: ModelConfig) -> None:
        model = build(config)
        self.config = config
        self.per_token = _trunk(model)
        # Of each modality: fixed for an item, for each of its patches, and for each pair of its patches.
        self.seen: dict[str, tuple[float, float, float]] = {}
        self.generated: dict[str, tuple[float, float, float]] = {}
        self.spelled = {name: float(_linears(speller)) for name, speller in model.spellers.items()}
        for name, modality in config.modalities.items():
            encoder, head = model.encoders[name], model.media_heads[name]
            # Of a modality's own classes the matrices are counted, once for each patch.
            self.seen[name] = (0.0, float(_linears(encoder)), 0.0)
            self.generated[name] = (0.0, float(_linears(head)), 0.0)
            if isinstance(encoder, MediaEncoder):
                self.seen[name] = (0.0, _encoder(encoder, 0), attention(config, len(encoder.blocks), 1))
            if isinstance(head, PatchHead):
                level = _linears(head.noise_level)
                self.generated[name] = (level, _head(head, modality, 1) - level, 0.0)

    def __call__(self, batch: Batch) -> float:
        """Forward and backward on a batch that is in the main memory (its integers are read)."""
        config = self.config
        lengths_D = torch.bincount(batch.doc_id_BT[batch.doc_id_BT >= 0])
        forward = float(self.per_token * batch.num_tokens)
        forward += attention(config, config.num_layers, int(lengths_D.square().sum()))
        forward += 2 * config.vocab_size * config.dim * int((batch.labels_BT != IGNORE).sum())
        num_pairs = len(batch.emb_a_M)
        forward += 2 * config.latent_dim * num_pairs * (2 * config.dim + num_pairs)
        for costs, group in ((self.seen, batch.context), (self.generated, batch.targets)):
            for name, media in group.items():
                patches_N = media.num_patches_N.double()
                item, patch, pair = costs[name]
                forward += float((item + patch * patches_N + pair * patches_N.square()).sum())
        for name, spelled in batch.spelled.items():
            forward += self.spelled[name] * len(spelled.token_index_P)
        return 3 * forward
