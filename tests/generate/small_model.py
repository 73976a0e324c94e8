"""A random model that reads, sees and hears, for tests of everything that streams."""

from typing import Any

from sensorium.config import DataConfig, RunConfig, SourceConfig, TrainConfig
from sensorium.generate.interface import Model
from tests.model.small import byte_tokenizer, random_model, small_config


def small_model(
    templates: dict[str, float] | None = None, *, audio_frames: int = 240, **changes: Any
) -> Model:
    """With sounds of up to ``audio_frames`` frames, trained (it says) with these templates."""
    model = small_config(bands=100, **changes)
    audio = model.modalities["audio"]
    sizes = {**vars(audio), "max_size": (audio_frames, 100), "noise_scale": 1.0}
    model.modalities["audio"] = type(audio)(**sizes)
    sources = (SourceConfig(path="starter:scratch", weight=1, templates=templates or {"transcribe": 1}),)
    config = RunConfig(
        name="small", tokenizer="bytes", model=model, data=DataConfig(sources=sources), train=TrainConfig()
    )
    return Model(random_model(model), byte_tokenizer(), config)
