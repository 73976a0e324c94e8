"""Open Clip Art drawings with titles chosen by eye (clipart.txt: path, title)."""

from __future__ import annotations

import html
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.images import crop_to_ink, encode_webp, render_svg, shrink
from sensorium.starter.builder.packages import BuildError, fetch, read_members

_FOLDER = "usr/share/openclipart/svg/"
_CREATOR = re.compile(r"<dc:creator[^>]*>.*?<dc:title>(.*?)</dc:title>", re.DOTALL)
# The library holds a few drawings under other terms; these words are its public domain mark.
_PUBLIC_DOMAIN = "web.resource.org/cc/PublicDomain"


def named_concept(title: str, held_out: set[str]) -> str:
    """Return the concept of a free title: a held-out concept that it names, else the title itself.

    A "camel head" is a camel: where camel is kept for test, so is every title that speaks of one.

    Args:
        title: lower-case English.
        held_out: the picture concepts that are not in the training split.
    """
    named = [name for name in held_out if re.search(rf"\b{re.escape(name)}(s|es)?\b", title)]
    # Test before validation, then the longest, so that the choice does not depend on the set's order.
    return min(named, key=lambda name: (split_of(name), -len(name), name), default=title)


def held_out_concepts(concepts: list[str]) -> set[str]:
    """Return the concepts that are not in the training split."""
    return {name for name in concepts if split_of(name) != "train"}


def listed_drawings() -> dict[str, str]:
    """Return {path: title} of the drawings chosen by eye."""
    lines = files(__package__).joinpath("clipart.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def clipart_rows(cache: Path, held_out: set[str]) -> list[dict[str, Any]]:
    """Return the rows of the chosen drawings.

    Raises:
        BuildError: a listed drawing is not in the package, or is not in the public domain.
    """
    titles = listed_drawings()
    package = fetch(pinned.OPENCLIPART, cache)
    drawings = dict(read_members(package, lambda name: name.removeprefix(_FOLDER) in titles))
    rows = []
    for path, title in titles.items():
        svg = drawings.get(_FOLDER + path)
        if svg is None:
            raise BuildError(f"clipart.txt: {path!r} is not in {package.name}; correct the line")
        text = svg.decode("utf-8", errors="replace")
        if _PUBLIC_DOMAIN not in text:
            raise BuildError(f"clipart.txt: {path!r} does not say it is in the public domain; drop the line")
        creator = _CREATOR.search(text)
        author = html.unescape(creator.group(1)).strip() if creator else ""
        concept = named_concept(title, held_out)
        picture = encode_webp(shrink(crop_to_ink(render_svg(svg))))
        rows.append(
            {
                "id": f"openclipart/{path.removesuffix('.svg')}",
                "split": split_of(concept),
                "concept": concept,
                "language": "en",
                "source": "openclipart",
                "license": "CC-PDDC",
                "attribution": f"{author or 'unknown author'}, Open Clip Art Library "
                "(https://openclipart.org); rendered and shrunk",
                "text": title,
                "image": medium(picture, Path(path).stem + ".webp"),
            }
        )
    return rows
