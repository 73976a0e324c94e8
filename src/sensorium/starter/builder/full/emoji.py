"""Every emoji in three drawing styles, with every skin tone, named in all the languages of Unicode's CLDR."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import picture, tidy
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members, read_texts
from sensorium.starter.builder.pictures import STYLES, Style

CLDR_DERIVED = Package(
    client="npm",
    name="cldr-annotations-derived-full",
    version="48.2.0",
    file_name="cldr-annotations-derived-full-48.2.0.tgz",
    sha256="4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
)
_ANNOTATIONS = re.compile(r"package/annotations(?:Derived)?/([^/]+)/annotations\.json")
_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_VARIATION_SELECTOR = "fe0f"
_LOOKS = re.compile(r"skin tone|hair|bald|beard|man|woman|men|boy|girl|adult|child|person")
# Trademarks that the OpenMoji project draws beside the emoji.
_LEFT_OUT = frozenset({"brand"})


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji: its names by language, its English keywords, and its place among the others."""

    names: dict[str, str]
    keywords: str
    metadata: dict[str, str]


def style_rows(folder: Path, style: Style) -> Iterator[dict[str, Any]]:
    """Yield one row per picture of a drawing style that has an English name."""

    def is_picture(name: str) -> bool:
        return name.startswith(style.folder) and name.endswith(style.suffix)

    pictures = read_members(fetch(style.package, folder), is_picture)
    keyed = ((emoji_key(name[len(style.folder) : -len(style.suffix)]), data) for name, data in pictures)
    yield from emoji_rows(folder, style, keyed)


def emoji_rows(folder: Path, style: Style, drawings: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    """Yield one row per drawing (key, data) of a style that has an English name."""
    known = emoji_names(folder)
    english = _english_names(folder)
    seen: set[str] = set()
    for key, data in drawings:
        emoji = known.get(key)
        # Two spellings of one emoji, with and without the variation selector, are one picture.
        if emoji is None or key in seen:
            continue
        seen.add(key)
        text = emoji.names["en"]
        concept = emoji_concept(text, english)
        tones = [_TONES[code] for code in key.split("-") if code in _TONES]
        yield {
            "id": f"{style.source}/{key}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en",
            "source": style.source,
            "license": style.license,
            "attribution": style.attribution,
            "text": text,
            "names": emoji.names,
            "image": picture(style.read(data), key),
            "metadata": {
                "style": style.source,
                **emoji.metadata,
                **({"keywords": emoji.keywords} if emoji.keywords else {}),
                **({"skin_tone": ", ".join(tones)} if tones else {}),
            },
        }


def emoji_concept(name: str, known: frozenset[str]) -> str:
    """Return the concept of an emoji: its name without skin tone, hair, gender and direction.

    Args:
        name: the English name.
        known: the lower-case names of all emoji; a woman judge is a judge only if there is a judge.
    """
    head, _, looks = name.lower().partition(": ")
    parts = [part for part in looks.split(", ") if part and not _LOOKS.search(part)]
    concept = ": ".join([head, ", ".join(parts)]) if parts else head
    concept = concept.rstrip(": ").removesuffix(" facing right")
    gender, _, rest = concept.partition(" ")
    if gender in ("man", "woman"):
        candidates = [rest, f"person {rest}"]
    else:
        candidates = [f"people {rest}"] if gender in ("men", "women") else []
    return next((candidate for candidate in candidates if candidate in known), concept)


def cldr_names(texts: Iterable[tuple[str, bytes]]) -> dict[str, dict[str, list[str]]]:
    """Return {emoji: {locale: [name, *keywords]}} from the annotation files of CLDR, in order of the locales.

    Names that a regional variant shares with its language, as en-AU with en, are left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path, data in texts:
        match = _ANNOTATIONS.fullmatch(path)
        assert match is not None, path
        (root,) = json.loads(data).values()
        for characters, entry in root.get("annotations", {}).items():
            name = tidy(entry.get("tts", [""])[0])
            if name and "↑" not in name:
                locales = found.setdefault(emoji_key("-".join(f"{ord(c):x}" for c in characters)), {})
                locales[match[1]] = [name, *entry.get("default", [])]
    for locales in found.values():
        for locale in sorted(locales, reverse=True):
            parent = locale.rpartition("-")[0]
            if parent in locales and locales[parent][0] == locales[locale][0]:
                del locales[locale]
    return {key: dict(sorted(locales.items())) for key, locales in found.items()}


@cache
def emoji_names(folder: Path) -> dict[str, Emoji]:
    """Return {key: emoji} of all that has an English name, and OpenMoji's own drawings."""
    return cldr_emoji(folder) | _openmoji_extras(folder, set(_cldr(folder)))


@cache
def _cldr(folder: Path) -> dict[str, dict[str, list[str]]]:
    names: dict[str, dict[str, list[str]]] = {}
    for package in (pinned.CLDR, CLDR_DERIVED):
        path = fetch(package, folder)
        names.update(cldr_names(read_members(path, lambda name: _ANNOTATIONS.fullmatch(name) is not None)))
    return names


@cache
def cldr_emoji(folder: Path) -> dict[str, Emoji]:
    """Return {key: emoji} of all that Unicode's CLDR names in English."""
    places = _places(folder)
    return {
        key: Emoji(
            names={locale: entry[0] for locale, entry in locales.items()},
            keywords=", ".join(word for word in locales["en"][1:] if word != locales["en"][0]),
            metadata=places.get(key, {}),
        )
        for key, locales in _cldr(folder).items()
        if "en" in locales
    }


@cache
def _english_names(folder: Path) -> frozenset[str]:
    return frozenset(emoji.names["en"].lower() for emoji in emoji_names(folder).values())


def _places(folder: Path) -> dict[str, dict[str, str]]:
    (text,) = read_texts(fetch(pinned.NOTO, folder), "package/emoji.json")
    places = {}
    for entry in json.loads(text):
        place = {"category": entry["category"], "subcategory": entry["subcategory"]}
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            places[emoji_key(variant["unified"])] = place
    return places


def _openmoji_extras(folder: Path, known: set[str]) -> dict[str, Emoji]:
    """Return the drawings of OpenMoji that are not emoji, with its own English names."""
    (text,) = read_texts(fetch(pinned.OPENMOJI, folder), "package/data/openmoji.json")
    extras = {}
    for entry in json.loads(text):
        key = emoji_key(entry["hexcode"])
        if key not in known and entry["subgroups"] not in _LEFT_OUT and entry["annotation"].strip():
            words = dict.fromkeys(tidy(f"{entry['tags']}, {entry['openmoji_tags']}").split(", "))
            extras[key] = Emoji(
                names={"en": tidy(entry["annotation"])},
                keywords=", ".join(word for word in words if word),
                metadata={"category": entry["group"], "subcategory": entry["subgroups"]},
            )
    return extras


def emoji_key(code_points: str) -> str:
    """Return the name that one emoji has in all packages: its code points in hexadecimal, joined by dashes."""
    # Packages disagree on the case and on the invisible variation selector.
    return "-".join(code for code in code_points.lower().split("-") if code != _VARIATION_SELECTOR)


def _rows_of(style: Style) -> Callable[[Path], Iterable[dict[str, Any]]]:
    return partial(style_rows, style=style)


SOURCES: tuple[FullSource, ...] = tuple(
    FullSource(
        name=style.source,
        task="picture-text",
        packages=tuple(
            dict.fromkeys((style.package, pinned.CLDR, CLDR_DERIVED, pinned.NOTO, pinned.OPENMOJI))
        ),
        rows=_rows_of(style),
    )
    for style in STYLES
)
