"""Small rows of every suite, and subjects whose answers are known."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as pillow

from sensorium.data.schema import medium, message
from sensorium.evals.cases import Part
from sensorium.media.audio import encode_wav, griffin_lim
from sensorium.media.parts import Audio, Image, Video

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


def edit_rows(split: str, num: int = 6) -> list[dict[str, Any]]:
    """A square that is to be of another colour; the last one stays as it is."""
    rows = []
    for n in range(num):
        old, new = list(COLOURS)[n % 4], list(COLOURS)[(n + (n + 1 < num)) % 4]
        pictures = [medium(png(old, n), "before.png"), medium(png(new, n), "after.png")]
        rows.append(
            {
                **ABOUT,
                "id": f"{split}-{n}",
                "split": split,
                "messages": [
                    message("user", {"type": "image"}, f"make it {new}"),
                    message("assistant", {"type": "image"}),
                ],
                "images": pictures,
                "metadata": {"operation": "recolour" if n % 2 else "swap"},
            }
        )
    return rows


def clip(colour: str, place: int = 0) -> bytes:
    """A square that moves, as an animated picture."""
    frames = [pillow.open(io.BytesIO(png(colour, place + n))) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=200, lossless=True)
    return buffer.getvalue()


def clip_rows(split: str, num: int = 4) -> list[dict[str, Any]]:
    return [
        {
            **ABOUT,
            "id": f"{split}-{n}",
            "split": split,
            "video": medium(clip(list(COLOURS)[n % 4], n // 4), "x.webp"),
            "text": list(COLOURS)[n % 4],
        }
        for n in range(num)
    ]


def svg(colour: str) -> str:
    """Code of a square."""
    r, g, b = COLOURS[colour]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect fill="rgb({r},{g},{b})" height="14" width="16" x="4" y="4"/></svg>'


def code_rows(split: str, num: int = 4) -> list[dict[str, Any]]:
    rows = question_rows(split, num)
    for n, row in enumerate(rows):
        row["messages"] = [
            message("user", {"type": "image"}, "draw this as SVG"),
            message("assistant", svg(list(COLOURS)[n % 4])),
        ]
    return rows


def region_rows(split: str, num: int = 8) -> list[dict[str, Any]]:
    """Names, places and outlines, as those of the brain."""
    rows = question_rows(split, num)
    for n, row in enumerate(rows):
        kind, answer = ("name", list(COLOURS)[n % 4]) if n % 2 else ("place", place_of(n))
        row["messages"][1] = message("assistant", answer)
        row["metadata"] = {"question": kind}
    outline = edit_rows(split, 2)[0] | {"id": f"{split}-outline", "metadata": {"question": "outline"}}
    return [*rows, outline]


def place_of(n: int) -> str:
    return f"On the left: {n} to {n + 50} % of the width, 10 to 60 % of the height."


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
            if isinstance(part, Video):
                part = Image(part.frames()[0][1])
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


class Artist(Seer):
    """Draws the square and speaks the tone that the words ask for; its answers are as sure as it was told to be."""

    name, fingerprint = "artist", "3"
    vocoder, vocoder_name = staticmethod(griffin_lim), "Griffin-Lim"
    sureness = 0.9

    def make(
        self, prompts: Sequence[Sequence[Part]], output: str, *, seed: int, **options: Any
    ) -> list[Image | Audio]:
        self.asked += prompts
        return [self._made(prompt, output) for prompt in prompts]

    def answer_surely(
        self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int
    ) -> list[tuple[str, float]]:
        return [(text, self.sureness) for text in self.answer(prompts, max_tokens=max_tokens, seed=seed)]

    def _made(self, prompt: Sequence[Part], output: str) -> Image | Audio:
        words = " ".join(part for part in prompt if isinstance(part, str)).split()
        if output == "audio":
            return Audio(tone(int(words[-1].strip("."))))
        colour = next(word for word in words if word in COLOURS)
        source = next((part for part in prompt if isinstance(part, Image)), None)
        if source is None:
            return Image(png(colour, list(COLOURS).index(colour)))
        pixels = source.pixels()
        pixels[(pixels != 255).any(axis=2)] = COLOURS[colour]
        return Image(pixels)


class Idler(Artist):
    """Draws a grey page, hands an edit's source back, and says nothing but one tone."""

    name, fingerprint = "idler", "4"

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        return np.ones((len(items), 3), np.float32)

    def _made(self, prompt: Sequence[Part], output: str) -> Image | Audio:
        if output == "audio":
            return Audio(tone(0))
        source = next((part for part in prompt if isinstance(part, Image)), None)
        return source or Image(np.full((24, 24, 3), 128, np.uint8))


class Coder(Seer):
    """Writes the code of the square that it sees; blind it writes none."""

    name, fingerprint = "coder", "5"

    def answer(self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int) -> list[str]:
        self.asked += prompts
        sees = [any(isinstance(part, Image) for part in prompt) for prompt in prompts]
        return [
            svg(self._name(prompt)) if seen else "<svg" for prompt, seen in zip(prompts, sees, strict=True)
        ]


class Ear:
    """A recogniser that knows tones by their height."""

    name, fingerprint = "ear", "6"

    def __init__(self) -> None:
        self.languages: list[str | None] = []

    def __call__(self, sound: Audio, language: str | None) -> str:
        self.languages.append(language)
        return Seer()._name([sound])


class Colours:
    """Features of a picture: the mean of each channel."""

    name, fingerprint = "colours", "7"

    def __call__(self, pictures: Sequence[Image]) -> np.ndarray:
        return np.stack([picture.pixels().mean(axis=(0, 1)) / 255 for picture in pictures]).astype(np.float32)
