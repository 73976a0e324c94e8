"""Every Open Clip Art drawing in the public domain whose title says what it shows."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path, PurePosixPath
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.clipart import listed_drawings
from sensorium.starter.builder.full.shared import concept_of, held_out_names, is_visible, picture, tidy
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.images import crop_to_ink, render_svg
from sensorium.starter.builder.packages import BuildError, fetch, read_members, read_texts

_FOLDER = "usr/share/openclipart/svg/"
_PUBLIC_DOMAIN = ("web.resource.org/cc/PublicDomain", "creativecommons.org/licenses/publicdomain")
_WORK = re.compile(r"<cc:Work.*?</cc:Work>", re.DOTALL)
_CREATOR = re.compile(r"<dc:creator[^>]*>.*?<dc:title>(.*?)</dc:title>", re.DOTALL)
_PEOPLE = re.compile(r"<dc:(creator|publisher|rights|contributor)\b.*?</dc:\1>", re.DOTALL)
_TITLE = re.compile(r"<dc:title[^>]*>(.*?)</dc:title>", re.DOTALL)
_DESCRIPTION = re.compile(r"<dc:description[^>]*>(.*?)</dc:description>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_HASH = re.compile(r"^(hash.*|0x.*|\d+|unsorted|openclipart)?$")
_PREFIX = re.compile(r"^clip ?art by .*? - |^part of .*|^international ", re.IGNORECASE)
_NOISE = re.compile(
    r"\b(clip ?art|openclipart|open clip art library|svg( version)?|aiga|b ?(and|n|&)? ?w|bw|md|v\d\S*|in italian|"
    r"remix|cartoon style|rpg map elements?|hotel icon|r\d+)\b|#\d+|\(\s*\)|\d+$",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?:simple|white|ornamental|bordered)_([cdhs])_(\w+)$")
_SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
_RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"} | dict(
    zip(
        ["2", "3", "4", "5", "6", "7", "8", "9", "10"],
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        strict=True,
    )
)
_STAR = re.compile(r"star_(\d+)pt(\d+)step$")
# With more points all stars look alike at this size.
_MAX_STAR_POINTS = 12
_COLLECTION = re.compile(r"\b(theme|icon ?set|collection|various|example)\b")
_LEFT_OUT = re.compile(r"/gradients/|/callouts/|/flowchart/|^logos/|/hash")
_UNFIT = re.compile(
    r"nazi|swastika|hitler|nude|naked|\bsex(y|ual)?\b|erotic|thong|drug|cannabis|marijuana|hashish|pantyhose"
)
_SMALL = "a an the of and or with in on at for to from by his her my your without between no"
_SMALL_WORDS = frozenset(_SMALL.split())
# A title that so many drawings share is the name of a collection, unless their files are named so too.
_MAX_SHARED = 5
_MAX_WORDS = 8


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a drawing's file says of itself."""

    path: str
    title: str
    creator: str
    description: str
    keywords: tuple[str, ...]


def drawing_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per drawing, in the order of the archive; the same drawing in two folders only once."""
    package = fetch(pinned.OPENCLIPART, folder)
    held_out, words = held_out_names(folder), known_words(folder)
    shared = Counter(drawing.title for _, drawing, _ in _drawings(package))
    chosen = listed_drawings()
    seen: set[str] = set()
    for _, drawing, svg in _drawings(package):
        # What was titled by eye for the embedded sample keeps its title.
        by_eye = chosen.get(f"{drawing.path}.svg")
        titled = (by_eye, True) if by_eye else drawing_title(drawing, shared[drawing.title], words)
        digest = sha1(svg).hexdigest()
        if titled is None or digest in seen:
            continue
        title, is_english = titled
        seen.add(digest)
        image = _render(svg)
        look = sha1(image["bytes"]).hexdigest() if image else ""
        if image is None or look in seen:
            continue
        seen.add(look)
        # A title in another language names no English concept, but its keywords may.
        named = concept_of(title if is_english else f"{title} {' '.join(drawing.keywords)}", held_out)
        # Flags share their concepts with the emoji of flags.
        concept = named if named in held_out else title.replace("flag of ", "flag: ")
        yield {
            "id": f"openclipart/{drawing.path}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en" if is_english else None,
            "source": "openclipart",
            "license": "CC-PDDC",
            "attribution": f"{drawing.creator or 'unknown author'}, Open Clip Art Library "
            "(https://openclipart.org); rendered and shrunk",
            "text": title,
            "image": image,
            "metadata": {
                "category": drawing.path.rpartition("/")[0],
                "keywords": ", ".join(drawing.keywords),
                **({"description": drawing.description} if drawing.description else {}),
            },
        }


def drawing_title(drawing: Drawing, num_shared: int, words: frozenset[str]) -> tuple[str, bool] | None:
    """Return what a drawing shows in plain lower-case words, and whether these are English.

    None where neither title nor file name tells. Authors of many countries gave titles in their languages.

    Args:
        drawing: what its file says.
        num_shared: how many drawings bear its title.
        words: known English words.
    """
    stem = PurePosixPath(drawing.path).name.lower()
    if _LEFT_OUT.search(drawing.path) or _UNFIT.search(f"{drawing.title} {stem}".lower()):
        return None
    if card := _CARD.search(stem):
        return (f"{_RANKS[card[2]]} of {_SUITS[card[1]]}", True) if card[2] in _RANKS else None
    if star := _STAR.search(stem):
        many = int(star[1]) > _MAX_STAR_POINTS
        return None if many else (f"star with {int(star[1])} points, joined in steps of {int(star[2])}", True)
    title = _plain(drawing.title)
    file_words = _plain(stem).split()
    is_collection = _COLLECTION.search(title) or (
        num_shared > _MAX_SHARED and not set(title.split()) <= set(file_words)
    )
    if is_collection:
        authors = _plain(drawing.creator).split()
        title = " ".join(
            word for word in file_words if len(word) < 3 or not any(a.startswith(word) for a in authors)
        )
        if not all(is_known(word, words) for word in title.split()):
            return None
    found = title.split()
    content = [word for word in found if word not in _SMALL_WORDS]
    num_known = sum(is_known(word, words) for word in content)
    if not content or len(found) > _MAX_WORDS or len(title) < 3 or "&" in title:
        return None
    if "/flags/" in drawing.path and not {"flag", "flags", "pirate"} & set(found):
        return f"flag of {title}", True
    return title, num_known * 2 > len(content)


def is_known(word: str, words: frozenset[str]) -> bool:
    """Return whether an English word, or what it is inflected from, is in the dictionary."""
    stems = [
        word,
        *(word.removesuffix(end) for end in ("s", "es", "ed", "ing", "d", "ish", "'s") if word.endswith(end)),
    ]
    return word in _SMALL_WORDS or any(len(stem) > 1 and stem in words for stem in stems)


def parse_drawing(path: str, text: str) -> Drawing | None:
    """Return what an SVG file says of itself; None where it does not say that it is in the public domain."""
    work = _WORK.search(text)
    if work is None or not any(mark in text for mark in _PUBLIC_DOMAIN):
        return None
    creator = _CREATOR.search(work[0])
    own = _PEOPLE.sub("", work[0])
    title, description = _TITLE.search(own), _DESCRIPTION.search(own)
    keywords = (tidy(html.unescape(word)).lower() for word in _KEYWORD.findall(own))
    return Drawing(
        path=path,
        title=_content(title),
        creator=_content(creator),
        description=_content(description),
        keywords=tuple(dict.fromkeys(word for word in keywords if not _HASH.match(word))),
    )


@cache
def known_words(folder: Path) -> frozenset[str]:
    """Return the words of WordNet: single, lower-case."""
    names = [f"package/dict/index.{part}" for part in ("noun", "verb", "adj", "adv")]
    texts = read_texts(fetch(pinned.WORDNET, folder), *names)
    lemmas = {line.split(" ", 1)[0] for text in texts for line in text.splitlines() if line[:1] != " "}
    return frozenset(part for lemma in lemmas for part in lemma.split("_"))


def _drawings(package: Path) -> Iterator[tuple[str, Drawing, bytes]]:
    def is_drawing(name: str) -> bool:
        return name.startswith(_FOLDER) and name.endswith(".svg")

    for name, data in read_members(package, is_drawing):
        path = name.removeprefix(_FOLDER).removesuffix(".svg")
        drawing = parse_drawing(path, data.decode("utf-8", errors="replace"))
        if drawing is not None:
            yield name, drawing, data


def _render(svg: bytes) -> dict[str, Any] | None:
    try:
        image = render_svg(svg)
    except BuildError:
        # Some drawings of 2004 are not well-formed.
        return None
    if image.getchannel("A").getbbox() is None or not is_visible(image):
        return None
    return picture(crop_to_ink(image), "drawing")


def _plain(title: str) -> str:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _PREFIX.sub("", title))
    text = re.sub(r"[^\w'/&-]+", " ", re.sub(r"[_\-/.,]+", " ", text))
    text = _NOISE.sub(" ", text.lower())
    return tidy(re.sub(r"\b\d{2,}\b|\b0\d*\b", " ", re.sub(r"(?<=[a-z])\d+\b", " ", text)))


def _content(match: re.Match[str] | None) -> str:
    return tidy(html.unescape(match[1])) if match else ""


SOURCES: tuple[FullSource, ...] = (
    FullSource(
        name="openclipart",
        task="picture-text",
        packages=(pinned.OPENCLIPART, pinned.WORDNET, pinned.CLDR),
        rows=drawing_rows,
    ),
)
