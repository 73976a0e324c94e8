"""One concept, three drawing styles: Noto, Fluent 3D and OpenMoji, named in five languages by CLDR."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.images import encode_webp, open_image, render_svg, shrink
from sensorium.starter.builder.packages import BuildError, Package, fetch, read_members, read_texts

LANGUAGES = ("en", "de", "es", "fr", "ru")
_VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True, kw_only=True)
class Style:
    """A drawing style: where its pictures lie and what must be said about them."""

    source: str
    package: Package
    folder: str
    suffix: str
    license: str
    attribution: str
    read: Callable[[bytes], Image.Image]


STYLES = (
    Style(
        source="noto",
        package=pinned.NOTO,
        folder="package/img/google/64/",
        suffix=".png",
        license="Apache-2.0",
        attribution="Noto Emoji, Google LLC (https://github.com/googlefonts/noto-emoji), as packaged by "
        "emoji-datasource-google, Cal Henderson; names: Unicode CLDR, Unicode, Inc. (Unicode-3.0)",
        read=open_image,
    ),
    Style(
        source="fluent",
        package=pinned.FLUENT,
        folder="package/assets/",
        suffix=".webp",
        license="MIT",
        attribution="Fluent Emoji, Microsoft Corporation (https://github.com/microsoft/fluentui-emoji), as "
        "packaged by LobeHub; shrunk; names: Unicode CLDR, Unicode, Inc. (Unicode-3.0)",
        read=open_image,
    ),
    Style(
        source="openmoji",
        package=pinned.OPENMOJI,
        folder="package/color/svg/",
        suffix=".svg",
        license="CC-BY-SA-4.0",
        attribution="OpenMoji, the OpenMoji contributors (https://openmoji.org); rendered and shrunk; "
        "names: Unicode CLDR, Unicode, Inc. (Unicode-3.0)",
        read=render_svg,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A thing that is pictured: its code points as files spell them, and its names by language."""

    key: str
    names: dict[str, str]


def listed_concepts() -> list[str]:
    """Return the concepts chosen by eye: lower-case English CLDR names, one per line of concepts.txt."""
    return files(__package__).joinpath("concepts.txt").read_text(encoding="utf-8").split("\n")[:-1]


@cache
def load_concepts(folder: Path) -> list[Concept]:
    """Return the chosen concepts with their code points and names, from the folder of packages.

    Raises:
        BuildError: a chosen concept has no emoji, or lacks a name in one of the languages.
    """
    paths = [f"package/annotations/{language}/annotations.json" for language in LANGUAGES]
    texts = read_texts(fetch(pinned.CLDR, folder), *paths)
    spoken = [json.loads(text)["annotations"]["annotations"] for text in texts]
    (emoji,) = read_texts(fetch(pinned.NOTO, folder), "package/emoji.json")
    concepts: dict[str, Concept] = {}
    for entry in json.loads(emoji):
        characters = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        plain = characters.replace(_VARIATION_SELECTOR, "")
        found = [names.get(plain, {}).get("tts", [None])[0] for names in spoken]
        if all(found):
            names = dict(zip(LANGUAGES, found, strict=True))
            names["en"] = names["en"].lower()
            concepts[names["en"]] = Concept(key=_key(entry["unified"]), names=names)
    missing = [name for name in listed_concepts() if name not in concepts]
    if missing:
        raise BuildError(f"concepts.txt: no emoji named {missing[0]!r} in {LANGUAGES}; correct the line")
    return [concepts[name] for name in listed_concepts()]


def style_rows(style: Style, concepts: list[Concept], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of one drawing style, one per concept."""
    wanted = {concept.key for concept in concepts}

    def is_wanted(name: str) -> bool:
        if not (name.startswith(style.folder) and name.endswith(style.suffix)):
            return False
        return _key(name[len(style.folder) : -len(style.suffix)]) in wanted

    found: dict[str, bytes] = {}
    for name, data in read_members(fetch(style.package, folder), is_wanted):
        found[_key(name[len(style.folder) : -len(style.suffix)])] = data
    rows = []
    for concept in concepts:
        name = concept.names["en"]
        if concept.key not in found:
            raise BuildError(f"{style.source}: no picture of {name!r}; take it out of concepts.txt")
        picture = encode_webp(shrink(style.read(found[concept.key])))
        rows.append(
            {
                "id": f"{style.source}/{concept.key}",
                "split": split_of(name),
                "concept": name,
                "language": "en",
                "source": style.source,
                "license": style.license,
                "attribution": style.attribution,
                "text": name,
                "names": concept.names,
                "image": medium(picture, f"{concept.key}.webp"),
            }
        )
    return rows


def _key(code_points: str) -> str:
    # Packages disagree on the case and on the invisible variation selector.
    return "-".join(code for code in code_points.lower().split("-") if code != "fe0f")
