"""Small rows of every suite, and subjects whose answers are known."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as pillow

from sensorium.data.schema import medium, message
from sensorium.evals.cases import Part
from sensorium.media.audio import encode_wav
from sensorium.media.parts import Audio, Image

ABOUT = {"source": "test", "license": "CC0-1.0", "attribution": "nobody"}
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}


def png(colour: str, place: int = 0) -> bytes:
    """A square of a colour; ``place`` makes it another picture."""
    pixels = np.full((24, 24, 3), 255, np.uint8)
    pixels[4 + place % 4 : 18, 4 + place // 4 : 20] = COLOURS[colour]
    buffer = io.BytesIO()
    pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tone(number: int, duration_s: float = 0.3) -> bytes:
    """A tone of its own height."""
    times = np.arange(int(24_000 * duration_s)) / 24_000
    return encode_wav((0.3 * np.sin(2 * np.pi * 200 * 1.3**number * times)).astype(np.float32))


def question_rows(split: str, num: int = 12, *, people: bool = False) -> list[dict[str, Any]]:
    rows = []
    for n in range(num):
        colour = list(COLOURS)[n % 4]
        answers = [colour] * 8 + ["dark", "A " + colour.upper()]
        rows.append(
            {
                **ABOUT,
                "id": f"{split}-{n}",
                "split": split,
                "messages": [
                    message("user", {"type": "image"}, "what colour is it?"),
                    message("assistant", colour),
                ],
                "images": [medium(png(colour, n), "x.png")],
                **({"metadata": {"answers": json.dumps(answers)}} if people else {}),
            }
        )
    return rows


def picture_rows(split: str, num: int = 4) -> list[dict[str, Any]]:
    return [
        {
            **ABOUT,
            "id": f"{split}-{n}",
            "split": split,
            "image": medium(png(list(COLOURS)[n % 4], n), "x.png"),
            "text": list(COLOURS)[n % 4] if n < 4 else f"picture {n}",
        }
        for n in range(num)
    ]


def speech_rows(split: str, num: int = 6, duration_s: float = 0.3) -> list[dict[str, Any]]:
    return [
        {
            **ABOUT,
            "id": f"{split}-{n}",
            "split": split,
            "audio": medium(tone(n, duration_s), "x.wav"),
            "text": f"Tone number {n}.",
        }
        for n in range(num)
    ]


class Seer:
    """Knows the colour of a square and the height of a tone; without a medium it says what it was told to."""

    name, fingerprint, max_sound_s = "seer", "1", 1.0

    def __init__(self, blind: str = "red") -> None:
        self.blind = blind
        self.asked: list[Sequence[Part]] = []

    def answer(self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int) -> list[str]:
        self.asked += prompts
        return [self._name(prompt) for prompt in prompts]

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        self.asked += [[item] for item in items]
        words = [item if isinstance(item, str) else self._name([item]) for item in items]
        known = [*COLOURS]
        return np.array([[float(word == colour) for colour in known] for word in words], np.float32)

    def _name(self, prompt: Sequence[Part]) -> str:
        for part in prompt:
            if isinstance(part, Image):
                centre = part.pixels()[12, 12].astype(int)
                return min(COLOURS, key=lambda c: abs(centre - COLOURS[c]).sum())
            if isinstance(part, Audio):
                spectrum = np.abs(np.fft.rfft(part.waveform()))
                hertz = spectrum.argmax() * 24_000 / part.waveform().size
                return f"tone number {round(np.log(hertz / 200) / np.log(1.3))}"
        return self.blind


class Sleeper(Seer):
    """Says and thinks always the same."""

    name, fingerprint = "sleeper", "2"

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        return np.ones((len(items), 3), np.float32)

    def _name(self, prompt: Sequence[Part]) -> str:
        return "blue"
