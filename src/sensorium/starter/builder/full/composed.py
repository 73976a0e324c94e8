"""Composed prompts: phrases of the English studio prompts joined anew and said by many voices.

A listener of a few million weights needs each word many times, by many voices, among ever other neighbours. Two voices
are in test only; what they say there has the same words, and nobody says those sentences in training.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.hibari import ACCENTS, Hibari, speaker_of
from sensorium.starter.builder.full.pico import Pico
from sensorium.starter.builder.full.piper import Piper
from sensorium.starter.builder.full.shared import SAMPLE_RATE, speech_clip
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.full.synthetic import ENGINES, TOOLS, VOICES, Voice, say, trimmed, variation
from sensorium.starter.builder.packages import fetch
from sensorium.starter.builder.speech import transcripts
from sensorium.starter.builder.waveforms import Waveform

NAME = "composed-prompts"
NAME_PIPER = "composed-prompts-piper"
NAME_HIBARI = "composed-prompts-hibari"
_NUM_SENTENCES = {"test": 400, "validation": 200, "train": 16_000}
_NUM_PIPER = 2_400
_NUM_HIBARI = 8_000
_MAX_WORDS = 8
_VARIATION = 0.2  # of rate and pitch, to either side
# What the models of the starter recipes hear at once is 5.1 s.
_MAX_DURATION_S = 5.0
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")

_HELD_OUT = tuple(voice for voice in VOICES if voice.is_held_out)
# Voices of English beside those of `synthetic`: eSpeak changes throat, pitch and dialect at no cost.
_MORE = tuple(
    Voice(name=f"espeak-ng {id_}", engine="espeak-ng", id=id_, language="en")
    for id_ in (
        "en-us+m3",
        "en-us+f2",
        "en-us+m7",
        "en-gb-scotland+m1",
        "en-gb-x-rp+f4",
        "en-gb-x-gbclan",
        "en-us+linda",
        "en-gb-scotland+klatt",
    )
)
_KNOWN = (*(voice for voice in VOICES if voice.language == "en" and not voice.is_held_out), *_MORE)
# One neural voice with several accents: what is held out has two.
_PIPER = tuple(
    Voice(name=f"piper joe {accent}", engine="piper", id=accent, language="en")
    for accent in ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland")
)
# Another, whose throat and pitch are drawn anew for every sentence: as many speakers as sentences.
_HIBARI = tuple(
    Voice(name=f"hibari {accent}", engine="hibari", id=accent, language="en") for accent in ACCENTS
)
# The voices made of recordings sound most like people: they say more than half.
_WEIGHTS = {"flite": 3.0, "nanotts": 5.0, "espeak-ng": 1.2, "piper": 1.0, "hibari": 1.0}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What is said, in which split, and by whom: a function of its number."""

    key: str
    text: str
    split: str
    voice: Voice


def composed_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per sentence; what comes out silent or too long is left out."""
    with tempfile.TemporaryDirectory() as scratch, Pico() as pico:
        for sentence in _sentences(folder, (*_KNOWN, *_HELD_OUT)):
            rate, pitch = variation(sentence.key, _VARIATION)
            waveform = say(sentence.voice, sentence.text, rate, pitch, Path(scratch), pico)
            yield from _row(NAME, sentence, waveform, {"rate": rate, "pitch": pitch})


def piper_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per sentence of the neural voice, whose throat grows and shrinks with its pitch."""
    piper = Piper(folder)
    for sentence in _sentences(folder, _PIPER):
        rate, pitch = variation(sentence.key, _VARIATION)
        said = piper.say(sentence.text, sentence.voice.id, rate / pitch)
        waveform = trimmed(said, round(piper.sample_rate * pitch))
        yield from _row(NAME_PIPER, sentence, waveform, {"rate": rate, "pitch": pitch})


def hibari_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per sentence, each by a speaker of its own."""
    hibari = Hibari()
    for sentence in _sentences(folder, _HIBARI):
        speaker = speaker_of(sentence.key)
        waveform = trimmed(hibari.say(sentence.text, sentence.voice.id, speaker), hibari.sample_rate)
        yield from _row(NAME_HIBARI, sentence, waveform, asdict(speaker))


def _sentences(folder: Path, voices: Sequence[Voice]) -> Iterator[Sentence]:
    prompts = transcripts(fetch(pinned.ASTERISK_EN_TEXT, folder)).values()
    said_by = {voice.name for voice in voices}
    return (s for s in sentences(sorted(prompts)) if s.voice.name in said_by)


def _row(
    source: str, sentence: Sentence, waveform: Waveform | None, how: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    if waveform is None or len(waveform) > _MAX_DURATION_S * SAMPLE_RATE:
        return
    yield {
        "id": f"{source}/{sentence.key}",
        "split": sentence.split,
        "concept": None,
        "language": "en",
        "source": source,
        "license": "CC-BY-SA-3.0",
        "attribution": f"spoken by {ENGINES[sentence.voice.engine]}; words: Asterisk core sounds "
        "(https://www.asterisk.org), Digium, Inc. and their authors",
        "text": sentence.text,
        "audio": speech_clip(waveform, sentence.key.replace("/", "-")),
        "metadata": {
            "synthetic": "true",
            "voice": sentence.voice.name,
            "engine": sentence.voice.engine,
            **{name: str(factor) for name, factor in how.items()},
            **({"held_out_voice": "true"} if sentence.voice.is_held_out else {}),
        },
    }


def sentences(prompts: Sequence[str]) -> Iterator[Sentence]:
    """Compose sentences of training prompts: one to three phrases, one to eight words, no sentence in two splits.

    Held-out prompts give no phrase, so the studio's own held-out recordings stay unheard.
    """
    lines = [_WORD.findall(text.lower()) for text in prompts if split_of(text.lower()) == "train"]
    lines = [line for line in lines if line]
    places: dict[str, list[tuple[int, int]]] = {}
    for i, line in enumerate(lines):
        for j, word in enumerate(line):
            places.setdefault(word, []).append((i, j))
    words = sorted(places)
    rng = random.Random(0)
    split_by_text: dict[str, str] = {}
    parts: list[tuple[str, int, Sequence[Voice]]] = [
        (s, number, _KNOWN) for s, number in _NUM_SENTENCES.items()
    ]
    # The neural voices came later and speak last, so that they change nothing of what the others say.
    for split, number, voices in [*parts, ("train", _NUM_PIPER, _PIPER), ("train", _NUM_HIBARI, _HIBARI)]:
        weights = [_WEIGHTS[voice.engine] for voice in voices]
        made = 0
        while made < number:
            wanted = rng.randint(1, _MAX_WORDS)
            said: list[str] = []
            while len(said) < wanted:
                # Every word is as likely as any other to be what a phrase is cut around.
                i, j = rng.choice(places[rng.choice(words)])
                length = rng.randint(1, 5)
                start = max(0, j - rng.randrange(length))
                said += lines[i][start : start + length]
            text = " ".join(said[:_MAX_WORDS])
            if split_by_text.setdefault(text, split) != split:
                continue
            held_out = split == "test"
            voice = _HELD_OUT[made % len(_HELD_OUT)] if held_out else rng.choices(voices, weights)[0]
            yield Sentence(key=f"{split}/{made}", text=text, split=split, voice=voice)
            made += 1


SOURCES = (
    FullSource(
        name=NAME,
        task="synthetic-speech",
        packages=(pinned.ASTERISK_EN_TEXT,),
        rows=composed_rows,
        tools=TOOLS,
    ),
    FullSource(
        name=NAME_PIPER,
        task="synthetic-speech",
        packages=(pinned.ASTERISK_EN_TEXT, pinned.JOE_PIPER),
        rows=piper_rows,
        tools=TOOLS[:1],
    ),
    FullSource(
        name=NAME_HIBARI, task="synthetic-speech", packages=(pinned.ASTERISK_EN_TEXT,), rows=hibari_rows
    ),
)
