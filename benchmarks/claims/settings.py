"""What the claims start from: the recipe, its parts and what they cost, and configurations with other fields."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sensorium import mixtures, recipes
from sensorium.config import ModalityConfig, RunConfig, SourceConfig
from sensorium.data.loader import Loader
from sensorium.model.flops import StepFlops
from sensorium.sequence.tokenizer import Tokenizer

# What is trained jointly, and what "apart" takes apart: the sources of the embedded data.
PARTS = {
    "pictures": ("noto", "fluent", "openclipart"),
    "sounds": ("scratch", "sonic-pi"),
    "questions": ("easy-vqa",),
    "speech": ("asterisk-en", "asterisk-fr"),
}
# Width, blocks, heads, key-value heads, width of a feed-forward.
SIZES = {
    "micro": (64, 3, 2, 1, 192),
    "nano": (128, 4, 4, 2, 384),
    "mid": (192, 6, 6, 3, 576),
    "tiny": (256, 6, 4, 2, 768),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all claims start from.

    Args:
        config: the recipe, reduced to the sources of ``PARTS``.
        data: the full starter data, for those claims that need it.
        work: a folder for data that are made here.
    """

    config: RunConfig
    data: Path
    work: Path


def setting(shape: str, data: Path, work: Path, precision: str = "auto") -> Setting:
    """The setting of one of ``SIZES``, which may be a recipe's; ``precision`` is that of ``TrainConfig``."""
    config = recipes.get(shape) if shape in recipes.RECIPES else resized(recipes.nano(), shape)
    known = {f"starter:{name}" for names in PARTS.values() for name in names}
    sources = tuple(source for source in mixtures.STARTER_SOURCES if source.path in known)
    # The run ends when its FLOPs are used up, never by its steps.
    config = with_train(
        with_sources(config, sources),
        num_steps=1_000_000,
        max_train_s=0.0,
        save_every=200,
        sample_every=0,
        keep_checkpoints=1,
        precision=precision,
    )
    return Setting(config=config, data=data, work=work)


def resized(config: RunConfig, size: str) -> RunConfig:
    """The configuration at another width and depth."""
    dim, layers, heads, kv_heads, mlp_dim = SIZES[size]
    return with_model(
        config,
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim // heads,
        mlp_dim=mlp_dim,
        latent_dim=dim,
    )


def with_model(config: RunConfig, **changes: Any) -> RunConfig:
    """With other fields of the model."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def with_modalities(config: RunConfig, **changes: Any) -> RunConfig:
    """With other fields of every modality."""

    def changed(modality: ModalityConfig) -> ModalityConfig:
        return dataclasses.replace(modality, **changes)

    return with_model(config, modalities={n: changed(m) for n, m in config.model.modalities.items()})


def with_train(config: RunConfig, **changes: Any) -> RunConfig:
    """With other fields of the training."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def with_sources(config: RunConfig, sources: Iterable[SourceConfig], **changes: Any) -> RunConfig:
    """With other sources, and other fields of the data."""
    data = dataclasses.replace(config.data, sources=tuple(sources), **changes)
    return dataclasses.replace(config, data=data)


def of_part(config: RunConfig, part: str) -> list[SourceConfig]:
    """The sources of one part, with the weights of the joint mixture."""
    return [s for s in config.data.sources if s.path.partition(":")[2] in PARTS[part]]


def shares(config: RunConfig, num_steps: int = 4) -> dict[str, tuple[float, float]]:
    """Of each part: its share of the joint mixture's samples, and of its training FLOPs."""
    tokenizer, flops = Tokenizer.load(config.tokenizer), StepFlops(config.model)
    total = sum(source.weight for source in config.data.sources)
    samples, cost = {}, {}
    for part in PARTS:
        own = of_part(config, part)
        samples[part] = sum(source.weight for source in own) / total
        loader = Loader(with_sources(config, own, cache_mb=0).data, config.model, tokenizer, seed=0)
        cost[part] = samples[part] * float(np.mean([flops(loader.batch(n)) for n in range(num_steps)]))
    return {part: (samples[part], cost[part] / sum(cost.values())) for part in PARTS}
