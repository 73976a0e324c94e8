"""Icons and the SVG code that draws them: Lucide and Tabler."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sensorium.data.schema import medium, message
from sensorium.data.splits import split_of
from sensorium.starter.builder.full.shared import concept_of, held_out_names
from sensorium.starter.builder.full.source import FULL_PICTURE_SIZE, FullSource
from sensorium.starter.builder.images import encode_webp_lossless, render_svg, shrink
from sensorium.starter.builder.packages import BuildError, Package, fetch, read_members
from sensorium.starter.builder.pinned import CLDR

LUCIDE = Package(
    client="npm",
    name="lucide-static",
    version="1.62.0",
    file_name="lucide-static-1.62.0.tgz",
    sha256="386f9080c440d6f5049cefe3456ae8357f7a0c7f76e59670cd1cb83bc7050a44",
)
TABLER = Package(
    client="npm",
    name="@tabler/icons",
    version="3.51.0",
    file_name="tabler-icons-3.51.0.tgz",
    sha256="b30108713d3fa60aee862c2a133225da8e0f309be0708fe2925763ff810c766c",
)
WORDINGS = (
    "Write the SVG code of this drawing.",
    "Write SVG code that draws this icon.",
    "Turn this icon into SVG code.",
    "Which SVG code draws this?",
    "Give me this picture as SVG.",
    "Draw this again as SVG code.",
    "Trace this drawing: answer with SVG.",
    "What is the SVG source of this icon?",
    "Code this drawing in SVG.",
    "Reproduce the icon as an SVG.",
)
# A renderer rounds in its last digit; a stroke that is lost or moved differs by far more.
MAX_DIFFERENCE = 8
_MAX_CODE_LENGTH = 4000
_SVG = "{http://www.w3.org/2000/svg}"
_DROPPED = frozenset({"class", "width", "height", "id", "aria-hidden"})
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_SPACE = re.compile(r"[\s,]*")
# Numbers that tell variants of one thing apart, and what is struck through or painted full.
_VARIANT = re.compile(r"( \d+| off| filled)+$")


@dataclass(frozen=True, kw_only=True)
class IconSet:
    """A set of icons: its package, the folders of its drawings by style, and what must be said about it."""

    source: str
    package: Package
    folders: tuple[tuple[str, str], ...]
    tags: str
    license: str
    attribution: str


ICON_SETS = (
    IconSet(
        source="lucide",
        package=LUCIDE,
        folders=(("package/icons/", "outline"),),
        tags="package/tags.json",
        license="ISC",
        attribution="Lucide icons, Lucide Icons and Contributors (https://lucide.dev), parts by Cole Bemis (Feather, "
        "MIT); code shortened, rendered",
    ),
    IconSet(
        source="tabler",
        package=TABLER,
        folders=(("package/icons/outline/", "outline"), ("package/icons/filled/", "filled")),
        tags="package/icons.json",
        license="MIT",
        attribution="Tabler Icons, Pawel Kuna (https://tabler.io/icons); code shortened, rendered",
    ),
)


def canonical_svg(text: str) -> str:
    """Return a drawing as short code: attributes sorted, one blank where one is needed, no names of classes.

    Args:
        text: an SVG file of plain shapes.

    Raises:
        ValueError: it is not SVG, or a path in it cannot be read.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not an SVG drawing ({error})") from error
    return _element(root, is_root=True)


def icon_rows(icons: IconSet, cache: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per icon, in order of names; drawings that do not come out the same are left out."""
    held_out = held_out_names(cache)
    files = dict(
        read_members(
            fetch(icons.package, cache),
            lambda name: name == icons.tags or any(_stem(name, folder) for folder, _ in icons.folders),
        )
    )
    tags = _tags(json.loads(files[icons.tags]))
    for folder, style in icons.folders:
        for path in sorted(path for path in files if _stem(path, folder)):
            stem = _stem(path, folder)
            assert stem is not None
            original = files[path].decode("utf-8")
            code = canonical_svg(original)
            drawn = render_svg(original.encode())
            if difference(drawn, render_svg(code.encode())) > MAX_DIFFERENCE:
                raise BuildError(f"{path}: the shortened code draws something else; mend canonical_svg")
            if len(code) > _MAX_CODE_LENGTH:
                continue
            name = stem.replace("-", " ") + (" filled" if style == "filled" else "")
            concept = concept_of(_VARIANT.sub("", name), held_out)
            key = f"{icons.source}/{style}/{stem}"
            wording = WORDINGS[int(sha1(key.encode()).hexdigest()[:8], 16) % len(WORDINGS)]
            yield {
                "id": key,
                "split": split_of(concept),
                "concept": concept,
                "language": "en",
                "source": icons.source,
                "license": icons.license,
                "attribution": icons.attribution,
                "messages": [message("user", {"type": "image"}, wording), message("assistant", code)],
                "images": [medium(encode_webp_lossless(shrink(drawn, FULL_PICTURE_SIZE)), f"{stem}.webp")],
                "metadata": {"name": name, "style": style, "tags": ", ".join(tags.get(stem, ()))},
            }


def difference(a: Image.Image, b: Image.Image) -> int:
    """Return the largest difference between two renderings, of 255, in any of their bands."""
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def _stem(path: str, folder: str) -> str | None:
    rest = path.removeprefix(folder)
    found = rest.removesuffix(".svg")
    return found if path.startswith(folder) and found != rest and "/" not in found else None


def _tags(listed: dict[str, Any]) -> dict[str, list[str]]:
    # One set lists the words alone, the other with a category.
    return {
        name: [str(tag) for tag in (entry["tags"] if isinstance(entry, dict) else entry)]
        for name, entry in listed.items()
    }


def _element(element: ElementTree.Element, *, is_root: bool = False) -> str:
    name = element.tag.removeprefix(_SVG)
    attributes = {key: value for key, value in element.attrib.items() if key not in _DROPPED or not is_root}
    attributes.pop("class", None)
    if "d" in attributes:
        attributes["d"] = short_path(attributes["d"])
    for key in ("points", "transform"):
        if key in attributes:
            attributes[key] = " ".join(attributes[key].replace(",", " ").split())
    head = ['xmlns="http://www.w3.org/2000/svg"'] if is_root else []
    head += [f'{key}="{_escaped(value)}"' for key, value in sorted(attributes.items())]
    inner = "".join(_element(child) for child in element if _is_drawn(child))
    start = " ".join([f"<{name}", *head])
    return f"{start}>{inner}</{name}>" if inner or is_root else f"{start}/>"


def _is_drawn(element: ElementTree.Element) -> bool:
    # A frame without line and without colour, which only tells editors the size.
    return not (element.get("stroke") == "none" and element.get("fill") == "none")


def _escaped(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def short_path(data: str) -> str:
    """Return the data of a path with as few characters as its numbers allow, the numbers unchanged.

    Raises:
        ValueError: it holds something that is neither a command nor a number.
    """
    parts: list[str] = []
    position, command, index = 0, "", 0
    while (position := _skip(data, position)) < len(data):
        character = data[position]
        if character.isalpha():
            command, index = character, 0
            parts.append(command)
            position += 1
            continue
        # The fourth and fifth number of an arc are flags, which may be written without anything between them.
        is_flag = command in "aA" and index % 7 in (3, 4) and character in "01"
        found = None if is_flag else _NUMBER.match(data, position)
        if not is_flag and found is None:
            raise ValueError(
                f"a path holds {data[position : position + 10]!r}; expected a command or a number"
            )
        number = character if found is None else _short_number(found.group())
        position = position + 1 if found is None else found.end()
        parts.append(number if index == 0 or number.startswith("-") else " " + number)
        index += 1
    return "".join(parts)


def _skip(data: str, position: int) -> int:
    found = _SPACE.match(data, position)
    assert found is not None
    return found.end()


def _short_number(number: str) -> str:
    if "e" in number.lower():
        return number
    sign = "-" if number.startswith("-") else ""
    whole, point, fraction = number.lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    if not whole and not fraction:
        return "0"
    return sign + whole + (point if fraction else "") + fraction


SOURCES = tuple(
    FullSource(
        name=icons.source,
        task="drawing-code",
        packages=(icons.package, CLDR),
        rows=partial(icon_rows, icons),
    )
    for icons in ICON_SETS
)
