"""One training step beside a build from `transformers` and beside `transfusion-pytorch`, on the same samples.

    python benchmarks/train_step.py [--runs 5] [--device cpu] [--dtype float32] [--json train_step.json]

All models have about 8.3 M parameters and see the same pictures (64 px, 64 patches) and texts of the embedded data,
the same 32 samples a step, half of them named pictures, half questions about pictures. A step is everything: forward,
losses, backward, clipping, optimiser, and our moving average.

- ours: 4 encoder blocks and 4 trunk blocks of width 256. Named pictures become a captioning and a drawing document:
  next-token, alignment and flow losses on one forward pass.
- ours, captions: the same model with captions and answers alone, the very work of the `transformers` build.
- transformers: `LlavaForConditionalGeneration` of a SigLIP encoder 4x256 and a Qwen3 decoder 4x256, padded to the
  longest of the batch, fused AdamW.
- transfusion: `Transfusion` of as many parameters, text then picture, fused AdamW.

Every figure comes from a fresh process, in turns, with the same allocator settings; batches are made beforehand. Real
tokens are positions that are not padding. MFU is the floating-point operations of matrix products and attention over
what a plain matrix product reaches in the same process. The peers run where they are installed:
`pip install transformers` and `pip install transfusion-pytorch`, the latter perhaps in an environment of its own, whose
interpreter `--transfusion-python` names.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES, NUM_BATCHES, WARMUP, STEPS = 32, 4, 2, 8
NAMES = ("ours", "ours, captions", "transformers", "transfusion")
PATCH, SIDE, DIM, VOCAB = 8, 64, 256, 4096


@dataclass
class Contender:
    """A model with its step.

    Args:
        step: runs one training step on batch number n and returns the loss.
        num_samples, num_tokens: of each batch; tokens are real ones.
    """

    model: Any
    step: Callable[[int], Any]
    num_samples: list[int]
    num_tokens: list[int]


def sources(templates: dict[str, float]) -> Any:
    """The embedded pictures: as many with names as with questions."""
    from sensorium.config import SourceConfig

    named = ("noto", "fluent")
    return (
        *(SourceConfig(path=f"starter:{name}", weight=1, templates=templates) for name in named),
        SourceConfig(path="starter:easy-vqa", weight=2, templates={"chat": 1}),
    )


def run_config(templates: dict[str, float]) -> Any:
    from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig

    image = ModalityConfig(
        channels=3, patch=(PATCH, PATCH), max_size=(SIDE, SIDE), blank=1.0, num_encoder_layers=4
    )
    return RunConfig(
        name="benchmark",
        tokenizer="starter-4k",
        model=ModelConfig(
            vocab_size=VOCAB,
            dim=DIM,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            mlp_dim=768,
            latent_dim=DIM,
            modalities={"image": image},
        ),
        data=DataConfig(
            sources=sources(templates),
            row_length=192,
            samples_per_step=SAMPLES,
            condition_dropout=0.0,
            media_dropout=0.0,
            augment=0.0,
        ),
        train=TrainConfig(),
    )


def batches(config: Any) -> list[Any]:
    from sensorium.data.loader import Loader
    from sensorium.sequence.tokenizer import Tokenizer

    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    return [batch for _, batch in loader.stream(0, NUM_BATCHES)]


def ours(templates: dict[str, float], device: str, dtype: Any) -> Contender:
    import torch

    from sensorium.losses import compute_losses
    from sensorium.model.flow import draw_noise
    from sensorium.model.sensorium import Sensorium
    from sensorium.train.optimizer import EMA, MuonAdamW
    from sensorium.train.trainer import total_loss

    config = run_config(templates)
    data = batches(config)
    model = Sensorium(config.model).to(device).train()
    optimizer, ema = MuonAdamW(model, config.train), EMA(model, config.train.ema_decay)
    on_device = [batch.to(device) for batch in data]

    def step(n: int) -> Any:
        batch = on_device[n % NUM_BATCHES]
        noise = draw_noise(batch, config.model, torch.Generator().manual_seed(n))
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            losses = compute_losses(model, batch, noise)
        total, _ = total_loss(losses, config.train)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
        optimizer.step()
        ema.update(model, n)
        return total

    return Contender(model, step, [b.num_visits for b in data], [b.num_tokens for b in data])


def pictures_and_texts() -> list[list[tuple[Any, list[int], list[bool]]]]:
    """Per batch and sample: picture ``[3, 64, 64]`` in -1 .. 1, token ids, and which of them are supervised."""
    from sensorium.data.loader import Loader
    from sensorium.sequence.document import MediaSegment, TextSegment
    from sensorium.sequence.tokenizer import Tokenizer

    config = run_config({"caption": 1})
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    out = []
    for step in range(NUM_BATCHES):
        rows = []
        for document in loader.samples(step).documents:
            text = [s for s in document.segments if isinstance(s, TextSegment)]
            (picture,) = (s for s in document.segments if isinstance(s, MediaSegment))
            ids = [token for segment in text for token in segment.token_ids]
            rows.append((picture.array, ids, [s.supervised for s in text for _ in s.token_ids]))
        out.append(rows)
    return out


def plain_step(model: Any, loss_of: Callable[[int], Any], device: str, dtype: Any) -> Callable[[int], Any]:
    """What users of the peers write: loss, backward, clip, fused AdamW."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(n: int) -> Any:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = loss_of(n % NUM_BATCHES)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def peer_transformers(device: str, dtype: Any) -> Contender:
    import numpy as np
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config, SiglipVisionConfig

    image_token = VOCAB - 1
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=SiglipVisionConfig(
                hidden_size=DIM,
                intermediate_size=1024,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=SIDE,
                patch_size=PATCH,
                vision_use_head=False,
            ),
            text_config=Qwen3Config(
                vocab_size=VOCAB,
                hidden_size=DIM,
                intermediate_size=768,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=64,
                tie_word_embeddings=True,
                use_cache=False,
            ),
            image_token_index=image_token,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )
    model = model.to(device).train()
    num_patches = (SIDE // PATCH) ** 2
    inputs, num_tokens, data = [], [], pictures_and_texts()
    for rows in data:
        longest = num_patches + max(len(ids) for _, ids, _ in rows)
        token_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        labels, seen = torch.full_like(token_ids, -100), torch.zeros_like(token_ids)
        for row, (_, ids, supervised) in enumerate(rows):
            end = num_patches + len(ids)
            token_ids[row, :num_patches], seen[row, :end] = image_token, 1
            token_ids[row, num_patches:end] = torch.tensor(ids)
            labels[row, num_patches:end] = torch.where(torch.tensor(supervised), torch.tensor(ids), -100)
        pixels = torch.from_numpy(np.stack([picture for picture, _, _ in rows]))
        batch = {"input_ids": token_ids, "attention_mask": seen, "labels": labels, "pixel_values": pixels}
        inputs.append({name: value.to(device) for name, value in batch.items()})
        num_tokens.append(int(seen.sum()))

    def loss_of(n: int) -> Any:
        return model(**inputs[n]).loss

    return Contender(model, plain_step(model, loss_of, device, dtype), [len(d) for d in data], num_tokens)


def peer_transfusion(device: str, dtype: Any) -> Contender:
    import torch
    from transfusion_pytorch import Transfusion

    from sensorium.media.modality import patchify

    model = Transfusion(
        num_text_tokens=VOCAB,
        dim_latent=3 * PATCH * PATCH,
        modality_default_shape=((SIDE // PATCH) ** 2,),
        transformer={"dim": DIM, "depth": 3, "dim_head": 64, "heads": 4},
    )
    model = model.to(device).train()
    data = pictures_and_texts()
    inputs = [
        [
            [
                torch.tensor(ids, device=device),
                torch.from_numpy(patchify(picture, (PATCH, PATCH))[0]).to(device),
            ]
            for picture, ids, _ in rows
        ]
        for rows in data
    ]
    num_tokens = [sum(len(part) for sample in rows for part in sample) for rows in inputs]

    def loss_of(n: int) -> Any:
        return model(inputs[n])

    return Contender(model, plain_step(model, loss_of, device, dtype), [len(d) for d in data], num_tokens)


def contender(name: str, device: str, dtype: Any) -> Contender:
    if name == "transformers":
        return peer_transformers(device, dtype)
    if name == "transfusion":
        return peer_transfusion(device, dtype)
    return ours({"caption": 1} if name == "ours, captions" else {"pair": 1}, device, dtype)
