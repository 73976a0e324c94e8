"""Random changes of context media that keep their name: drawn from a seeded generator, applied to arrays.

What is generated is never augmented: the model should draw what the data show.
"""

from functools import lru_cache

import numpy as np


def augment(
    array_CHW: np.ndarray,
    rng: np.random.Generator,
    strength: float,
    *,
    keep_pixels: bool = False,
    num_frames: range | None = None,
) -> np.ndarray:
    """A picture (several channels) or a spectrogram (one channel), changed at random.

    Args:
        array_CHW: float32, roughly in [-2, 2]; pictures in [-1, 1] with a white background at 1.
        strength: 0 leaves the array as it is, 1 is the full range.
        keep_pixels: a picture is only mirrored and shifted by whole pixels, so that colours and small shapes stay what
            they are.
        num_frames: the lengths that a spectrogram may have when played faster or slower; None keeps its length, as
            times within it ask for.
    """
    if strength <= 0:
        return array_CHW
    if keep_pixels and array_CHW.shape[0] > 1:
        return _move(array_CHW, rng, strength)
    return (
        _augment_picture(array_CHW, rng, strength)
        if array_CHW.shape[0] > 1
        else _augment_mel(array_CHW, rng, strength, num_frames)
    )


def _augment_picture(x_CHW: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    C, H, W = x_CHW.shape
    angle = rng.normal() * 0.1 * strength
    zoom = np.exp(rng.uniform(-0.5, 0.1) * strength + rng.normal(size=2) * 0.06 * strength)
    shift = rng.normal(size=2) * 0.04 * strength * np.array([H, W])
    if rng.random() < 0.5 * strength:
        zoom[1] = -zoom[1]
    x = _affine(x_CHW, angle, zoom, shift)
    # Drawing styles differ in colour more than in shape: mix with grey, shift brightness, contrast and hue.
    grey = x.mean(axis=0, keepdims=True)
    x = grey + (x - grey) * np.float32(rng.uniform(1 - 0.7 * strength, 1 + 0.5 * strength))
    ink = 1 - x  # distance from the white background, which stays white
    gain = np.exp(rng.normal(size=(C, 1, 1)) * 0.1 * strength) * np.exp(rng.normal() * 0.15 * strength)
    x = 1 - ink * gain.astype(np.float32)
    if rng.random() < 0.5 * strength:
        x = _outline(x, rng)
    return np.clip(x, -1.2, 1.2)


def _move(x_CHW: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Mirror, and shift by up to an eighth of each side; what comes in at the border continues the border."""
    if rng.random() < 0.5 * strength:
        x_CHW = x_CHW[:, :, ::-1]
    for axis in (1, 2):
        size = x_CHW.shape[axis]
        most = round(size * 0.125 * strength)
        at = np.arange(size) + int(rng.integers(-most, most + 1))
        x_CHW = x_CHW.take(at.clip(0, size - 1), axis)
    return np.ascontiguousarray(x_CHW)


def _outline(x_CHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Redraw as a coloured line drawing: few flat tones inside, dark lines where the picture changes."""
    down = np.abs(np.diff(x_CHW, axis=1, append=1.0)).max(axis=0)
    right = np.abs(np.diff(x_CHW, axis=2, append=1.0)).max(axis=0)
    threshold = rng.uniform(0.25, 0.7)
    line = np.clip((np.maximum(down, right) - threshold) * 3, 0, 1).astype(np.float32)
    levels = np.float32(rng.integers(2, 6))
    flat = np.round(x_CHW * levels) / levels
    return flat * (1 - line) - line * np.float32(rng.uniform(0.4, 1.0))


@lru_cache(maxsize=16)
def _centred_grid(H: int, W: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cols = np.meshgrid(np.arange(H) - (H - 1) / 2, np.arange(W) - (W - 1) / 2, indexing="ij")
    return rows.astype(np.float32).ravel(), cols.astype(np.float32).ravel()


def _affine(x_CHW: np.ndarray, angle: float, zoom: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Rotate, scale (negative mirrors) and shift about the centre; bilinear; outside is the border's colour."""
    C, H, W = x_CHW.shape
    rows, cols = _centred_grid(H, W)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    zoom, shift = zoom.astype(np.float32), shift.astype(np.float32)
    r = np.clip((cos * rows - sin * cols) / zoom[0] + ((H - 1) / 2 - shift[0]), 0, H - 1.001)
    c = np.clip((sin * rows + cos * cols) / zoom[1] + ((W - 1) / 2 - shift[1]), 0, W - 1.001)
    r0, c0 = r.astype(np.int32), c.astype(np.int32)
    fr, fc = r - r0, c - c0
    flat = x_CHW.reshape(C, -1)
    at = r0 * W + c0
    left = flat.take(at, 1) * (1 - fr) + flat.take(at + W, 1) * fr
    right = flat.take(at + 1, 1) * (1 - fr) + flat.take(at + W + 1, 1) * fr
    return (left * (1 - fc) + right * fc).reshape(C, H, W)


def _augment_mel(
    x_1FM: np.ndarray, rng: np.random.Generator, strength: float, num_frames: range | None
) -> np.ndarray:
    """Another voice at another speed, by another microphone, in noise, at a lower sampling rate; parts of it masked.

    The envelope over the bands is the throat (vocal tract length perturbation, Jaitly and Hinton, 2013); what is left
    of it are the harmonics, which move on their own: another pitch. The masks are SpecAugment's (arXiv 1904.08779).
    """
    x_FM = x_1FM[0]
    if num_frames is not None:
        x_FM = _play(x_FM, float(np.exp(rng.uniform(-0.22, 0.22) * strength)), num_frames)
    F, M = x_FM.shape
    envelope_FM = _smooth(_smooth(x_FM))
    throat = float(np.exp(rng.uniform(-0.18, 0.18) * strength))
    pitch = throat * float(np.exp(rng.uniform(-0.22, 0.22) * strength))
    roughness = np.float32(rng.uniform(1 - 0.7 * strength, 1 + 0.15 * strength))
    x_FM = _stretch(envelope_FM, throat) + roughness * _stretch(x_FM - envelope_FM, pitch)
    if (
        rng.random() < 0.5 * strength
    ):  # harmonics that can hardly be told apart, as in a hoarse voice or an echo
        x_FM = _smooth(x_FM, 3)
    middle = x_FM.mean()
    x_FM = middle + (x_FM - middle) * np.float32(np.exp(rng.uniform(-0.2, 0.14) * strength))
    x_FM = x_FM + _curve(rng, M, 0.22 * strength) + np.float32(rng.normal() * 0.15 * strength)
    if rng.random() < 0.5 * strength:
        noise_FM = rng.normal(size=(F, M)).astype(np.float32) * np.float32(0.15)
        x_FM = np.maximum(x_FM, noise_FM + _curve(rng, M, 0.3) + np.float32(rng.uniform(-2.5, -0.2)))
    x_FM = np.roll(x_FM, int(rng.integers(0, 1 + int(6 * strength))), axis=0)
    silence = x_FM.min()
    if rng.random() < 0.4 * strength:  # a lower sampling rate
        x_FM[:, int(rng.integers(int(0.6 * M), M)) :] = silence
    for _ in range(2):
        x_FM[:, _span(rng, M, M / 10 * strength)] = silence
        x_FM[_span(rng, F, min(8, F / 16) * strength)] = silence
    return x_FM[None].astype(np.float32)


def _play(x_FM: np.ndarray, duration: float, num_frames: range) -> np.ndarray:
    """Play in ``duration`` times as many frames, or in the nearest number that may be."""
    F = x_FM.shape[0]
    place = round((duration * F - num_frames[0]) / num_frames.step)
    at = np.linspace(0, F - 1, num_frames[min(max(place, 0), len(num_frames) - 1)])
    low = np.floor(at).astype(np.int64)
    share_F1 = (at - low).astype(np.float32)[:, None]
    return x_FM[low] * (1 - share_F1) + x_FM[np.minimum(low + 1, F - 1)] * share_F1


def _span(rng: np.random.Generator, size: int, longest: float) -> slice:
    """Somewhere in ``size`` places, at most so long."""
    length = int(rng.integers(0, 1 + int(longest)))
    start = int(rng.integers(0, 1 + size - length))
    return slice(start, start + length)


def _smooth(x_FM: np.ndarray, width: int = 7) -> np.ndarray:
    """Mean over so many neighbouring bands (odd)."""
    half = width // 2
    sums = np.cumsum(np.pad(x_FM, ((0, 0), (half + 1, half)), mode="edge"), axis=1, dtype=np.float32)
    return (sums[:, width:] - sums[:, :-width]) / np.float32(width)


def _stretch(x_FM: np.ndarray, factor: float) -> np.ndarray:
    """Every band shows what stood at ``factor`` times its place."""
    M = x_FM.shape[1]
    at = np.clip(np.arange(M) * factor, 0, M - 1)
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32)
    return x_FM[:, low] * (1 - share) + x_FM[:, np.minimum(low + 1, M - 1)] * share


def _curve(rng: np.random.Generator, num_bands: int, std: float) -> np.ndarray:
    """A gain for each band: straight lines between seven random points."""
    points = rng.normal(size=7) * std
    return np.interp(np.arange(num_bands), np.linspace(0, num_bands - 1, 7), points).astype(np.float32)
