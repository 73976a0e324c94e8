"""Ours: the recipe ``nano``, for one row alone or for all of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import RunConfig, SourceConfig
from sensorium.data.loader import Loader
from sensorium.generate.interface import Model
from sensorium.losses import compute_losses
from sensorium.model.flops import StepFlops
from sensorium.model.flow import draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document
from sensorium.sequence.packing import Batch, pack
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.train.step import total_loss

from .work import JOINT, JOINT_SHARES, SIDE, SOURCES, Asked, run_config


class Ours:
    """Our model as a learner."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.model = Sensorium(config.model)
        self.step_flops = StepFlops(config.model)

    def collate(self, documents: Sequence[Document]) -> Batch:
        """Packed rows."""
        return pack(documents, self.tokenizer, self.config.model, row_length=self.config.data.row_length)

    def loss(self, batch: Batch, seed: int) -> Tensor:
        """Next-token, flow and alignment losses on one forward pass."""
        noise = draw_noise(batch, self.config.model, torch.Generator().manual_seed(seed))
        return total_loss(compute_losses(self.model, batch, noise), self.config.train)[0]

    def flops(self, batch: Batch) -> float:
        """By the formula of ``sensorium.model.flops``."""
        return self.step_flops(batch)

    def answers(self, row: str, asked: Asked) -> dict[str, np.ndarray]:
        """What the model says, through the door that users take."""
        model = Model(self.model, self.tokenizer, self.config)
        if row == "retrieval":
            return {"similarity": model.embed(asked.pictures) @ model.embed(asked.names).T}
        if row == "text":
            about = zip(asked.question_pictures, asked.questions, strict=True)
            return {
                "names": _texts(model.generate_many(asked.pictures, max_tokens=12)),
                "answers": _texts(model.generate_many([[p, q] for p, q in about], max_tokens=12)),
                "blind": _texts(model.generate_many(asked.questions, max_tokens=12)),
            }
        if row == "pictures":
            requests = [
                model.request(name, "image", width=SIDE, height=SIDE, seed=number)
                for number, name in enumerate(asked.names)
            ]
            parts: list[Any] = [answer.parts[0] for answer in model.engine.generate(requests)]
            return {"pictures": np.stack([part.part.pixels() for part in parts])}
        prompts = [[sound, "transcribe"] for sound in asked.sounds]
        return {"heard": _texts(model.generate_many(prompts, max_tokens=48))}


def _texts(texts: Sequence[str]) -> np.ndarray:
    return np.array(list(texts), dtype=np.str_)


def sources_of(row: str, tokenizer: Tokenizer) -> tuple[SourceConfig, ...]:
    """Sources with weights; the joint model spends each row's share of operations on that row's samples."""
    if row != JOINT:
        return SOURCES[row]
    weighed: list[SourceConfig] = []
    for part, share in JOINT_SHARES:
        config = run_config(JOINT, part, lr=0.0, batch=64)
        loader = Loader(config.data, config.model, tokenizer, seed=0)
        cost = StepFlops(config.model)(loader.batch(0)) / 64
        total = sum(source.weight for source in part)
        weighed += [_weigh(source, share / cost * source.weight / total) for source in part]
    scale = sum(source.weight for source in weighed)
    return tuple(_weigh(source, source.weight / scale) for source in weighed)


def _weigh(source: SourceConfig, weight: float) -> SourceConfig:
    return dataclasses.replace(source, weight=weight)
