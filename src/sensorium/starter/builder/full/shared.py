"""What the sources of real data share: held-out names, cleaning of words, pictures and clips of 24 kHz."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from PIL import Image

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.clipart import named_concept
from sensorium.starter.builder.full.source import FULL_PICTURE_SIZE
from sensorium.starter.builder.images import encode_webp, shrink
from sensorium.starter.builder.packages import fetch, read_texts
from sensorium.starter.builder.waveforms import (
    Waveform,
    encode_opus_quick,
    finish,
    loudest_part,
    trim_silence,
)

SAMPLE_RATE = 24_000
# A sound effect longer than this is cut to its loudest part; speech is never cut.
MAX_EFFECT_S = 20.0
_FRAME_S = 0.01
# Noise varies less than this; speech is this much louder; and what is kept beside it, for soft endings.
_STEADY_DB, _ABOVE_NOISE_DB, _MARGIN_FRAMES = 5.0, 6.0, 8
# Below this peak a recording is taken for silence.
_MIN_PEAK = 0.01
_FULL_SCALE = 0.99
# What a text takes to say, in seconds: a breath, and so much for a letter and for a digit.
_BREATH_S, _LETTER_S, _DIGIT_S = 0.35, 0.065, 0.35
_NAME = re.compile(r"[a-z][a-z' -]{2,}")


@cache
def held_out_names(folder: Path) -> frozenset[str]:
    """Return the English names of emoji and symbols that are not in the training split.

    A title of another source that speaks of one of them shares its split.
    """
    (text,) = read_texts(fetch(pinned.CLDR, folder), "package/annotations/en/annotations.json")
    entries = json.loads(text)["annotations"]["annotations"].values()
    names = {entry["tts"][0].lower() for entry in entries if entry.get("tts")}
    return frozenset(name for name in names if _NAME.fullmatch(name) and split_of(name) != "train")


@cache
def _any_of(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})(?:s|es)?\b")


def concept_of(title: str, held_out: frozenset[str]) -> str:
    """Return the concept of a lower-case title: a held-out name that it holds, else the title."""
    # One search for all names first: `named_concept` tries them one by one.
    return named_concept(title, set(held_out)) if _any_of(held_out).search(title) else title


def picture(image: Image.Image, stem: str) -> dict[str, Any]:
    """Return a picture as a value of the column `image`: 128 pixels, over white."""
    return medium(encode_webp(shrink(image, FULL_PICTURE_SIZE), method=4), f"{stem}.webp")


def is_visible(image: Image.Image) -> bool:
    """Return whether an RGBA picture shows anything over white: neither empty nor of one colour."""
    solid = Image.new("RGBA", image.size, "white")
    solid.alpha_composite(image)
    pixels = np.asarray(solid.convert("RGB"), dtype=np.int16)
    return int((pixels.max(axis=(0, 1)) - pixels.min(axis=(0, 1))).max()) > 16


def read_waveform(data: bytes) -> Waveform | None:
    """Return a recording as mono at 24 kHz; None where it is silent or as good as empty."""
    samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return mono(samples.mean(axis=1), sample_rate)


def mono(waveform: Waveform, sample_rate: int) -> Waveform | None:
    """Return the waveform at 24 kHz; None where it is silent or as good as empty."""
    if len(waveform) < sample_rate // 20 or float(np.abs(waveform).max()) < _MIN_PEAK:
        return None
    resampled: Waveform = soxr.resample(waveform, sample_rate, SAMPLE_RATE)
    return resampled


def effect_clip(waveform: Waveform, stem: str) -> dict[str, Any]:
    """Return a sound as a value of the column `audio`: trimmed, at most 20 s, levelled."""
    part = loudest_part(trim_silence(waveform, SAMPLE_RATE), SAMPLE_RATE, MAX_EFFECT_S)
    return _clip(part, stem)


def trim_speech(waveform: Waveform) -> Waveform:
    """Return speech without what lies before and after it: silence, or the noise of the room."""
    speech = trim_silence(waveform, SAMPLE_RATE)
    frame = round(_FRAME_S * SAMPLE_RATE)
    frames = speech[: len(speech) // frame * frame].reshape(-1, frame)
    if len(frames) < 2:
        return speech
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
    # Steady and long, this is noise; speech without pauses has no such level, and is left as it is.
    quiet, noise = np.percentile(level, [5, 40])
    if noise - quiet > _STEADY_DB:
        return speech
    loud = np.flatnonzero(level > noise + _ABOVE_NOISE_DB)
    if not len(loud):
        return speech
    start, end = max(0, loud[0] - _MARGIN_FRAMES), loud[-1] + 1 + _MARGIN_FRAMES
    return speech[start * frame : end * frame]


def speech_clip(waveform: Waveform, stem: str) -> dict[str, Any]:
    """Return speech that `trim_speech` has trimmed as a value of the column `audio`: levelled, whole."""
    return _clip(waveform, stem)


def _clip(waveform: Waveform, stem: str) -> dict[str, Any]:
    return medium(encode_opus_quick(finish(waveform, SAMPLE_RATE), SAMPLE_RATE), f"{stem}.opus.ogg")


def clipped_share(waveform: Waveform) -> float:
    """Return the share of samples at full scale or beyond it: many where it was recorded too loud."""
    return float((np.abs(waveform) >= _FULL_SCALE).mean())


def says(speech: Waveform, text: str, ratio: tuple[float, float]) -> bool:
    """Return whether the trimmed recording is about as long as saying the text takes.

    Args:
        speech: at 24 kHz.
        text: what it should say.
        ratio: the least and the greatest duration, as shares of the usual one.
    """
    letters, digits = sum(c.isalpha() for c in text), sum(c.isdigit() for c in text)
    expected_s = _BREATH_S + letters * _LETTER_S + digits * _DIGIT_S
    return ratio[0] * expected_s <= len(speech) / SAMPLE_RATE <= ratio[1] * expected_s


def tidy(text: str) -> str:
    """Return the text with single spaces and no space at its ends."""
    return " ".join(text.split())


def language_tag(code: str) -> str:
    """Return the language tag of a locale as programs write it: "pt_BR" is "pt-BR", "sr@latin" "sr-Latn"."""
    base, _, variant = code.partition("@")
    language, _, region = base.partition("_")
    script = {"latin": "Latn", "valencia": "valencia"}.get(variant.lower(), variant)
    return "-".join(part for part in (language, script, region.upper()) if part)
