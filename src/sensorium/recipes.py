"""Recipes: typed functions that return a whole run's configuration. ``sensorium train RECIPE`` runs one."""

import dataclasses
import difflib
from collections.abc import Callable

from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig
from sensorium.mixtures import (
    CLEAN_SOURCES,
    FULL_SOURCES,
    SPOKEN_SOURCES,
    STARTER_CLEAN_WEIGHTS,
    STARTER_SOURCES,
    STARTER_WEIGHTS,
    full_sources,
)


def nano() -> RunConfig:
    """1.6 M parameters, 32 px pictures in 16 tokens: trains in minutes on two CPU cores."""
    return RunConfig(
        name="nano",
        tokenizer="starter-1k",
        model=ModelConfig(
            vocab_size=1024,
            dim=128,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            mlp_dim=384,
            latent_dim=128,
            modalities={
                "image": ModalityConfig(
                    channels=3, patch=(8, 8), max_size=(32, 32), blank=1.0, num_encoder_layers=0
                ),
                "audio": ModalityConfig(
                    channels=1,
                    patch=(6, 100),
                    max_size=(240, 100),
                    blank=-2.9,
                    num_encoder_layers=1,
                    refiner=False,
                ),
            },
        ),
        data=DataConfig(sources=STARTER_SOURCES, row_length=128, samples_per_step=96, augment=0.8),
        train=TrainConfig(
            num_steps=850, max_train_s=228.0, lr=1e-3, optimizer="muon", w_text=4.0, w_align=1.0
        ),
    )


def tiny() -> RunConfig:
    """9 M parameters, 64 px pictures: for a laptop and hours rather than minutes."""
    base = nano()
    return RunConfig(
        name="tiny",
        tokenizer="starter-4k",
        model=ModelConfig(
            vocab_size=4096,
            dim=256,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            mlp_dim=768,
            latent_dim=256,
            modalities={
                "image": ModalityConfig(
                    channels=3,
                    patch=(16, 16),
                    max_size=(64, 64),
                    blank=1.0,
                    num_encoder_layers=1,
                    # Larger patches give themselves away through more noise (EXPERIMENTS.md, section 21).
                    noise_scale=2.0,
                ),
                "audio": ModalityConfig(
                    channels=1,
                    patch=(6, 100),
                    max_size=(240, 100),
                    blank=-2.9,
                    num_encoder_layers=1,
                    refiner=False,
                ),
            },
        ),
        data=dataclasses.replace(base.data, row_length=192),
        train=dataclasses.replace(
            base.train,
            num_steps=20_000,
            max_train_s=0.0,
            lr=1e-3,
            ema_decay=0.999,
            save_every=500,
            sample_every=1000,
        ),
    )


def starter() -> RunConfig:
    """32 px pictures that can be edited, sounds of five seconds, the full starter data in two stages.

    For hours of a few cores. The model that ships was not trained by it from nothing at this width, but grown from one
    half as wide; this second stage and ``w_flow`` were measured as a run of their own from there (its card, part 12).
    A second feed-forward costs no time (EXPERIMENTS.md, section 18).
    """
    base = nano()
    image, audio = base.model.modalities["image"], base.model.modalities["audio"]
    return dataclasses.replace(
        base,
        name="starter",
        model=dataclasses.replace(
            base.model,
            dim=256,
            num_heads=8,
            num_kv_heads=4,
            mlp_dim=768,
            experts="ffn",
            modalities={
                # More noise than for drawing alone: what an instruction asks for is decided where little is seen yet.
                "image": dataclasses.replace(
                    image, noise_mu=-1.6, noise_std=1.2, noise_scale=2.0, copies_source=True
                ),
                # Letters are learned in blocks of the encoder's own (EXPERIMENTS.md, section 21).
                "audio": dataclasses.replace(
                    audio, max_size=(480, 100), num_encoder_layers=4, spelled_per_patch=3
                ),
            },
        ),
        data=DataConfig(
            sources=full_sources(STARTER_WEIGHTS),
            clean_sources=full_sources(STARTER_CLEAN_WEIGHTS),
            clean_from=6_850,
            row_length=256,
            samples_per_step=192,
            augment=1.0,
            max_frames=4,
        ),
        train=dataclasses.replace(
            base.train,
            num_steps=8_800,
            max_train_s=0.0,
            # As the model that ships was last trained; 6 was used before, and what it did was not separated.
            w_flow=8.0,
            text_average="root",
            warmup=0.02,
            ema_decay=0.999,
            save_every=100,
            sample_every=0,
        ),
    )


def hearing() -> RunConfig:
    """The sound's encoder and speller of ``starter`` alone, from a model of its shape: ``--warm-start starter``.

    Learning to hear takes thousands of steps, and without the trunk they are cheap (EXPERIMENTS.md, section 21). The trunk then has to get used to the new encoder in a run of all tasks.
    """
    base = starter()
    weights = {
        "composed-prompts": 16,
        "composed-prompts-piper": 4,
        "composed-prompts-hibari": 14,
        "asterisk-en": 2,
        "synthetic-speech": 2,
        "tuxpaint-speech": 1,
    }
    spelled = {name: {"spell": 1.0} for name in weights}
    return dataclasses.replace(
        base,
        name="hearing",
        data=dataclasses.replace(
            base.data,
            sources=full_sources(weights, spelled),
            clean_sources=(),
            clean_from=0,
            samples_per_step=64,
        ),
        train=dataclasses.replace(
            base.train, trained="spellers", num_steps=6_000, warmup=0.025, min_lr_ratio=0.02, save_every=500
        ),
    )


def small() -> RunConfig:
    """47 M parameters, 64 px pictures, sounds of ten seconds, the full starter data in two stages: for one GPU."""
    return RunConfig(
        name="small",
        tokenizer="starter-8k",
        model=ModelConfig(
            vocab_size=8192,
            dim=512,
            num_layers=8,
            num_heads=8,
            num_kv_heads=4,
            head_dim=64,
            mlp_dim=1536,
            latent_dim=512,
            modalities={
                "image": ModalityConfig(channels=3, patch=(8, 8), max_size=(64, 64), blank=1.0),
                "audio": ModalityConfig(
                    channels=1, patch=(6, 100), max_size=(960, 100), blank=-2.9, refiner=False
                ),
            },
        ),
        data=DataConfig(
            sources=FULL_SOURCES,
            clean_sources=CLEAN_SOURCES,
            clean_from=17_000,
            row_length=640,
            samples_per_step=256,
            augment=0.8,
        ),
        train=TrainConfig(
            num_steps=20_000,
            lr=1e-3,
            optimizer="muon",
            decay=0.2,
            w_text=4.0,
            w_align=1.0,
            ema_decay=0.999,
            save_every=500,
            sample_every=1000,
        ),
    )


def base() -> RunConfig:
    """2 B parameters in the shape of Qwen3-1.7B, 256 px pictures, sounds of twenty seconds: for a cluster.

    The vocabulary is as large as Qwen3's, so that its weights fit; the tokenizer that ships uses its first 8,192 ids.
    """
    return RunConfig(
        name="base",
        tokenizer="starter-8k",
        model=ModelConfig(
            vocab_size=151_936,
            dim=2048,
            num_layers=28,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
            mlp_dim=6144,
            latent_dim=1024,
            rope_theta=1_000_000.0,
            modalities={
                "image": ModalityConfig(channels=3, patch=(16, 16), max_size=(256, 256), blank=1.0),
                "audio": ModalityConfig(
                    channels=1, patch=(6, 100), max_size=(1500, 100), blank=-2.9, refiner=False
                ),
            },
        ),
        data=DataConfig(
            sources=FULL_SOURCES,
            clean_sources=CLEAN_SOURCES,
            clean_from=90_000,
            row_length=4096,
            samples_per_step=2048,
            augment=0.8,
            num_workers=8,
        ),
        train=TrainConfig(
            num_steps=100_000,
            lr=3e-4,
            optimizer="muon",
            warmup=0.02,
            decay=0.1,
            weight_decay=0.1,
            w_align=1.0,
            ema_decay=0.9999,
            save_every=1000,
            sample_every=5000,
            log_every=20,
        ),
    )


def debug(config: RunConfig) -> RunConfig:
    """The same recipe (losses, optimiser, schedule, templates, stages) at toy widths on the embedded data.

    For trying out a set-up on a laptop before it runs where it is meant to: ``sensorium train base-debug``.
    """
    model = config.model
    modalities = {
        name: dataclasses.replace(
            modality,
            patch=(8, 8) if name == "image" else modality.patch,
            max_size=(32, 32) if name == "image" else (120, modality.max_size[1]),
            num_encoder_layers=min(1, modality.num_encoder_layers),
        )
        for name, modality in model.modalities.items()
    }
    return dataclasses.replace(
        config,
        name=f"{config.name}-debug",
        tokenizer="starter-1k",
        model=dataclasses.replace(
            model,
            vocab_size=1024,
            dim=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            mlp_dim=192,
            latent_dim=64,
            modalities=modalities,
        ),
        data=dataclasses.replace(
            config.data,
            sources=SPOKEN_SOURCES if config.train.trained == "spellers" else STARTER_SOURCES,
            clean_sources=STARTER_SOURCES[:2] if config.data.clean_sources else (),
            clean_from=15 if config.data.clean_sources else 0,
            row_length=128,
            samples_per_step=24,
            num_workers=0,
        ),
        train=dataclasses.replace(
            config.train, num_steps=20, max_train_s=0.0, save_every=10, sample_every=0, log_every=1
        ),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "nano": nano,
    "tiny": tiny,
    "starter": starter,
    "hearing": hearing,
    "small": small,
    "base": base,
}
DEBUG = "-debug"
# What runs on the data that ship with the package.
EMBEDDED = ("nano", "tiny", *(f"{name}{DEBUG}" for name in RECIPES))


def get(name: str) -> RunConfig:
    """A recipe by name, or its toy version by NAME-debug; an unknown one is an error that names the nearest."""
    plain = name.removesuffix(DEBUG)
    if plain not in RECIPES:
        near = difflib.get_close_matches(plain, RECIPES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown recipe {name!r}; did you mean {near!r}? Known are {', '.join(RECIPES)}, and NAME{DEBUG} of each"
        )
    config = RECIPES[plain]()
    return debug(config) if plain != name else config
