"""Colours by name: which one most of a thing has, and the thing in another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

# Centres of hues in degrees; what lies nearest gives a colour its name.
HUES = {
    "red": 2,
    "orange": 30,
    "yellow": 52,
    "green": 118,
    "turquoise": 175,
    "blue": 218,
    "purple": 272,
    "pink": 325,
}


def hues_between(a: float, b: float) -> float:
    """Return how far two hues lie apart, in degrees."""
    return abs((a - b + 180) % 360 - 180)


def _hsv(image: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hue, saturation, value = (
        np.asarray(band, np.float32) for band in image.convert("RGB").convert("HSV").split()
    )
    return hue * (360 / 255), saturation / 255, value / 255


@lru_cache(maxsize=2048)
def _main_colour(key: bytes, size: tuple[int, int]) -> str | None:
    image = Image.frombytes("RGBA", size, key)
    hue, saturation, value = _hsv(image)
    seen = np.asarray(image.getchannel("A")) > 128
    coloured = seen & (saturation > 0.3) & (value > 0.25)
    if coloured.sum() < 0.35 * seen.sum():
        return None
    # Brown is dark orange, and would be called so.
    names = list(HUES)
    nearest = np.argmin([np.abs((hue - at + 180) % 360 - 180) for at in HUES.values()], axis=0)
    counts = np.bincount(nearest[coloured], minlength=len(names))
    best = int(counts.argmax())
    of_best = coloured & (nearest == best)
    is_dull = np.median(value[of_best]) < 0.7 or np.median(saturation[of_best]) < 0.6
    is_brown = names[best] in ("orange", "red") and is_dull
    return None if is_brown or counts[best] < 0.4 * seen.sum() else names[best]


def main_colour(image: Image.Image) -> str | None:
    """Return the name of the colour that most of the thing has; None where no colour prevails."""
    small = image.resize((32, 32), Image.Resampling.BOX)
    return _main_colour(small.tobytes(), small.size)


def with_colour(image: Image.Image, old: str, new: str) -> Image.Image:
    """Return the picture with one hue turned into another; lightness and shading stay.

    Args:
        image: RGBA.
        old: a name of `HUES`; what is called so is changed.
        new: the name it gets.
    """
    hue, saturation, value = _hsv(image)
    offset = (hue - HUES[old] + 180) % 360 - 180
    nearest = np.argmin([np.abs((hue - at + 180) % 360 - 180) for at in HUES.values()], axis=0)
    # A little beyond the colour's own range, so that shaded edges follow.
    inside = ((nearest == list(HUES).index(old)) | (np.abs(offset) < 28)) & (saturation > 0.15)
    hue = np.where(inside, (HUES[new] + offset * 0.4) % 360, hue)
    if new in ("yellow", "orange"):
        value = np.where(inside, value**0.6, value)
    if new == "pink":
        saturation = np.where(inside, saturation * 0.55, saturation)
        value = np.where(inside, value**0.6, value)
    bands = [
        Image.fromarray(np.rint(band * factor).clip(0, 255).astype(np.uint8))
        for band, factor in ((hue, 255 / 360), (saturation, 255), (value, 255))
    ]
    changed = Image.merge("HSV", bands).convert("RGB")
    # HSV rounds: what keeps its colour keeps it exactly.
    changed = Image.composite(changed, image.convert("RGB"), Image.fromarray((inside * 255).astype(np.uint8)))
    changed.putalpha(image.getchannel("A"))
    return changed
