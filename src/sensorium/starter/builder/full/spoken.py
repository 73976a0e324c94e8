"""Letters and syllables of KLettres in 17 languages, and KTuberling's names of things in 26."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import (
    SAMPLE_RATE,
    concept_of,
    held_out_names,
    language_tag,
    read_waveform,
    speech_clip,
    tidy,
    trim_speech,
)
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members
from sensorium.starter.builder.waveforms import Waveform

KLETTRES = Package(
    client="apt",
    name="klettres-data",
    version="4:22.12.3-1",
    file_name="klettres-data_4%3a22.12.3-1_all.deb",
    sha256="1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8",
)
KTUBERLING = Package(
    client="apt",
    name="ktuberling-data",
    version="4:22.12.3-1",
    file_name="ktuberling-data_4%3a22.12.3-1_all.deb",
    sha256="fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SOUND = re.compile(r'<sound\s+name="([^"]+)"\s+file="([^"]+)"')
_RECORDINGS = (".ogg", ".wav", ".opus")
_KLETTRES_FOLDER = "usr/share/klettres/"
_KTUBERLING_FOLDER = "usr/share/ktuberling/sounds/"
# The scene that a thing belongs to, before its name.
_SCENE = re.compile(r"^(?:butterflies|egypt|moon|pizzeria|robot|robin|tv|xmas|kid|tux)[-_]")
_JOINED = {"palmtree": "palm tree", "fallingstar": "falling star", "brocolli": "broccoli", "sphynx": "sphinx"}
# One word: shorter is a click, longer holds something else too.
_DURATION_S = (0.12, 3.0)


def letter_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per spoken letter or syllable, as it is written in its language."""
    package = fetch(KLETTRES, folder)
    written = listed_sounds(package, re.compile(rf"{_KLETTRES_FOLDER}(\w+)/sounds\.xml"))
    for file, speech in _recordings(package, _KLETTRES_FOLDER, written):
        code, kind, _ = file.split("/", 2)
        name = written[file][1]
        yield {
            "id": f"klettres/{file.rpartition('.')[0]}",
            "split": split_of(name),
            "language": language_tag(code),
            "source": "klettres",
            "license": "GPL-2.0-or-later",
            "attribution": "KLettres, Anne-Marie Mahfouf and the KDE contributors "
            "(https://apps.kde.org/klettres); trimmed and levelled",
            "text": name,
            "audio": speech_clip(speech, Path(file).stem),
            "metadata": {
                "category": "letter" if kind == "alpha" else "syllable",
                "voice": f"klettres-{code}",
            },
        }


def thing_rows(folder: Path, *, source: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Yield one row per spoken name of a thing: the recording in its language, the name in English.

    The package does not hold the words in the other languages, only their recordings.
    """
    package = fetch(KTUBERLING, folder)
    named = listed_sounds(package, re.compile(rf"{_KTUBERLING_FOLDER}([\w@]+)\.soundtheme"))
    chosen = {file: entry for file, entry in named.items() if wanted(entry[0])}
    held_out = held_out_names(folder)
    for file, speech in _recordings(package, _KTUBERLING_FOLDER, chosen):
        code, name = chosen[file]
        name = thing_name(name)
        concept = concept_of(name, held_out)
        yield {
            "id": f"{source}/{file.rpartition('.')[0]}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en",
            "source": source,
            "license": "GPL-2.0-or-later",
            "attribution": "KTuberling, Éric Bischoff, Albert Astals Cid and the KDE contributors "
            "(https://apps.kde.org/ktuberling); trimmed and levelled",
            "text": name,
            "audio": speech_clip(speech, Path(file).stem),
            "metadata": {"spoken_language": language_tag(code), "voice": f"ktuberling-{code}"},
        }


def thing_name(name: str) -> str:
    """Return the plain English of a sound's name: "egypt_palmtree" is "palm tree"."""
    words = re.sub(r"[-_]|\d+$", " ", _SCENE.sub("", name))
    return " ".join(_JOINED.get(word, word) for word in tidy(words).lower().split())


def listed_sounds(package: Path, lists: re.Pattern[str]) -> dict[str, tuple[str, str]]:
    """Return {file: (language code, name)} of the sounds that a package's lists name."""
    found: dict[str, tuple[str, str]] = {}
    for path, data in read_members(package, lambda name: lists.fullmatch(name) is not None):
        match = lists.fullmatch(path)
        assert match is not None
        for name, file in _SOUND.findall(_COMMENT.sub("", data.decode("utf-8"))):
            if html.unescape(name).strip():
                found.setdefault(file, (match[1], html.unescape(name).strip()))
    return found


def _recordings(
    package: Path, folder: str, listed: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, Waveform]]:
    """Yield (file, trimmed speech) of the listed recordings that hold about one word."""
    said: dict[str, str] = {}

    def is_listed(name: str) -> bool:
        return name.endswith(_RECORDINGS) and name.removeprefix(folder) in listed

    for path, data in read_members(package, is_listed):
        file = path.removeprefix(folder)
        # The same recording under two names tells nothing.
        if said.setdefault(sha1(data).hexdigest(), listed[file][1]) != listed[file][1]:
            continue
        waveform = read_waveform(data)
        if waveform is None:
            continue
        speech = trim_speech(waveform)
        if _DURATION_S[0] <= len(speech) / SAMPLE_RATE <= _DURATION_S[1]:
            yield file, speech


def _is_english(code: str) -> bool:
    return code == "en"


def _is_foreign(code: str) -> bool:
    return code != "en"


SOURCES: tuple[FullSource, ...] = (
    FullSource(name="klettres", task="transcription", packages=(KLETTRES,), rows=letter_rows),
    FullSource(
        name="ktuberling",
        task="transcription",
        packages=(KTUBERLING, pinned.CLDR),
        rows=partial(thing_rows, source="ktuberling", wanted=_is_english),
    ),
    FullSource(
        name="ktuberling-translated",
        task="speech-translation",
        packages=(KTUBERLING, pinned.CLDR),
        rows=partial(thing_rows, source="ktuberling-translated", wanted=_is_foreign),
    ),
)
