"""Sensorium: one transformer that reads, sees and hears, and answers in text, pictures or sound.

    import sensorium as sm
    model = sm.load()
    model.generate([sm.Image("fridge.jpg"), "What can I cook?"])

Names are imported when they are first used, so that ``import sensorium`` is quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium.finetuning.run import finetune
    from sensorium.generate.interface import Model, load
    from sensorium.media.parts import Audio, Image, Video

__version__ = "0.1.0"
__all__ = ["Audio", "Image", "Model", "Video", "__version__", "finetune", "load"]

_HOME = {
    "Audio": "sensorium.media.parts",
    "Image": "sensorium.media.parts",
    "Model": "sensorium.generate.interface",
    "Video": "sensorium.media.parts",
    "finetune": "sensorium.finetuning",
    "load": "sensorium.generate.interface",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sensorium' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
