"""Synthetic speech: names of pictures, prompts and short glosses by several voices, two of them for tests only."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from itertools import chain
from pathlib import Path
from typing import Any

import soundfile

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.clips import emoji_names
from sensorium.starter.builder.full.cutouts import Cutout, emoji
from sensorium.starter.builder.full.emoji import CLDR_DERIVED, emoji_concept
from sensorium.starter.builder.full.pico import SAMPLE_RATE as PICO_RATE
from sensorium.starter.builder.full.pico import Pico
from sensorium.starter.builder.full.shared import SAMPLE_RATE, mono, picture, speech_clip
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.images import open_image
from sensorium.starter.builder.packages import BuildError, fetch
from sensorium.starter.builder.speech import transcripts
from sensorium.starter.builder.waveforms import Waveform, trim_silence
from sensorium.starter.builder.words import gloss_rows

NAME = "synthetic-speech"
_MAX_GLOSS_LENGTH = 60
_NUM_GLOSSES = 700
# Whole sentences that only the held-out voices say: no text of theirs is in training.
_NUM_HELD_OUT_SENTENCES = 150
_MAX_DURATION_S = 12.0
_PICTURED_SHARE = 0.5
_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice: its program, what the program calls it, and what must be said about it."""

    name: str
    engine: str
    id: str
    language: str
    is_held_out: bool = False


VOICES = (
    Voice(name="espeak-ng en-us", engine="espeak-ng", id="en-us", language="en"),
    Voice(name="espeak-ng en-gb female", engine="espeak-ng", id="en-gb+f3", language="en"),
    Voice(name="flite slt", engine="flite", id="slt", language="en"),
    Voice(name="flite rms", engine="flite", id="rms", language="en"),
    Voice(name="flite kal16", engine="flite", id="kal16", language="en"),
    Voice(name="nanotts en-US", engine="nanotts", id="en-US", language="en"),
    Voice(name="flite awb", engine="flite", id="awb", language="en", is_held_out=True),
    Voice(name="nanotts en-GB", engine="nanotts", id="en-GB", language="en", is_held_out=True),
    Voice(name="espeak-ng de", engine="espeak-ng", id="de", language="de"),
    Voice(name="nanotts de-DE", engine="nanotts", id="de-DE", language="de"),
    Voice(name="espeak-ng es", engine="espeak-ng", id="es", language="es"),
    Voice(name="nanotts es-ES", engine="nanotts", id="es-ES", language="es"),
    Voice(name="espeak-ng fr", engine="espeak-ng", id="fr-fr", language="fr"),
    Voice(name="nanotts fr-FR", engine="nanotts", id="fr-FR", language="fr"),
    Voice(name="espeak-ng ru", engine="espeak-ng", id="ru", language="ru"),
    Voice(name="nanotts it-IT", engine="nanotts", id="it-IT", language="it"),
)
ENGINES = {
    "espeak-ng": "eSpeak NG (https://github.com/espeak-ng/espeak-ng)",
    "flite": "Flite, Carnegie Mellon University (http://cmuflite.org)",
    "nanotts": "SVOX Pico by the Python package py-nanotts",
    "piper": "the Piper voice joe (CC0, https://github.com/NabuCasa/voice-datasets)",
    "hibari": "hibari (https://github.com/MMWilliams/hibari), after the voice af_heart of Kokoro-82M",
}
TOOLS = (("espeak-ng", "apt-get install espeak-ng"), ("flite", "apt-get install flite"))
_LICENSE = "Unicode-3.0"


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Something to be said: the text, by whom, and where text and picture come from."""

    key: str
    text: str
    voice: Voice
    # Decides about the split; a sentence of a held-out voice has none.
    concept: str | None
    license: str
    attribution: str
    drawing: Cutout | None = None


def speech_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per utterance; what comes out silent or much too long is left out."""
    with tempfile.TemporaryDirectory() as scratch, Pico() as pico:
        for utterance in chain(_named(folder), _prompts(folder), _glosses(folder)):
            rate, pitch = variation(utterance.key)
            waveform = say(utterance.voice, utterance.text, rate, pitch, Path(scratch), pico)
            if waveform is None or len(waveform) > _MAX_DURATION_S * SAMPLE_RATE:
                continue
            yield _row(utterance, waveform, rate, pitch)


def variation(key: str, spread: float = 0.12) -> tuple[float, float]:
    """Return (rate, pitch) of an utterance as factors of what is usual, 1 +- ``spread``: a function of its key."""
    digest = sha1(f"variation {key}".encode()).digest()
    rate, pitch = (1 - spread + 2 * spread * digest[i] / 255 for i in (0, 1))
    return round(rate, 2), round(pitch, 2)


def say(voice: Voice, text: str, rate: float, pitch: float, scratch: Path, pico: Pico) -> Waveform | None:
    """Return what a voice says at 24 kHz, without silence at its ends; None where nothing is heard.

    Raises:
        BuildError: the program is missing or fails.
    """
    if voice.engine == "nanotts":
        return trimmed(pico.say(text, voice.id, rate, pitch), PICO_RATE)
    out = scratch / "said.wav"
    out.unlink(missing_ok=True)
    if voice.engine == "espeak-ng":
        options = ["-v", voice.id, "-s", str(round(160 * rate)), "-p", str(round(50 * pitch)), "-w", str(out)]
        command = ["espeak-ng", *options, "--", text]
    else:
        options = [
            "-voice",
            voice.id,
            "--setf",
            f"duration_stretch={1 / rate:.3f}",
            "--setf",
            f"f0_shift={pitch}",
        ]
        command = ["flite", *options, "-t", text, "-o", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{voice.engine} did not say {text!r}: {error}") from error
    if done.returncode != 0 or not out.is_file():
        raise BuildError(f"{voice.engine} did not say {text!r}: {done.stderr.strip()[-300:]}")
    read, sample_rate = soundfile.read(out, dtype="float32", always_2d=True)
    return trimmed(read.mean(axis=1), sample_rate)


def trimmed(samples: Waveform, sample_rate: int) -> Waveform | None:
    """Return it in mono at 24 kHz, without silence at its ends; None where nothing is heard."""
    waveform = mono(samples, sample_rate)
    return None if waveform is None else trim_silence(waveform, SAMPLE_RATE)


def pick_voice(key: str, language: str, *, held_out: bool = False) -> Voice:
    """Return the voice that says a text: a function of its key."""
    voices = [voice for voice in VOICES if voice.language == language and voice.is_held_out == held_out]
    return voices[_number(f"voice {key}") % len(voices)]


def _number(key: str) -> int:
    return int(sha1(key.encode()).hexdigest()[:8], 16)


def _named(folder: Path) -> Iterator[Utterance]:
    """Names of things, twice in English, once in the other languages; held-out voices say held-out names."""
    names = emoji_names(folder)
    known = frozenset(table["en"].lower() for table in names.values())
    noto, fluent = emoji(folder, "noto"), emoji(folder, "fluent")
    concepts = {key: emoji_concept(names[key]["en"], known) for key in noto}
    # One word may name two things ("pomme"): it is left out where one of them is held out and the other is not.
    splits: dict[str, set[str]] = {}
    for key, concept in concepts.items():
        for language in {voice.language for voice in VOICES} & names[key].keys():
            splits.setdefault(names[key][language].lower(), set()).add(split_of(concept))
    for key, concept in concepts.items():
        for language in ("en", "en-2", "de", "es", "fr", "it", "ru"):
            tag = language.partition("-")[0]
            # Of two languages a part is enough.
            if tag not in names[key] or (tag in ("it", "ru") and _number(f"part {key}") % 3):
                continue
            if len(splits[names[key][tag].lower()]) > 1:
                continue
            number = f"{tag}/{key}" + ("-2" if language == "en-2" else "")
            voice = pick_voice(f"en/{key}", tag)
            if language == "en-2":
                others = [v for v in VOICES if v.language == "en" and not v.is_held_out and v != voice]
                voice = others[_number(number) % len(others)]
            style = fluent if _number(f"style {number}") % 2 and key in fluent else noto
            pictured = _number(f"pictured {number}") % 100 < 100 * _PICTURED_SHARE
            said = [voice]
            if language == "en" and split_of(concept) == "test":
                said += [voice for voice in VOICES if voice.is_held_out]
            for voice in said:
                yield Utterance(
                    key=f"name/{number}" + (f"/{voice.id}" if voice.is_held_out else ""),
                    text=names[key][tag],
                    voice=voice,
                    concept=concept,
                    license=_LICENSE,
                    attribution="words: Unicode CLDR, Unicode, Inc. (Unicode-3.0)",
                    drawing=style[key] if pictured else None,
                )


def _prompts(folder: Path) -> Iterator[Utterance]:
    for language, package in (("en", pinned.ASTERISK_EN_TEXT), ("fr", pinned.ASTERISK_FR_TEXT)):
        for prompt, text in sorted(transcripts(fetch(package, folder)).items()):
            key = f"prompt/{language}/{prompt}"
            yield Utterance(
                key=key,
                text=text,
                voice=pick_voice(key, language),
                concept=text.lower(),
                license="CC-BY-SA-3.0",
                attribution="words: Asterisk core sounds (https://www.asterisk.org), Digium, Inc. and their authors",
            )


def _glosses(folder: Path) -> Iterator[Utterance]:
    rows = [row for row in gloss_rows(folder, []) if len(row["text"]) <= _MAX_GLOSS_LENGTH]
    chosen = sorted(rows, key=lambda row: _number(row["id"]))
    held_out = [voice for voice in VOICES if voice.is_held_out]
    for index, row in enumerate(chosen[: _NUM_GLOSSES + _NUM_HELD_OUT_SENTENCES * len(held_out)]):
        word, _, gloss = row["text"].partition(": ")
        rest = index - _NUM_GLOSSES
        key = f"gloss/{word.replace(' ', '_')}"
        yield Utterance(
            key=key,
            text=row["text"] if rest < 0 else f"The word {word} means: {gloss}.",
            voice=pick_voice(key, "en") if rest < 0 else held_out[rest % len(held_out)],
            concept=word if rest < 0 else None,
            license="LicenseRef-WordNet",
            attribution="words: " + row["attribution"],
        )


def _row(utterance: Utterance, waveform: Waveform, rate: float, pitch: float) -> dict[str, Any]:
    voice, drawing = utterance.voice, utterance.drawing
    stem = utterance.key.rpartition("/")[2]
    licenses = {utterance.license} | ({drawing.license} if drawing else set())
    works = [f"spoken by {ENGINES[voice.engine]}", utterance.attribution]
    row: dict[str, Any] = {
        "id": f"{NAME}/{utterance.key}",
        "split": "test" if utterance.concept is None else split_of(utterance.concept),
        "concept": utterance.concept,
        "language": voice.language,
        "source": NAME,
        "license": " AND ".join(sorted(licenses)),
        "attribution": "; ".join([*works, drawing.attribution + "; shrunk"] if drawing else works),
        "text": utterance.text,
        "audio": speech_clip(waveform, stem),
        "metadata": {
            "synthetic": "true",
            "voice": voice.name,
            "engine": voice.engine,
            "rate": str(rate),
            "pitch": str(pitch),
            **({"held_out_voice": "true"} if voice.is_held_out else {}),
            **({"style": drawing.key.partition("/")[0]} if drawing else {}),
        },
    }
    if drawing:
        row["image"] = picture(open_image(drawing.data), drawing.key.rpartition("/")[2])
    return row


SOURCES = (
    FullSource(
        name=NAME,
        task="synthetic-speech",
        packages=(
            *(pinned.NOTO, pinned.FLUENT, pinned.CLDR, CLDR_DERIVED, pinned.WORDNET),
            *(pinned.ASTERISK_EN_TEXT, pinned.ASTERISK_FR_TEXT),
        ),
        rows=speech_rows,
        tools=TOOLS,
    ),
)
