"""A model small enough to test exactly, and documents with every kind of segment."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import ModalityConfig, ModelConfig
from sensorium.model.flow import Noise, draw_noise
from sensorium.model.sensorium import NoisyMedia, Sensorium
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment, layout
from sensorium.sequence.mask import attention_mask
from sensorium.sequence.packing import Batch, pack
from sensorium.sequence.tokenizer import Tokenizer


@cache
def byte_tokenizer() -> Tokenizer:
    return Tokenizer.bytes()


def small_config(
    *,
    stem: str = "conv",
    refiner: bool = True,
    copies_source: bool = True,
    bands: int = 10,
    spelled_per_patch: int = 0,
    **changes: Any,
) -> ModelConfig:
    image = ModalityConfig(
        channels=3,
        patch=(4, 4),
        max_size=(16, 16),
        num_encoder_layers=1,
        stem=stem,
        refiner=refiner,
        copies_source=copies_source and changes.get("target") != "v",
    )  # type: ignore[arg-type]
    audio = ModalityConfig(
        channels=1,
        patch=(6, bands),
        max_size=(48, bands),
        num_encoder_layers=1,
        stem=stem,
        refiner=False,
        noise_scale=1.5,
        spelled_per_patch=spelled_per_patch,
    )  # type: ignore[arg-type]
    config = ModelConfig(
        vocab_size=520,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=12,
        mlp_dim=48,
        latent_dim=16,
        modalities={"image": image, "audio": audio},
    )
    return dataclasses.replace(config, **changes)


def random_model(config: ModelConfig, seed: int = 0) -> Sensorium:
    """No weight is zero or one, as after training: a fresh model hides what its zeros cut off."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sensorium(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # What copies a source comes last, so that the rest is the same with and without it.
        last = ("source", "gate.", "tint.")
        named = sorted(
            model.named_parameters(), key=lambda item: [part in item[0] for part in reversed(last)]
        )
        for name, parameter in named:
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "embed_tokens.weight":
                parameter.copy_(noise)
            elif parameter.ndim >= 2:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            elif "logit" not in name:
                parameter.add_(0.2 * noise)
    return model.eval()


def medium(
    modality: str, grid: tuple[int, int], seed: int, *, noisy: bool = False, bands: int = 10
) -> MediaSegment:
    config = small_config(bands=bands).modalities[modality]
    shape = (config.channels, grid[0] * config.patch[0], grid[1] * config.patch[1])
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return MediaSegment(modality, array, grid, noisy)


def text(words: str, *, supervised: bool = False) -> TextSegment:
    return TextSegment(byte_tokenizer().encode(words), supervised)


def shape_text(segment: MediaSegment) -> TextSegment:
    tokenizer = byte_tokenizer()
    sizes = segment.grid if segment.modality == "image" else segment.grid[:1]
    return TextSegment(
        [tokenizer.open_token(segment.modality), *(tokenizer.size_token(s) for s in sizes)], supervised=True
    )


def documents() -> list[Document]:
    """Context and targets of both modalities, ragged sizes, clean copies, both sides of two pairs."""
    drawn = medium("image", (2, 3), 4, noisy=True)
    sung = medium("audio", (5, 1), 5, noisy=True)
    last = medium("image", (4, 4), 6, noisy=True)
    return [
        Document(
            [medium("image", (4, 4), 0), EmbSegment("a"), text("ox", supervised=True)], "0", "", "p", ("c",)
        ),
        Document([text("ox"), EmbSegment("b"), shape_text(last), last], "0", "", "p", ("c",)),
        Document([medium("audio", (3, 1), 1), EmbSegment("a"), text("moo", supervised=True)], "1", "", "q"),
        Document([text("moo"), EmbSegment("b"), shape_text(sung), sung], "1", "sound", "q"),
        Document(
            [text("edit"), medium("image", (2, 3), 2), shape_text(drawn), drawn,
             text("then", supervised=True), shape_text(sung), sung, text("end", supervised=True)],
            "2",
            "edit",
        ),
        Document(
            [medium("audio", (7, 1), 3), medium("image", (1, 4), 7), text("?"), text("yes", supervised=True)], "3"
        ),
        Document([text("only words", supervised=True)], "4"),
    ]  # fmt: skip


def pack_documents(
    chosen: Sequence[Document], config: ModelConfig, *, row_length: int | None = None
) -> Batch:
    tokenizer = byte_tokenizer()
    length = max(len(layout(d.segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb)) for d in chosen)
    return pack(chosen, tokenizer, config, row_length=row_length or length)


def noise_for(batch: Batch, config: ModelConfig, seed: int = 0) -> dict[str, Noise]:
    """Noise that depends on an item's own content only, so that it is the same in every packing."""
    noise = draw_noise(batch, config, torch.Generator().manual_seed(seed))
    for name, media in batch.targets.items():
        for n, (rows, cols) in enumerate(media.grids_N2.tolist()):
            patch = config.modalities[name].patch
            own = media.arrays_NCHW[n, :, : rows * patch[0], : cols * patch[1]]
            generator = torch.Generator().manual_seed(seed + int(own.double().abs().sum() * 1e6) % 2**31)
            noise[name].t_N[n] = 0.1 + 0.8 * torch.rand((), generator=generator)
            noise[name].e_NCHW[n, :, : own.shape[1], : own.shape[2]] = torch.randn(
                own.shape, generator=generator
            )
    return noise


def rows_of(batch: Batch, index: int) -> Tensor:
    """Flat positions of one document."""
    return (batch.doc_id_BT.flatten() == index).nonzero()[:, 0]


def predictions(model: Sensorium, hidden_BTD: Tensor, batch: Batch) -> dict[str, list[Tensor]]:
    """What the heads make of hidden states, item by item, without padding."""
    out: dict[str, list[Tensor]] = {}
    for name, media in batch.targets.items():
        arrays = model.predict(name, hidden_BTD.flatten(0, 1)[media.token_index_P], media)
        patch = model.config.modalities[name].patch
        out[name] = [
            a[:, : h * patch[0], : w * patch[1]]
            for a, (h, w) in zip(arrays, media.grids_N2.tolist(), strict=True)
        ]
    return out


def velocity_by_forward(
    model: Sensorium, prompt: Sequence[Segment], like: MediaSegment
) -> Callable[[Tensor, float], Tensor]:
    """dz/dt of a medium behind a prompt, by the training forward pass on the whole document: no cache."""
    config = model.config
    target = MediaSegment(like.modality, like.array, like.grid, noisy=True)
    batch = pack_documents([Document([*prompt, target])], config)

    def slope(z_CHW: Tensor, t: float) -> Tensor:
        noisy = {like.modality: NoisyMedia(z_CHW[None], torch.tensor([t]))}
        x_BTD = model.embed(batch, noisy)
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        hidden = model.trunk(x_BTD, batch.positions_BT3, mask, batch.is_noisy_BT)
        said = predictions(model, hidden, batch)[like.modality][0]
        return said if config.target == "v" else (said - z_CHW) / (1 - t)

    return slope
