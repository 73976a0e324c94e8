"""Tux Paint's stamps: pictures described in 78 languages, spoken descriptions in 14, sound effects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import (
    clipped_share,
    concept_of,
    effect_clip,
    held_out_names,
    language_tag,
    picture,
    read_waveform,
    says,
    speech_clip,
    tidy,
    trim_speech,
)
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.images import crop_to_ink, open_image, render_svg
from sensorium.starter.builder.packages import Package, fetch, read_members

TUXPAINT = Package(
    client="apt",
    name="tuxpaint-stamps-default",
    version="2022.06.04-1",
    file_name="tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
_FOLDER = "usr/share/tuxpaint/stamps/"
_LICENSE = "GPL-2.0-only"
_ATTRIBUTION = "Tux Paint stamps, Bill Kendrick and the Tux Paint contributors (https://tuxpaint.org); "
_TRANSLATION = re.compile(r"([A-Za-z_@]+)\.utf8=(.*)")
_SOUND = re.compile(r"(?P<stamp>.+?)(?P<desc>_desc)?(?:_(?P<language>[a-z]{2,3}(?:_[A-Za-z]{2})?))?")
_ARTICLE = re.compile(
    r"^(?:an? (?:pair|bunch|piece|slice) of|an?|the|some|this is (?:an?|the)) ", re.IGNORECASE
)
_CLAUSE = re.compile(r"[.!?:;,()—–]|\s-\s")
# Longer descriptions are sentences about the thing; its file is named after it.
_MAX_CONCEPT_WORDS = 5
_SYMBOLS = "symbols/"
# How long a recording may take, as shares of the time that its text usually takes.
_DURATION_RATIO = (0.5, 2.0)
# In some languages only "k" is said where the text is "The letter k.", in others "the capital letter k".
_LETTER_RATIO = (0.75, 1.35)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A stamp: its path without suffix, its picture and what it is in each language."""

    path: str
    image: dict[str, Any]
    descriptions: dict[str, str]
    concept: str

    @property
    def is_letter(self) -> bool:
        """Whether it is one character of an alphabet."""
        return self.path.startswith(_SYMBOLS + "alphabets/")

    @property
    def metadata(self) -> dict[str, str]:
        """The folders as a category, and whether it is a letter or another symbol rather than a thing."""
        folder = self.path.rpartition("/")[0]
        drawn = {"style": "cartoon"} if "cartoon" in folder.split("/") else {}
        kind = "symbol" if folder.startswith(_SYMBOLS) else "thing"
        return {"category": folder, "kind": kind, **drawn}


def picture_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per stamp: the picture and its descriptions in all languages."""
    for stamp in _stamps(folder).values():
        yield {
            **_row("tuxpaint", stamp, stamp.path, stamp.descriptions["en"], "en"),
            "attribution": _ATTRIBUTION + "drawn over white and shrunk",
            "names": stamp.descriptions,
        }


def speech_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per spoken description that passes the filters: picture, speech and its words."""
    said: dict[tuple[str, str], str] = {}
    for stamp, name, data in _sounds(folder):
        language, text = _spoken(stamp, name)
        if not text:
            continue
        # The same recording under two different texts: one of them is wrong, and which is not known.
        words = re.sub(r"\W", "", text.lower())
        if said.setdefault((language, sha1(data).hexdigest()), words) != words:
            continue
        waveform = read_waveform(data)
        if waveform is None:
            continue
        speech = trim_speech(waveform)
        if not says(speech, text, _LETTER_RATIO if stamp.is_letter else _DURATION_RATIO):
            continue
        row = _row("tuxpaint-speech", stamp, name, text, language)
        row["metadata"] = {**row["metadata"], "clipped": f"{clipped_share(waveform):.4f}"}
        yield {
            **row,
            "attribution": _ATTRIBUTION + "picture shrunk, recording trimmed, levelled and resampled",
            "audio": speech_clip(speech, PurePosixPath(name).name),
        }


def effect_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per sound effect: picture, sound and what it is."""
    for stamp, name, data in _sounds(folder):
        # Without a language in its name a symbol's sound is the symbol read aloud, but a face makes a noise.
        is_effect = name == stamp.path and not re.match(_SYMBOLS + "(math|alphabets)", name)
        waveform = read_waveform(data) if is_effect else None
        if waveform is not None:
            yield {
                **_row("tuxpaint-sounds", stamp, name, stamp.descriptions["en"], "en"),
                "attribution": _ATTRIBUTION + "picture shrunk, sound cut, levelled and resampled",
                "audio": effect_clip(waveform, PurePosixPath(name).name),
                "names": stamp.descriptions,
            }


def stamp_concept(path: str, description: str) -> str:
    """Return what a stamp shows: its description without article, or its file's name if that is a sentence."""
    plain = re.sub(r"[“”\"‘]|’(?!\w)| in American Sign Language", "", description)
    words = _ARTICLE.sub("", tidy(_CLAUSE.split(plain.strip())[0])).lower().split()
    if 0 < len(words) <= _MAX_CONCEPT_WORDS:
        return " ".join(words)
    stem = re.sub(r"[\W\d_]+", " ", PurePosixPath(path).name).strip().lower()
    return stem or PurePosixPath(path).name.lower()


def parse_descriptions(text: str) -> dict[str, str]:
    """Return {language tag: description} of a stamp's text file: English first, then `xx.utf8=` lines."""
    first, *lines = text.splitlines()
    found = {"en": tidy(first)}
    for line in lines:
        match = _TRANSLATION.fullmatch(line.strip())
        if match and match[2].strip():
            found.setdefault(language_tag(match[1]), tidy(match[2]))
    return found


@cache
def _stamps(folder: Path) -> dict[str, Stamp]:
    """Return the stamps by path, in order of their paths; pictures are shrunk as they are read."""
    held_out = held_out_names(folder)
    images: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for name, data in read_members(fetch(TUXPAINT, folder), lambda name: name.startswith(_FOLDER)):
        path, _, suffix = name.removeprefix(_FOLDER).rpartition(".")
        if suffix == "txt":
            texts[path] = data.decode("utf-8")
        elif suffix in ("png", "svg") and not path.endswith("_mirror"):
            image = render_svg(data) if suffix == "svg" else open_image(data)
            images[path] = picture(crop_to_ink(image), PurePosixPath(path).name)
    stamps = {}
    # White drawings vanish on white; of the same picture under several names the first counts.
    seen = {picture(Image.new("RGBA", (8, 8), "white"), "blank")["bytes"]}
    for path in sorted(images.keys() & texts.keys()):
        if images[path]["bytes"] in seen:
            continue
        seen.add(images[path]["bytes"])
        descriptions = parse_descriptions(texts[path])
        title = stamp_concept(path, descriptions["en"])
        # The words of the file count too: "say cheese!" is about cheese.
        named = concept_of(
            f"{descriptions['en']} {PurePosixPath(path).name}".lower().replace("_", " "), held_out
        )
        concept = named if named in held_out else title
        stamps[path] = Stamp(path=path, image=images[path], descriptions=descriptions, concept=concept)
    return stamps


def _sounds(folder: Path) -> Iterator[tuple[Stamp, str, bytes]]:
    """Yield (stamp, path without suffix, recording) of every recording that belongs to a stamp."""
    stamps = _stamps(folder)

    def is_sound(name: str) -> bool:
        return name.startswith(_FOLDER) and name.endswith((".ogg", ".wav"))

    for name, data in read_members(fetch(TUXPAINT, folder), is_sound):
        path = name.removeprefix(_FOLDER).rpartition(".")[0]
        match = _SOUND.fullmatch(path)
        owner = path if path in stamps else match["stamp"] if match else ""
        if owner in stamps:
            yield stamps[owner], path, data


def _spoken(stamp: Stamp, name: str) -> tuple[str, str]:
    """Return (language, text) of a recording; the text is empty where what is said is not known."""
    match = _SOUND.fullmatch(name)
    assert match is not None
    is_number = re.fullmatch(r"symbols/math/\d", stamp.path) is not None
    if name == stamp.path:
        return "en", stamp.descriptions["en"] if is_number else ""
    language = language_tag(match["language"] or "en")
    # "a_filled_en_GB" is the letter's own name, "3_fr" the number.
    if match["desc"] is None and not is_number:
        return language, ""
    return language, stamp.descriptions.get(language, "")


def _row(source: str, stamp: Stamp, name: str, text: str, language: str) -> dict[str, Any]:
    return {
        "id": f"{source}/{name}",
        "split": split_of(stamp.concept),
        "concept": stamp.concept,
        "language": language,
        "source": source,
        "license": _LICENSE,
        "text": text,
        "image": stamp.image,
        "metadata": stamp.metadata,
    }


_PACKAGES = (TUXPAINT, pinned.CLDR)
SOURCES: tuple[FullSource, ...] = (
    FullSource(name="tuxpaint", task="picture-text", packages=_PACKAGES, rows=picture_rows),
    FullSource(name="tuxpaint-speech", task="picture-text-speech", packages=_PACKAGES, rows=speech_rows),
    FullSource(name="tuxpaint-sounds", task="sound", packages=_PACKAGES, rows=effect_rows),
)
