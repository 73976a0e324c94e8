"""The model: every modality in through its encoder, one sequence, one trunk, out through its head.

Shape legend: B rows, T positions, D width, V vocabulary, P patches, N media items, M pairs, L latent width.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.config import ModelConfig
from sensorium.media.modality import get_modality
from sensorium.model.flow import Noise, add_noise
from sensorium.model.heads import PatchHead
from sensorium.model.kv_cache import KVCache
from sensorium.model.layers import Block, Linear, Mask, RMSNorm, linear, pick, rope_tables
from sensorium.sequence.mask import flex_block_mask, group_documents
from sensorium.sequence.packing import Batch, MediaBatch


@dataclass
class NoisyMedia:
    """Noisy arrays and levels that stand where a batch's targets are."""

    z_NCHW: Tensor
    t_N: Tensor


NUM_BYTES = 256  # 0 is the blank of connectionist temporal classification


class Sensorium(nn.Module):
    """One transformer, trained jointly.

    Initialisation (``init_weights``):

    ==========================  ==============  ==========================================
    weight                      distribution    std
    ==========================  ==============  ==========================================
    token embedding             normal          0.02 (with tied logits, as Qwen3)
    linear and conv weights     normal          fan_in ** -0.5
    o_proj, down_proj           normal          fan_in ** -0.5 / sqrt(2 num_layers)
    patch head ``out``          zeros           the first prediction is the mean signal
    last refiner convolution    zeros           the refiner starts as the identity
    ``stem_source``, ``gate``   zeros           a source is not seen yet, and half of it is copied
    ``tint``                    zeros           in its own colours
    norms                       ones
    biases of conv stems        normal          0.02 (a token of exactly nothing would make the norms explode)
    other biases                zeros
    ==========================  ==============  ==========================================
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.encoders = nn.ModuleDict()
        self.media_heads = nn.ModuleDict()
        self.spellers = nn.ModuleDict()
        for name, modality_config in config.modalities.items():
            modality = get_modality(name)
            self.encoders[name] = _load_class(modality.encoder)(config, modality_config, modality)
            self.media_heads[name] = _load_class(modality.head)(config, modality_config, modality)
            if modality_config.spelled_per_patch:
                self.spellers[name] = Linear(config.dim, NUM_BYTES * modality_config.spelled_per_patch)
        with_expert = config.experts == "ffn"
        self.layers = nn.ModuleList(Block(config, with_expert=with_expert) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else Linear(config.dim, config.vocab_size, bias=False)
        self.latent_proj = Linear(config.dim, config.latent_dim, bias=False)
        # Softmax starts at CLIP's temperature 0.07; sigmoid at SigLIP's scale 10 and bias -10.
        start = {"softmax": (1 / 0.07, 0.0), "sigmoid": (10.0, -10.0)}[config.align_loss]
        self.logit_scale = nn.Parameter(torch.tensor(start[0]).log())
        self.logit_bias = nn.Parameter(torch.tensor(start[1]), requires_grad=config.align_loss == "sigmoid")
        self.init_weights()

    def forward(
        self,
        batch: Batch,
        noise: dict[str, Noise] | None = None,
        read_R: Tensor | None = None,
        *,
        encoders_only: bool = False,
    ) -> Tensor:
        """A packed training batch -> hidden states ``[B, T, D]`` after the final norm, zero on padding.

        A sound whose words are spelled has there what its encoder made of it: the trunk can then read it like a text.

        Args:
            noise: level and noise for each modality that the batch has targets of.
            read_R: flat positions that are wanted; the others come back as zero, and the last block only makes keys
                and values of them. None: all.
            encoders_only: leave the trunk out; all but what is spelled comes back as zero.
        """
        noisy = {
            name: NoisyMedia(
                add_noise(media.arrays_NCHW, (noise or {})[name], self._scale(name)), (noise or {})[name].t_N
            )
            for name, media in batch.targets.items()
        }
        x_BTD = self.embed(batch, noisy)
        if encoders_only:
            flat = torch.zeros_like(x_BTD).flatten(0, 1)
        else:
            flat = self._read(x_BTD, batch, read_R)
        for spelled in batch.spelled.values():
            heard_PD = pick(x_BTD, spelled.token_index_P)[0]
            flat = flat.index_copy(0, spelled.token_index_P, heard_PD.to(flat.dtype))
        return flat.view_as(x_BTD)

    def _read(self, x_BTD: Tensor, batch: Batch, read_R: Tensor | None) -> Tensor:
        """Embeds -> hidden states ``[B * T, D]``, zero where none is wanted."""
        if read_R is None:
            read_R = (batch.doc_id_BT.flatten() >= 0).nonzero()[:, 0]
        ids = (batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        if x_BTD.is_cuda:
            mask: Mask = flex_block_mask(*ids)
            hidden_1RD = self.trunk(x_BTD, batch.positions_BT3, mask, batch.is_noisy_BT, read_R=read_R)
        else:
            groups = group_documents(*ids)
            laid_out = (pick(a, groups.index_N) for a in (x_BTD, batch.positions_BT3, batch.is_noisy_BT))
            x_1ND, positions_1N3, is_noisy_1N = laid_out
            place_R = groups.inverse_BT.flatten()[read_R]
            hidden_1RD = self.trunk(x_1ND, positions_1N3, groups, is_noisy_1N, read_R=place_R)
        flat = hidden_1RD.new_zeros(x_BTD.shape).flatten(0, 1)
        return flat.index_copy(0, read_R, hidden_1RD[0])

    def embed(self, batch: Batch, noisy: dict[str, NoisyMedia]) -> Tensor:
        """Tokens, clean media and noisy media -> embeds ``[B, T, D]``."""
        x_BTD = self.embed_tokens(batch.token_ids_BT)
        flat = x_BTD.flatten(0, 1)
        indices, features = [], []
        for name, media in batch.context.items():
            indices.append(media.token_index_P)
            features.append(self.encoders[name](media))
        for name, media in batch.targets.items():
            indices.append(media.token_index_P)
            head: Any = self.media_heads[name]
            features.append(head.embed(noisy[name].z_NCHW, noisy[name].t_N, media))
        for index, feature in zip(indices, features, strict=True):
            if len(index) != len(feature):
                raise ValueError(
                    f"{len(index)} media positions but {len(feature)} media features; every patch needs one "
                    "position: the batch was not made by sensorium.sequence.packing"
                )
        if indices:
            flat = flat.index_copy(0, torch.cat(indices), torch.cat(features).to(flat.dtype))
        return flat.view_as(x_BTD)

    def trunk(
        self,
        x_BTD: Tensor,
        positions_BT3: Tensor,
        mask: Mask,
        is_noisy_BT: Tensor | None = None,
        cache: KVCache | None = None,
        read_R: Tensor | None = None,
    ) -> Tensor:
        """Embeds -> hidden states after the final norm, of all positions or ``[1, R, D]`` of some flat ones."""
        rope = rope_tables(positions_BT3, self.config.head_dim, self.config.rope_theta)
        caches = cache.layers if cache is not None else [None] * len(self.layers)
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            read = read_R if layer is self.layers[-1] else None
            x_BTD = layer(x_BTD, rope, mask, is_noisy_BT, layer_cache, read)
        return self.norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., V]``."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return linear(hidden, weight)

    def latents(self, hidden: Tensor) -> Tensor:
        """Hidden states of ``<emb>`` -> unit vectors ``[..., L]`` in the shared latent space."""
        return F.normalize(self.latent_proj(hidden).float(), dim=-1)

    def spell(self, name: str, hidden_PD: Tensor) -> Tensor:
        """What the encoder made of a sound, patch by patch -> logits of bytes ``[P * spelled_per_patch, 256]``."""
        return self.spellers[name](F.rms_norm(hidden_PD, (self.config.dim,))).view(-1, NUM_BYTES)

    def predict(self, name: str, hidden_PD: Tensor, media: MediaBatch) -> Tensor:
        """Hidden states of a modality's noisy tokens -> arrays (clean signal or velocity, see ``target``)."""
        return self.media_heads[name](hidden_PD, media)

    def _scale(self, name: str) -> float:
        return self.config.modalities[name].noise_scale

    def init_weights(self) -> None:
        """See the table in the class docstring."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                std = module.weight[0].numel() ** -0.5
                if name.endswith(("o_proj", "down_proj")):
                    std /= (2 * self.config.num_layers) ** 0.5
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.02 if ".stem.convolutions" in name else 0.0)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for head in self.media_heads.values():
            for module in head.zeros() if isinstance(head, PatchHead) else ():
                nn.init.zeros_(module.weight)


def _load_class(path: str) -> type:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
