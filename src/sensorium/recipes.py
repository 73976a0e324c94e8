"""Recipes: typed functions that return a whole run's configuration. ``sensorium train RECIPE`` runs one."""

import dataclasses
import difflib
from collections.abc import Callable

from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, SourceConfig, TrainConfig

STARTER_SOURCES = (
    SourceConfig(path="starter:noto", weight=18, templates={"pair": 1, "embed": 2}),
    SourceConfig(path="starter:fluent", weight=18, templates={"pair": 1, "embed": 2}),
    SourceConfig(path="starter:openclipart", weight=3, templates={"embed": 1}),
    SourceConfig(path="starter:scratch", weight=5, templates={"pair": 1, "align": 1}),
    SourceConfig(path="starter:sonic-pi", weight=2, templates={"pair": 1, "align": 1}),
    SourceConfig(path="starter:asterisk-en", weight=1, templates={"transcribe": 1, "speak": 1}),
    SourceConfig(path="starter:asterisk-fr", weight=1, templates={"transcribe": 1, "speak": 1}),
    SourceConfig(path="starter:easy-vqa", weight=46, templates={"chat": 1}, augment=0.0),
    SourceConfig(path="starter:wordnet", weight=1, templates={"text": 1}),
)


def nano() -> RunConfig:
    """1 M parameters, 32 px pictures in 16 tokens: trains in minutes on two CPU cores."""
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
    """8 M parameters, 64 px pictures: for a laptop and hours rather than minutes."""
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
                    channels=3, patch=(16, 16), max_size=(64, 64), blank=1.0, num_encoder_layers=1
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


RECIPES: dict[str, Callable[[], RunConfig]] = {"nano": nano, "tiny": tiny}


def get(name: str) -> RunConfig:
    """A recipe by name; an unknown one is an error that names the nearest."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown recipe {name!r}; did you mean {near!r}? Known are {', '.join(RECIPES)}")
    return RECIPES[name]()
