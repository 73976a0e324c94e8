"""Pictures as users speak of them: sizes in pixels, a source to start from, a mask at the source's own resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


# How a picture of the prompt is edited unless told otherwise. Mostly there is one right answer: many steps end at some
# drawing, few near the mean of all, sharpened by a little guidance from the first on (EXPERIMENTS.md, section 21).
EDITING: dict[str, Any] = {"num_steps": 2, "guidance_scale": 1.25, "guidance_interval": (0.0, 1.0)}

# Levels of 255: up to the first a difference is none, from the second on it is meant; between them it counts in part.
_CHANGED, _REDRAWN = (16, 48), (8, 32)
_RADIUS, _RIDGE = 2, 1e-3  # of the windows in which colours are matched, and of their least squares


def keep_source(pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A drawing at the size of the picture that it was made from, as sharp as that.

    A model sees and draws few pixels. What it hardly changed is the source itself; where an affine map of the colours
    around a pixel explains the change, the source goes through that map (bilateral guided upsampling, Chen et al.
    2016, with the local least squares of He et al. 2010); what is left is the drawing, enlarged.

    Args:
        pixels: uint8 ``[H, W, 3]``, the source. drawn: uint8 ``[h, w, 3]``.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    size = pixels.shape[:2]
    source_3HW, large_3HW = _planes(pixels), _planes(resize_image(drawn, *size))
    seen_3hw, drawn_3hw = _planes(resize_image(pixels, *drawn.shape[:2])), _planes(drawn)
    change_3hw = drawn_3hw - seen_3hw
    changed_hw = _share(change_3hw, _CHANGED)
    change_3hw *= changed_hw
    map_33hw, shift_3hw = _colour_map(seen_3hw, change_3hw)
    explained_3hw = torch.einsum("iohw,ihw->ohw", map_33hw, seen_3hw) + shift_3hw
    redrawn_hw = _share(change_3hw - explained_3hw, _REDRAWN)

    def enlarge(x_hw: Tensor) -> Tensor:
        return F.interpolate(x_hw[None, None], size, mode="bilinear", align_corners=False)[0, 0]

    changed_HW, redrawn_HW = enlarge(changed_hw), enlarge(redrawn_hw)
    made = np.empty_like(pixels)
    # One plane at a time: a picture may have 40 million pixels.
    for channel in range(3):
        old_HW = source_3HW[channel]
        tinted_HW = old_HW + enlarge(shift_3hw[channel])
        for other in range(3):
            tinted_HW += enlarge(map_33hw[other, channel]) * source_3HW[other]
        mixed_HW = old_HW + changed_HW * (large_3HW[channel] - old_HW)
        new_HW = tinted_HW + redrawn_HW * (mixed_HW - tinted_HW)
        made[:, :, channel] = (255 * new_HW).round().clamp(0, 255).numpy()
    return made


def _planes(pixels: np.ndarray) -> Tensor:
    """Uint8 ``[H, W, 3]`` -> float32 ``[3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)) / 255


def _share(change_3hw: Tensor, levels: tuple[int, int]) -> Tensor:
    """How much the largest change of a pixel's channels counts, ``[h, w]`` from 0 to 1."""
    low, high = (level / 255 for level in levels)
    return ((change_3hw.abs().amax(0) - low) / (high - low)).clamp(0, 1)


def _colour_map(seen_3hw: Tensor, change_3hw: Tensor) -> tuple[Tensor, Tensor]:
    """``A [3, 3, h, w]`` (from, to) and ``b [3, h, w]`` with ``A seen + b`` near the change in a window about each pixel."""

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, -3)[None]
        side = 2 * _RADIUS + 1
        return F.avg_pool2d(flat, side, 1, _RADIUS, count_include_pad=False)[0].view(x.shape)

    of_seen, of_change = mean(seen_3hw), mean(change_3hw)
    spread_33hw = mean(seen_3hw[:, None] * seen_3hw) - of_seen[:, None] * of_seen
    shared_33hw = mean(seen_3hw[:, None] * change_3hw) - of_seen[:, None] * of_change
    ridge = _RIDGE * torch.eye(3)
    map_hw33 = torch.linalg.solve(spread_33hw.permute(2, 3, 0, 1) + ridge, shared_33hw.permute(2, 3, 0, 1))
    map_33hw = map_hw33.permute(2, 3, 0, 1)
    shift_3hw = of_change - torch.einsum("iohw,ihw->ohw", map_33hw, of_seen)
    return mean(map_33hw), mean(shift_3hw)


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
    prompt: Any, output: str, edit: Edit | None, grid: tuple[int, int] | None, config: ModelConfig
) -> Image | None:
    """The picture that a drawing may copy from and has the size of: the source that is named, or the prompt's last one.

    None where no picture alone is drawn, where the model does not copy, or where a size is asked for.
    """
    if output != "image" or not config.modalities["image"].copies_source:
        return None
    if edit is not None:
        return Image(edit.pixels)
    found = _pictures(prompt)
    return found[-1] if found and grid is None else None


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
