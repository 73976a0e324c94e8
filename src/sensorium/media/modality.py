"""The registry of modalities: one entry says everything that the rest of the system asks of a modality.

A medium inside the system is a float32 array ``[channels, height, width]``. An entry names how a user's part
becomes such an array and back, how a grid of patches becomes three-axis positions, and which modules encode
and generate it (as import paths, so that this room never imports torch). ``docs/add_a_modality.md`` adds one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensorium.config import ModalityConfig
from sensorium.media import audio, image
from sensorium.media.parts import Audio, Image

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of medium.

    Args:
        name: also the name of its opening token, ``<name>``, and of its key in ``ModelConfig.modalities``.
        part: the class a user hands in and gets back (``sm.Image``).
        decode: encoded bytes and a name for errors -> a plain array (uint8 pixels, a waveform).
        read: a part -> its plain array.
        to_array: plain array -> float32 ``[C, H, W]`` of whole patches, at most ``max_size``, roughly in
            [-2, 2].
        load: encoded bytes, a name for errors, a configuration -> what ``to_array`` makes of what ``decode`` gives,
            where there is a shorter way to nearly the same; None where there is none.
        from_array: float32 ``[C, H, W]`` -> a part that can be shown and saved, marked as generated.
        offsets: patch grid -> int64 ``[P, 3]`` positions (time, height, width) relative to the block's first.
        encoder, head: ``module:Class`` built as ``Class(model_config, modality_config, modality)``.
    """

    name: str
    part: type
    decode: Callable[[bytes, str], np.ndarray]
    read: Callable[[Any], np.ndarray]
    to_array: Callable[[np.ndarray, ModalityConfig], np.ndarray]
    from_array: Callable[[np.ndarray, dict[str, str]], Any]
    offsets: Callable[[Grid], np.ndarray]
    load: Callable[[bytes, str, ModalityConfig], np.ndarray] | None = None
    encoder: str = "sensorium.model.encoders:MediaEncoder"
    head: str = "sensorium.model.heads:PatchHead"


MODALITIES: dict[str, Modality] = {}


def register(modality: Modality) -> Modality:
    """Add a modality; a name can be taken once."""
    if modality.name in MODALITIES:
        raise ValueError(f"modality {modality.name!r} is registered already; choose another name")
    MODALITIES[modality.name] = modality
    return modality


def get_modality(name: str) -> Modality:
    """Look a modality up; the error lists the known names."""
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}; known are {', '.join(sorted(MODALITIES))}")
    return MODALITIES[name]


def modality_of(part: object) -> Modality | None:
    """The modality whose part class this object is, or None (text is no medium)."""
    return next((m for m in MODALITIES.values() if isinstance(part, m.part)), None)


def patchify(array_CHW: np.ndarray, patch: tuple[int, int]) -> tuple[np.ndarray, Grid]:
    """Cut ``[C, H, W]`` into patches ``[P, C*ph*pw]`` in row order, and return their grid."""
    C, H, W = array_CHW.shape
    rows, cols = H // patch[0], W // patch[1]
    if rows * patch[0] != H or cols * patch[1] != W or rows * cols == 0:
        raise ValueError(
            f"array of {H}x{W} is not a whole number of {patch[0]}x{patch[1]} patches; resize or pad it"
        )
    x = array_CHW.reshape(C, rows, patch[0], cols, patch[1]).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(x.reshape(rows * cols, -1)), (rows, cols)


def spatial_offsets(grid: Grid) -> np.ndarray:
    """Pictures: the first axis stands still, height and width count patches (M-RoPE, arXiv 2409.12191)."""
    rows, cols = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return np.stack([np.zeros(rows.size, np.int64), rows.ravel(), cols.ravel()], axis=1)


def temporal_offsets(grid: Grid) -> np.ndarray:
    """Sounds: the first axis advances, the other two stand still."""
    steps = np.arange(grid[0] * grid[1], dtype=np.int64)
    return np.stack([steps, np.zeros_like(steps), np.zeros_like(steps)], axis=1)


def _image_array(pixels: np.ndarray, config: ModalityConfig) -> np.ndarray:
    height, width = config.max_size
    if pixels.shape[:2] != (height, width):
        pixels = image.resize_image(pixels, height, width)
    return image.normalize_image(pixels)


def _image_part(array: np.ndarray, generated: dict[str, str]) -> Image:
    return Image(image.denormalize_image(array), generated=generated)


def _audio_array(waveform: np.ndarray, config: ModalityConfig) -> np.ndarray:
    frames_per_patch, max_frames = config.patch[0], config.max_size[0]
    # One frame more than the samples hold would be needed to fill the last patch: pad with silence first,
    # so that no sound is lost and the spectrogram is a whole number of patches.
    num_frames = min(
        max_frames, -(-(1 + waveform.size // audio.HOP_LENGTH) // frames_per_patch) * frames_per_patch
    )
    samples = (num_frames - 1) * audio.HOP_LENGTH
    waveform = np.pad(waveform[:samples], (0, max(0, samples - waveform.size)))
    return audio.normalize_mel(audio.log_mel(waveform))[None]


def _audio_part(array: np.ndarray, generated: dict[str, str]) -> Audio:
    waveform = audio.griffin_lim(audio.denormalize_mel(array[0]))
    return Audio((waveform, audio.SAMPLE_RATE), generated=generated)


register(
    Modality(
        name="image",
        part=Image,
        decode=lambda data, name: image.decode_image(data, name=name),
        read=lambda part: part.pixels(),
        to_array=_image_array,
        load=lambda data, name, config: _image_array(
            image.decode_image(data, name=name, for_size=config.max_size), config
        ),
        from_array=_image_part,
        offsets=spatial_offsets,
    )
)
register(
    Modality(
        name="audio",
        part=Audio,
        decode=lambda data, name: audio.decode_audio(data, name=name),
        read=lambda part: part.waveform(),
        to_array=_audio_array,
        from_array=_audio_part,
        offsets=temporal_offsets,
    )
)
