"""Things with transparent surroundings that edit pairs are composed of: emoji in three styles, and stamps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.emoji import emoji_concept
from sensorium.starter.builder.full.shared import concept_of, held_out_names
from sensorium.starter.builder.full.stamps import TUXPAINT, parse_descriptions, stamp_concept
from sensorium.starter.builder.images import crop_to_ink, open_image, render_svg
from sensorium.starter.builder.packages import fetch, read_members, read_texts
from sensorium.starter.builder.pictures import STYLES, Style

LANGUAGES = ("en", "de", "es", "fr")
# Faces, people and things; flags, arrows and other signs are no things that stand on a beach.
_CATEGORIES = frozenset(
    {"Activities", "Animals & Nature", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion"}
)
_TRAVEL = ("place-building", "place-other", "transport-air", "transport-ground", "transport-water", "time")
_NO_THINGS = (
    "emotion",
    "heart",
    "family",
    "other-symbol",
    "body-parts",
    "person-symbol",
    "warning",
    "gender",
    "time",
)
TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
# Kept large enough for the largest that a pair shows it.
_KEPT_SIZE = 112
_MIN_TRANSPARENT = 0.12
_MAX_STAMP_WORDS = 3
_STAMP_FOLDERS = frozenset(
    [
        "animals",
        "clothes",
        "food",
        "hobbies",
        "household",
        "medical",
        "naturalforces",
        "people",
        "plants",
        "seasonal",
        "space",
        "sports",
        "town",
        "vehicles",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One thing: what it is called, whose it is, and its picture as it lies in the package.

    Args:
        key: tells it apart from all others.
        concept: decides about the split of every pair that it is in.
        names: what instructions call it, by language.
        license: SPDX.
        attribution: whose work it is.
        data: encoded, with transparent surroundings.
        tones: the same person in other tones of skin, by tone.
    """

    key: str
    concept: str
    names: dict[str, str]
    license: str
    attribution: str
    data: bytes = field(repr=False, compare=False)
    is_svg: bool = False
    tones: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def split(self) -> str:
        """The split of its concept."""
        return split_of(self.concept)

    @cached_property
    def image(self) -> Image.Image:
        """RGBA, cropped to what is visible, its longer side at most 112 pixels."""
        return read_cutout(self.data, self.is_svg)

    def in_tone(self, tone: str) -> Image.Image:
        """The same in another tone of skin."""
        return read_cutout(self.tones[tone], self.is_svg)


@lru_cache(maxsize=512)
def read_cutout(data: bytes, is_svg: bool) -> Image.Image:
    """Return a cut-out as RGBA, cropped to what is visible, shrunk to 112 pixels."""
    image = crop_to_ink(render_svg(data) if is_svg else open_image(data))
    image.thumbnail((_KEPT_SIZE, _KEPT_SIZE), Image.Resampling.LANCZOS)
    return image


@cache
def emoji(folder: Path, style_name: str) -> dict[str, Cutout]:
    """Return the things of one drawing style by code points, in order of those."""
    style = next(style for style in STYLES if style.source == style_name)
    things = _things(folder)
    wanted = {key for key, (_, _, tones) in things.items()} | {
        tone for _, _, tones in things.values() for tone in tones.values()
    }
    found: dict[str, bytes] = {}
    for name, data in read_members(fetch(style.package, folder), lambda name: _key_of(name, style) in wanted):
        found[_key_of(name, style)] = data
    held_out = held_out_names(folder)
    known = frozenset(_spoken(folder)["en"].values())
    cutouts = {}
    for key, (names, _, tones) in sorted(things.items()):
        if key in found:
            # A woman judge is a judge, a lion face is a lion: a pair must not train on what is kept for test.
            cutouts[key] = Cutout(
                key=f"{style_name}/{key}",
                concept=concept_of(emoji_concept(names["en"], known), held_out),
                names=names,
                license=style.license,
                attribution=style.attribution.split(";")[0],
                data=found[key],
                is_svg=style.suffix == ".svg",
                tones={tone: found[other] for tone, other in tones.items() if other in found},
            )
    return cutouts


@cache
def stamps(folder: Path) -> dict[str, Cutout]:
    """Return those of Tux Paint's stamps that are things with transparent surroundings and a short name."""
    held_out = held_out_names(folder)
    pictures: dict[str, tuple[bytes, bool]] = {}
    texts: dict[str, str] = {}
    root = "usr/share/tuxpaint/stamps/"
    for name, data in read_members(fetch(TUXPAINT, folder), lambda name: name.startswith(root)):
        path, _, suffix = name.removeprefix(root).rpartition(".")
        if suffix == "txt":
            texts[path] = data.decode("utf-8")
        elif (
            suffix in ("png", "svg") and not path.endswith("_mirror") and path.split("/")[0] in _STAMP_FOLDERS
        ):
            pictures[path] = (_shrunk(data, suffix == "svg"), False)
    found = {}
    for path in sorted(pictures.keys() & texts.keys()):
        descriptions = parse_descriptions(texts[path])
        title = stamp_concept(path, descriptions["en"])
        stem = PurePosixPath(path).name.lower().replace("_", " ")
        named = concept_of(f"{descriptions['en'].lower()} {stem}", held_out)
        cutout = Cutout(
            key=f"tuxpaint/{path}",
            concept=named if named in held_out else title,
            names={"en": title},
            license="GPL-2.0-only",
            attribution="Tux Paint stamps, Bill Kendrick and the Tux Paint contributors (https://tuxpaint.org)",
            data=pictures[path][0],
        )
        if len(title.split()) <= _MAX_STAMP_WORDS and title.isascii() and is_cut_out(cutout.image):
            found[cutout.key] = cutout
    return found


def is_cut_out(image: Image.Image) -> bool:
    """Return whether the surroundings are transparent, so that a background shows."""
    alpha = np.asarray(image.getchannel("A"))
    return bool(
        (alpha < 20).mean() >= _MIN_TRANSPARENT and (alpha > 200).mean() >= 0.1 and min(image.size) >= 24
    )


def _shrunk(data: bytes, is_svg: bool) -> bytes:
    # Photos of many megapixels: what is kept in memory is small.
    import io

    buffer = io.BytesIO()
    try:
        read_cutout.__wrapped__(data, is_svg).save(buffer, "PNG")
    except TypeError:  # a picture without anything visible has no border to crop to
        Image.new("RGBA", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _things(folder: Path) -> dict[str, tuple[dict[str, str], str, dict[str, str]]]:
    """{code points: (names, category, {tone: code points})} of the emoji that are things."""
    (listed,) = read_texts(fetch(pinned.NOTO, folder), "package/emoji.json")
    spoken = _spoken(folder)
    things = {}
    for entry in json.loads(listed):
        kind = entry["subcategory"]
        if not (entry["category"] in _CATEGORIES or kind in _TRAVEL) or kind in _NO_THINGS:
            continue
        characters = "".join(chr(int(code, 16)) for code in entry["unified"].split("-")).replace("\ufe0f", "")
        names = {language: table[characters] for language, table in spoken.items() if characters in table}
        if len(names) == len(LANGUAGES) and ":" not in names["en"]:
            tones = {
                TONES[tone.lower()]: key_of_code_points(variant["unified"])
                for tone, variant in entry.get("skin_variations", {}).items()
                if tone.lower() in TONES
            }
            things[key_of_code_points(entry["unified"])] = (names, entry["category"], tones)
    return things


@cache
def _spoken(folder: Path) -> dict[str, dict[str, str]]:
    paths = [f"package/annotations/{language}/annotations.json" for language in LANGUAGES]
    texts = read_texts(fetch(pinned.CLDR, folder), *paths)
    tables: dict[str, dict[str, str]] = {}
    for language, text in zip(LANGUAGES, texts, strict=True):
        entries: dict[str, Any] = json.loads(text)["annotations"]["annotations"]
        tables[language] = {
            characters: _plain(entry["tts"][0], language)
            for characters, entry in entries.items()
            if entry.get("tts")
        }
    return tables


def _plain(name: str, language: str) -> str:
    # German nouns keep their capitals.
    return name if language == "de" else name.lower()


def key_of_code_points(code_points: str) -> str:
    """Return code points as all packages can be asked for them: lower case, without variation selectors."""
    return "-".join(code for code in code_points.lower().split("-") if code != "fe0f")


def _key_of(name: str, style: Style) -> str:
    if not (name.startswith(style.folder) and name.endswith(style.suffix)):
        return ""
    return key_of_code_points(name[len(style.folder) : -len(style.suffix)])


def all_of(folder: Path, style_names: tuple[str, ...]) -> Iterator[Cutout]:
    """Yield the cut-outs of some styles that are clean: transparent surroundings, large enough."""
    for name in style_names:
        chosen = stamps(folder) if name == "tuxpaint" else emoji(folder, name)
        for cutout in chosen.values():
            if is_cut_out(cutout.image):
                yield cutout
