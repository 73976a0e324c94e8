"""Composed pictures without loss: cut-outs, where they stand, what lies behind them, and pairs of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from sensorium.starter.builder.full.cutouts import Cutout
from sensorium.starter.builder.full.scenes import COLOURS, SCENES, SIZE, gradient, plain, scene

# Share of the pixels that must differ, so that nobody has to look for what was done.
_MIN_CHANGED = 0.015
_SEEN = 24
_VARIANTS_OF_SCENES = 24
PALE = ("white", "yellow", "grey", "pink", "turquoise", "orange", "blue", "green")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An edit: both pictures, and what the instruction speaks of.

    Args:
        wording: which list of wordings tells it.
        slots: keys of words ("colour": "red"); `name` and `other` are names of things.
        things: all that is shown before or after, the main one first.
        box: outside of it nothing changes (left, top, right, bottom); None where all may change.
    """

    wording: str
    before: Image.Image
    after: Image.Image
    things: tuple[Cutout, ...]
    slots: dict[str, str] = field(default_factory=dict)
    names: dict[str, Cutout] = field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None

    @property
    def is_visible(self) -> bool:
        """Whether enough is changed to be seen."""
        a, b = (np.asarray(image, np.int16) for image in (self.before, self.after))
        return bool((np.abs(a - b).max(axis=2) > _SEEN).mean() >= _MIN_CHANGED)


@dataclass(frozen=True, kw_only=True)
class World:
    """What pairs are drawn from.

    Args:
        things: cut-outs.
        twins: the same things in another style, by key of the first.
        photos: backgrounds of a package, by name.
        is_held_out: all pairs are for tests; they have backgrounds that no other style pair has.
    """

    things: tuple[Cutout, ...]
    twins: tuple[tuple[Cutout, Cutout], ...] = ()
    toned: tuple[Cutout, ...] = ()
    photos: dict[str, Image.Image] = field(default_factory=dict)
    is_held_out: bool = False

    def thing(self, rng: np.random.Generator) -> Cutout:
        """Any thing."""
        return self.things[int(rng.integers(len(self.things)))]

    def others(self, rng: np.random.Generator, count: int) -> list[Cutout]:
        """Different things with different names."""
        chosen: dict[str, Cutout] = {}
        while len(chosen) < count:
            thing = self.thing(rng)
            if thing.concept not in {other.concept for other in chosen.values()}:
                chosen.setdefault(thing.names["en"], thing)
        return list(chosen.values())


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A picture of a thing with its place: the top left corner."""

    image: Image.Image
    left: int
    top: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """What it covers."""
        return self.left, self.top, self.left + self.image.width, self.top + self.image.height


def place(image: Image.Image, size: int, centre: tuple[int, int]) -> Placed:
    """Return a picture scaled to a longer side and centred, moved as little as needed to lie inside."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (
        int(np.clip(at - side // 2, 2, SIZE - 2 - side)) if side < SIZE - 4 else (SIZE - side) // 2
        for at, side in zip(centre, (width, height), strict=True)
    )
    return Placed(image=small, left=left, top=top)


def compose(background: Image.Image, *placed: Placed) -> Image.Image:
    """Return the background with things on it, the last in front."""
    canvas = background.convert("RGBA")
    for thing in placed:
        canvas.alpha_composite(thing.image, (max(0, thing.left), max(0, thing.top)))
    return canvas.convert("RGB")


def union(*boxes: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return the smallest box that holds some boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


@lru_cache(maxsize=len(SCENES) * _VARIANTS_OF_SCENES)
def scene_variant(name: str, variant: int) -> Image.Image:
    """Return one of the ways a scene may look."""
    return scene(name, np.random.default_rng([7, SCENES.index(name), variant]))


def draw_scene(rng: np.random.Generator, *, without: str = "") -> tuple[str, Image.Image]:
    """Return a scene and its name."""
    names = [name for name in SCENES if name != without]
    name = names[int(rng.integers(len(names)))]
    return name, scene_variant(name, int(rng.integers(_VARIANTS_OF_SCENES)))


def any_background(rng: np.random.Generator, world: World) -> Image.Image:
    """Return a background that the instruction does not speak of."""
    if world.photos and rng.random() < 0.8:
        return world.photos[sorted(world.photos)[int(rng.integers(len(world.photos)))]]
    kind = rng.random()
    if kind < 0.6:
        return draw_scene(rng)[1]
    one, two = (COLOURS[PALE[int(i)]] for i in rng.choice(len(PALE), 2, replace=False))
    return plain(one) if kind < 0.8 else gradient(one, two)
