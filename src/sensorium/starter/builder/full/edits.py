"""Edit pairs: a picture, an instruction, and the picture as asked for. Pair number n is a pure function of n."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from sensorium.data.schema import medium, message
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.cutouts import Cutout, all_of, emoji
from sensorium.starter.builder.full.edit_ops import OPERATIONS
from sensorium.starter.builder.full.edit_world import Pair, World
from sensorium.starter.builder.full.scenes import SIZE
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.full.stamps import TUXPAINT
from sensorium.starter.builder.images import encode_webp
from sensorium.starter.builder.packages import BuildError, Package, fetch, read_members

_OTHER_LANGUAGES = ("de", "es", "fr")
_OTHER_SHARE = 0.24
_MAX_ATTEMPTS = 200
_PHOTOS = "usr/share/scratch/Media/Backgrounds/"
_PHOTO_LICENSE = "CC-BY-SA-3.0"
_PHOTO_ATTRIBUTION = (
    "backgrounds: Scratch 1.4 media library, Massachusetts Institute of Technology (https://scratch.mit.edu)"
)
# What the files' names do not say well, and what is no place.
_PHOTO_NAMES = {
    "bedroom1": "a bedroom",
    "bedroom2": "another bedroom",
    "chalkboard": "a chalkboard",
    "kitchen": "a kitchen",
    "party-room": "a party room",
    "spotlight-stage": "a stage in the spotlight",
    "the-movies-inside": "a cinema hall",
    "beach-malibu": "a sandy beach",
    "canyon": "a canyon",
    "desert": "a desert with cactuses",
    "flower-bed": "a flower bed",
    "forest": "a forest",
    "grand-canyon": "the Grand Canyon",
    "hill": "a grassy hill",
    "lake": "a lake",
    "moon": "the surface of the moon",
    "pathway": "a path in the woods",
    "stars": "outer space with stars",
    "underwater": "the bottom of the sea",
    "water-and-rocks": "water and rocks",
    "wave": "a wave of the sea",
    "brick-wall1": "a brick wall",
    "castle": "a castle",
    "city-with-water": "a city by the water",
    "graffiti": "a wall with graffiti",
    "hay_field": "a hay field",
    "houses": "a row of houses",
    "night-city-with-street": "a city street at night",
    "pool": "a swimming pool",
    "route66": "a long road",
    "school1": "a school",
    "train-tracks1": "railway tracks",
    "village": "a village",
    "wooden-house": "a wooden house",
    "baseball-field": "a baseball field",
    "basketball-court1-a": "a basketball court",
    "football-field": "a football field",
    "playing-field": "a playing field",
}


@dataclass(frozen=True, kw_only=True)
class EditSource:
    """A set of pairs: how many, of which styles, by which operations.

    Args:
        operations: how many of each in a round.
        styles: of the cut-outs.
        twins: two styles that things are turned between.
        split: all pairs belong to it; None decides by concepts.
    """

    name: str
    num_pairs: int
    operations: dict[str, int]
    styles: tuple[str, ...]
    packages: tuple[Package, ...]
    twins: tuple[str, str] | None = None
    has_photos: bool = False
    split: str | None = None


EDIT_SOURCES = (
    EditSource(
        name="edits",
        num_pairs=17_000,
        operations={
            **{"background": 4, "background-colour": 2, "cut-out": 2, "recolour": 4, "mirror": 2, "scale": 3},
            **{"move": 3, "rotate": 2, "add": 4, "remove": 4, "replace": 3, "style": 4, "tone": 3, "grey": 1},
        },
        styles=("fluent", "noto"),
        packages=(pinned.NOTO, pinned.FLUENT, pinned.CLDR),
        twins=("noto", "fluent"),
    ),
    EditSource(
        name="edits-openmoji",
        num_pairs=800,
        operations={"style": 1},
        styles=("fluent",),
        packages=(pinned.NOTO, pinned.FLUENT, pinned.OPENMOJI, pinned.CLDR),
        twins=("fluent", "openmoji"),
        split="test",
    ),
    EditSource(
        name="edits-scratch",
        num_pairs=2_000,
        operations={"background-photo": 6, "add": 2, "remove": 2, "cut-out": 1, "scale": 1, "move": 1},
        styles=("fluent", "noto"),
        packages=(pinned.NOTO, pinned.FLUENT, pinned.CLDR, pinned.SCRATCH),
        has_photos=True,
    ),
    EditSource(
        name="edits-tuxpaint",
        num_pairs=4_000,
        operations={
            **{"background": 5, "background-colour": 2, "cut-out": 2, "recolour": 3, "mirror": 2, "scale": 3},
            **{"move": 3, "rotate": 2, "add": 4, "remove": 4, "replace": 3, "grey": 1},
        },
        styles=("tuxpaint",),
        packages=(TUXPAINT, pinned.CLDR, pinned.NOTO),
    ),
)


def edit_rows(source: EditSource, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a source in order of their numbers."""
    world = load_world(source, folder)
    for number in range(source.num_pairs):
        yield edit_row(source, world, number)


def load_world(source: EditSource, folder: Path) -> World:
    """Return what the pairs of a source are drawn from."""
    things = tuple(all_of(folder, source.styles))
    twins: list[tuple[Cutout, Cutout]] = []
    if source.twins:
        first, second = (emoji(folder, style) for style in source.twins)
        twins = [(first[key], second[key]) for key in first if key in second]
    return World(
        things=things,
        twins=tuple(twins),
        toned=tuple(thing for thing in things if len(thing.tones) >= 2),
        photos=_photos(folder) if source.has_photos else {},
        is_held_out=source.split == "test",
    )


def edit_row(source: EditSource, world: World, number: int) -> dict[str, Any]:
    """Return pair number `number` of a source."""
    operation, pair, rng = make_pair(source, world, number)
    language = "en"
    has_all = all(set(_OTHER_LANGUAGES) <= thing.names.keys() for thing in pair.names.values())
    if rng.random() < _OTHER_SHARE and has_all and "photo" not in pair.slots:
        language = _OTHER_LANGUAGES[int(rng.integers(len(_OTHER_LANGUAGES)))]
    instruction = instruct(pair, language, rng)
    concept, split = deciding(pair.things)
    uses_photos = bool(world.photos)
    licenses = {thing.license for thing in pair.things} | ({_PHOTO_LICENSE} if uses_photos else set())
    works = {thing.attribution for thing in pair.things} | ({_PHOTO_ATTRIBUTION} if uses_photos else set())
    # In a whole held-out style a concept says nothing about the split.
    decided = source.split is None or source.split == split
    return {
        "id": f"{source.name}/{number:05d}",
        "split": source.split or split,
        "concept": concept if decided else None,
        "language": language,
        "source": source.name,
        "license": " AND ".join(sorted(licenses)),
        "attribution": "; ".join(sorted(works)) + "; shrunk, composed and edited",
        "messages": [
            message("user", {"type": "image"}, instruction),
            message("assistant", {"type": "image"}),
        ],
        "images": [
            medium(encode_webp(image, method=4), f"{number:05d}-{name}.webp")
            for name, image in (("before", pair.before), ("after", pair.after))
        ],
        "metadata": {
            "operation": operation,
            "things": ", ".join(thing.names["en"] for thing in pair.things),
            **{f"parameter.{key}": value for key, value in pair.slots.items() if key != "on"},
            **({"direction": pair.wording} if pair.wording != operation else {}),
        },
    }


def make_pair(source: EditSource, world: World, number: int) -> tuple[str, Pair, np.random.Generator]:
    """Return the operation and the pair of a number, and the generator that goes on with its words."""
    round_of = [name for name, count in sorted(source.operations.items()) for _ in range(count)]
    operation = round_of[number % len(round_of)]
    rng = np.random.default_rng([crc32(source.name.encode()), number])
    for _ in range(_MAX_ATTEMPTS):
        pair = OPERATIONS[operation](rng, world)
        if pair is not None and pair.is_visible:
            return operation, pair, rng
    raise BuildError(f"{source.name}: no {operation} could be seen in {_MAX_ATTEMPTS} attempts for {number}")


def deciding(things: tuple[Cutout, ...]) -> tuple[str, str]:
    """Return the concept that decides about the split, and the split: test before validation before training."""
    order = ("test", "validation", "train")
    thing = min(things, key=lambda thing: order.index(thing.split))
    return thing.concept, thing.split


def instruct(pair: Pair, language: str, rng: np.random.Generator) -> str:
    """Return an instruction for a pair in one of the wordings."""
    wordings = words(pair.wording, language)
    template = wordings[int(rng.integers(len(wordings)))]
    slots = {key: thing.names[language] for key, thing in pair.names.items()}
    if language == "en" and "other" in slots:
        slots["a_other"] = with_article(slots["other"])
    for key, value in pair.slots.items():
        if key == "photo":
            slots["scene"] = _PHOTO_NAMES[value]
            continue
        kind = "colour" if key == "old" else key
        phrases = words(f"{kind} {value}", language) if language == "en" or kind != "on" else [""]
        slots[key] = phrases[0].format(**slots)
    said = template.format(**slots)
    return said[0].upper() + said[1:]


def with_article(name: str) -> str:
    """Return an English name with "a" or "an"; plurals and names that need none stay as they are."""
    head = name.split(" with ")[0].split(" of ")[0]
    if (head.endswith("s") and not head.endswith(("ss", "us", "is", "gas", "bus"))) or name[0].isdigit():
        return name
    return (
        f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'one', 'eu', 'ufo')) else 'a'} {name}"
    )


@cache
def _all_words() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    key = ""
    text = files("sensorium.starter.builder.full").joinpath("edit_words.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("["):
            key = line.strip("[]")
        else:
            language, _, phrase = line.partition(" ")
            found.setdefault((key, language), []).append(phrase)
    return found


def words(key: str, language: str) -> list[str]:
    """Return the wordings of an operation or of a word, from edit_words.txt."""
    return _all_words()[key, language]


def _photos(folder: Path) -> dict[str, Image.Image]:
    found = {}
    package = fetch(pinned.SCRATCH, folder)
    for name, data in read_members(
        package, lambda name: name.startswith(_PHOTOS) and not name.endswith(".db")
    ):
        stem = PurePosixPath(name).stem
        if stem in _PHOTO_NAMES:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            found[stem] = square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    missing = sorted(_PHOTO_NAMES.keys() - found.keys())
    if missing:
        raise BuildError(f"{package.name}: no background named {missing[0]!r}; correct the list")
    return found


SOURCES = tuple(
    FullSource(name=source.name, task="edit", packages=source.packages, rows=partial(edit_rows, source))
    for source in EDIT_SOURCES
)
