"""Every emoji in more drawing styles: flat ones, as most drawings on screens are, and those of one colour.

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


def _icons(source: str, name: str, version: str, sha256: str, license_: str, attribution: str) -> Style:
    """A style of the set of that name."""
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
        license=license_,
        attribution=attribution + _NAMES,
    )


SETS = (
    _icons(
        "fluent-flat",
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        _FLUENT,
    ),
    _icons(
        "noto-v1",
        "noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        "Noto Emoji, Google LLC (https://github.com/googlefonts/noto-emoji)",
    ),
    _icons(
        "emojitwo",
        "emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        _EMOJITWO,
    ),
    _icons(
        "fxemoji",
        "fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        # Apache-2.0, which the package states, is for their code alone; LICENSE.md has another for the drawings.
        "CC-BY-4.0",
        "FxEmojis, Mozilla (https://github.com/mozilla/fxemoji)",
    ),
    _icons(
        "fluent-color",
        "fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "MIT",
        _FLUENT,
    ),
    _icons(
        "fluent-high-contrast",
        "fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        "MIT",
        _FLUENT,
    ),
    _icons(
        "emojitwo-monotone",
        "emojione-monotone",
        "1.2.1",
        "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        "CC-BY-4.0",
        _EMOJITWO,
    ),
)


def set_rows(folder: Path, style: Style) -> Iterator[dict[str, Any]]:
    """Yield one row per drawing whose name is that of an emoji; skin tones, which look alike, are left out."""
    named = cldr_emoji(folder)
    num_named = Counter(letters(emoji.names["en"]) for emoji in named.values())
    # "keycap: *" and "keycap: #" have the same letters: which is drawn is not known.
    known = {name: key for key, emoji in named.items() if num_named[name := letters(emoji.names["en"])] == 1}
    (text,) = read_texts(fetch(style.package, folder), style.folder)
    drawings = (
        (known[letters(name)], svg)
        for name, svg in icons(json.loads(text))
        if letters(name) in known and "skintone" not in letters(name)
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
