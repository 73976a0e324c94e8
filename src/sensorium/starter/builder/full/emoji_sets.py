"""Every emoji in more drawing styles: flat, as most drawings on screens are, with gradients, and black on white.

Names carry over from one drawing style to another better, the more of them are known (EXPERIMENTS.md, section 21).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.emoji import CLDR_DERIVED, cldr_emoji, emoji_rows
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.images import render_svg
from sensorium.starter.builder.packages import Package, fetch, read_texts
from sensorium.starter.builder.pictures import Style

_NAMES = "; rendered and shrunk; names: Unicode CLDR, Unicode, Inc. (Unicode-3.0)"


# Iconify puts all drawings of a style into one file, each under a name.
_ICONS = "package/icons.json"

_FLUENT = "Fluent Emoji, Microsoft Corporation (https://github.com/microsoft/fluentui-emoji)"
_EMOJITWO = "EmojiTwo, after Emoji One 2 (https://github.com/EmojiTwo/emojitwo)"


# Black on white: what a colour names is not what it shows.
_BLACK = frozenset({"fluent-high-contrast", "emojitwo-monotone"})
_COLOURS = re.compile(r"\b(red|orange|yellow|green|blue|purple|brown|pink|gr[ea]y|black|white|colou?red)\b")


def _icons(*, source: str, name: str, version: str, sha256: str, license: str, attribution: str) -> Style:
    """A style of the icon set of that name."""
    return Style(
        folder=_ICONS,
        suffix="",
        read=render_svg,
        source=source,
        package=Package(
            client="npm",
            name=f"@iconify-json/{name}",
            version=version,
            file_name=f"iconify-json-{name}-{version}.tgz",
            sha256=sha256,
        ),
        license=license,
        attribution=attribution + _NAMES,
    )


SETS = (
    _icons(
        source="fluent-flat",
        name="fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        license="MIT",
        attribution=_FLUENT,
    ),
    _icons(
        source="noto-v1",
        name="noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        license="Apache-2.0",
        attribution="Noto Emoji, Google LLC (https://github.com/googlefonts/noto-emoji)",
    ),
    _icons(
        source="emojitwo",
        name="emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        license="CC-BY-4.0",
        attribution=_EMOJITWO,
    ),
    _icons(
        source="fxemoji",
        name="fxemoji",
        version="1.2.2",
        sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        # Apache-2.0, which the package states, is for their code alone; LICENSE.md has another for the drawings.
        license="CC-BY-4.0",
        attribution="FxEmojis, Mozilla (https://github.com/mozilla/fxemoji)",
    ),
    _icons(
        source="fluent-color",
        name="fluent-emoji",
        version="1.2.7",
        sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        license="MIT",
        attribution=_FLUENT,
    ),
    _icons(
        source="fluent-high-contrast",
        name="fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        license="MIT",
        attribution=_FLUENT,
    ),
    _icons(
        source="emojitwo-monotone",
        name="emojione-monotone",
        version="1.2.1",
        sha256="40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        license="CC-BY-4.0",
        attribution=_EMOJITWO,
    ),
)


def set_rows(folder: Path, style: Style) -> Iterator[dict[str, Any]]:
    """Yield one row per drawing whose name is that of an emoji; what looks alike is left out: skin tones, and
    colours where all is black."""
    named = cldr_emoji(folder)
    num_named = Counter(letters(emoji.names["en"]) for emoji in named.values())
    # "keycap: *" and "keycap: #" have the same letters: which is drawn is not known.
    known = {name: key for key, emoji in named.items() if num_named[name := letters(emoji.names["en"])] == 1}
    (text,) = read_texts(fetch(style.package, folder), style.folder)
    coloured = {key for key, emoji in named.items() if _COLOURS.search(emoji.names["en"])}
    drawings = (
        (key, svg)
        for name, svg in icons(json.loads(text))
        if (key := known.get(letters(name))) and "skintone" not in letters(name)
        if style.source not in _BLACK or key not in coloured
    )
    yield from emoji_rows(folder, style, drawings)


def icons(icon_set: dict[str, Any]) -> Iterable[tuple[str, bytes]]:
    """Yield every name of a set in Iconify's form, and its drawing as SVG; a drawing that is another turned is not one."""
    width, height = icon_set["width"], icon_set["height"]
    plain = {name: names["parent"] for name, names in icon_set.get("aliases", {}).items() if len(names) == 1}
    for name, original in sorted([*((name, name) for name in icon_set["icons"]), *plain.items()]):
        icon = icon_set["icons"].get(original)
        if icon is not None:
            size = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}">{icon["body"]}</svg>'
            yield name, svg.encode()


def letters(name: str) -> str:
    """Return the letters and digits of a name: sets join words by dashes, by nothing, or leave an apostrophe out."""
    return re.sub("[^a-z0-9]", "", name.lower())


SOURCES: tuple[FullSource, ...] = tuple(
    FullSource(
        name=style.source,
        task="picture-text",
        packages=(style.package, pinned.CLDR, CLDR_DERIVED, pinned.NOTO, pinned.OPENMOJI),
        rows=partial(set_rows, style=style),
    )
    for style in SETS
)
