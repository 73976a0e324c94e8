"""Pictures as users speak of them: sizes in pixels, a source to start from, a mask at the source's own resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from sensorium.config import ModelConfig, RunConfig
from sensorium.generate.requests import MediaOptions, ToPart
from sensorium.media.audio import SAMPLE_RATE, denormalize_mel
from sensorium.media.image import resize_image
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image


@dataclass(frozen=True)
class Edit:
    """A picture that is drawn anew, as a whole or inside a mask.

    Args:
        pixels: uint8 ``[H, W, 3]``, the source as it is.
        mask: bool ``[H, W]``, True where it changes; None: everywhere.
        array: the source as the model sees it. grid: of its patches.
        mask_HW: the mask at the model's resolution, True wherever any pixel of the mask falls.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    array: Tensor
    grid: tuple[int, int]
    mask_HW: Tensor | None

    @classmethod
    def of(cls, prompt: Any, output: str, source: Any, mask: Any, config: ModelConfig) -> "Edit | None":
        """Read the options ``source`` and ``mask``; None where neither is given.

        Raises:
            ValueError: they do not go together, or not with the output.
        """
        if source is None and mask is None:
            return None
        if output != "image":
            raise ValueError(
                f"source and mask with output={output!r}; they belong to pictures: leave them out"
            )
        if source is None:
            source = _last_picture(prompt)
        if not isinstance(source, Image):
            raise ValueError(f"source is a {type(source).__name__}; expected sm.Image(...): wrap it first")
        pixels = source.pixels()
        modality, modality_config = get_modality("image"), config.modalities["image"]
        array = torch.from_numpy(modality.to_array(pixels, modality_config))
        grid = (array.shape[1] // modality_config.patch[0], array.shape[2] // modality_config.patch[1])
        if mask is None:
            return cls(pixels, None, array, grid, None)
        chosen = _read_mask(mask, pixels.shape[:2])
        # The largest of what falls on a pixel: what is to change is covered, and a little around it.
        small = F.adaptive_max_pool2d(torch.from_numpy(chosen)[None].float(), array.shape[1:])[0] > 0
        return cls(pixels, chosen, array, grid, small)

    def apply(self, drawn: np.ndarray) -> np.ndarray:
        """What was drawn, at the source's size, with the source's own pixels outside the mask."""
        assert self.mask is not None
        drawn = resize_image(drawn, *self.pixels.shape[:2])
        return np.where(self.mask[:, :, None], drawn, self.pixels)


# Levels of 255 by which a copied pixel may differ from its source and is still meant to be that, and by which it is surely drawn.
_COPIED, _DRAWN = 16, 48


def keep_source(pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A drawing at the size of the picture that it was made from, sharp where it left that as it was.

    A model sees and draws a few pixels; what it hardly changed is taken from the source itself, what it changed from
    the drawing, and what lies between is mixed.

    Args:
        pixels: uint8 ``[H, W, 3]``, the source. drawn: uint8 ``[h, w, 3]``.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    height, width = pixels.shape[:2]
    seen = resize_image(pixels, *drawn.shape[:2])
    change_hw = np.abs(drawn.astype(np.float32) - seen).max(axis=2)
    share_hw = ((change_hw - _COPIED) / (_DRAWN - _COPIED)).clip(0, 1)
    share_HW = np.asarray(PILImage.fromarray(share_hw).resize((width, height), PILImage.Resampling.BILINEAR))
    large = resize_image(drawn, height, width).astype(np.float32)
    return np.rint(pixels + share_HW[:, :, None] * (large - pixels)).astype(np.uint8)


def pixel_grid(config: ModelConfig, output: str, width: int | None, height: int | None) -> tuple[int, int]:
    """The patches that cover a picture of so many pixels.

    Raises:
        ValueError: it is no picture, one side is missing, or it is larger than the model draws.
    """
    if output != "image":
        raise ValueError(f"width and height with output={output!r}; they belong to pictures: leave them out")
    if width is None or height is None:
        raise ValueError("width and height go together; give both, or neither and the model chooses")
    modality = config.modalities["image"]
    limits = modality.max_size
    if not (1 <= height <= limits[0] and 1 <= width <= limits[1]):
        raise ValueError(
            f"a picture of {width} x {height} pixels; this model draws up to {limits[1]} x {limits[0]}"
        )
    return -(-height // modality.patch[0]), -(-width // modality.patch[1])


def copied_from(
    prompt: Any, output: str, edit: Edit | None, options: MediaOptions, config: ModelConfig
) -> Image | None:
    """The picture that a drawing may copy from and has the size of: the source that is named, or the prompt's last one.

    None where no picture alone is drawn, where the model does not copy, or where a size is asked for.
    """
    if output != "image" or not config.modalities["image"].copies_source:
        return None
    if edit is not None:
        return Image(edit.pixels)
    found = _pictures(prompt)
    return found[-1] if found and options.grid is None else None


def to_part(
    config: RunConfig,
    options: MediaOptions,
    edit: Edit | None,
    copied: Image | None,
    size: tuple[int | None, int | None],
    vocoder: Callable[[np.ndarray], np.ndarray],
) -> ToPart:
    """What makes the user's picture or sound of an array ``[C, H, W]``.

    Args:
        copied: what the model copied from, see ``copied_from``.
        size: width and height in pixels, if they were asked for: what patches add is cut off.
        vocoder: log-mel ``[F, 100]`` -> waveform.
    """
    marks = {"generator": "sensorium", "model": config.name, "seed": str(options.seed)}

    def make(modality: str, array: Tensor) -> Any:
        values = array.float().cpu().numpy()
        if modality == "audio":
            return Audio((vocoder(denormalize_mel(values[0])), SAMPLE_RATE), generated=marks)
        part = get_modality(modality).from_array(values, marks)
        if not isinstance(part, Image):
            return part
        if copied is not None:
            part = Image(keep_source(copied.pixels(), part.pixels()), generated=marks)
        if edit is not None and edit.mask is not None:
            return Image(edit.apply(part.pixels()), generated=marks)
        if size[0] is not None and size[1] is not None:
            return Image(part.pixels()[: size[1], : size[0]].copy(), generated=marks)
        return part

    return make


def _pictures(prompt: Any) -> list[Image]:
    return [part for part in _parts(prompt) if isinstance(part, Image)]


def _last_picture(prompt: Any) -> Image:
    found = _pictures(prompt)
    if not found:
        raise ValueError(
            "mask needs a picture to change; put one into the prompt or give source=sm.Image(...)"
        )
    return found[-1]


def _parts(prompt: Any) -> list[Any]:
    """The parts of a prompt or of its messages."""
    if not isinstance(prompt, list | tuple):
        return [prompt]
    return [
        part
        for item in prompt
        for part in (_parts(item.get("content")) if isinstance(item, dict) else [item])
    ]


def _read_mask(mask: Any, size: tuple[int, ...]) -> np.ndarray:
    """Bool ``[H, W]`` of the source's size.

    Raises:
        ValueError: it is of another size or kind, or nothing of it is chosen.
    """
    if isinstance(mask, Image):
        chosen = mask.pixels().mean(axis=2) > 127
    else:
        chosen = np.asarray(mask)
        if chosen.dtype != bool or chosen.ndim != 2:
            raise ValueError(
                f"mask is a {chosen.dtype} array of shape {list(chosen.shape)}; expected sm.Image (white where the "
                "picture changes) or a bool array [H, W]"
            )
    if chosen.shape != tuple(size):
        raise ValueError(
            f"the mask has {chosen.shape[1]} x {chosen.shape[0]} pixels and the picture {size[1]} x {size[0]}; "
            "they must be of one size"
        )
    if not chosen.any():
        raise ValueError("the mask chooses nothing; paint white what is to change")
    return chosen
