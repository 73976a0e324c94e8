"""Edits of composed pictures: what stands where before and after, as pixels without loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from sensorium.starter.builder.full.cutouts import Cutout
from sensorium.starter.builder.full.edit_world import (
    PALE,
    Pair,
    Placed,
    World,
    any_background,
    compose,
    draw_scene,
    place,
    union,
)
from sensorium.starter.builder.full.recolour import HUES, hues_between, main_colour, with_colour
from sensorium.starter.builder.full.scenes import COLOURS, gradient, plain

# Where the centre of a thing may stand, by the words for it.
PLACES = {
    "left": (34, 66),
    "right": (94, 66),
    "top": (64, 34),
    "bottom": (64, 94),
    "centre": (64, 64),
    "top left": (34, 34),
    "top right": (94, 34),
    "bottom left": (34, 94),
    "bottom right": (94, 94),
}
_PAIRS = {
    "left": ((93, 66), (35, 66)),
    "right": ((35, 66), (93, 66)),
    "above": ((64, 95), (64, 34)),
    "below": ((64, 34), (64, 95)),
}


def _centred(rng: np.random.Generator, image: Image.Image, low: int = 60, high: int = 92) -> Placed:
    centre = (64 + int(rng.integers(-8, 9)), 68 + int(rng.integers(-6, 7)))
    return place(image, int(rng.integers(low, high)), centre)


def background(rng: np.random.Generator, world: World) -> Pair:
    """Another scene behind the same thing."""
    thing = world.thing(rng)
    placed = _centred(rng, thing.image)
    name, after = draw_scene(rng)
    before = draw_scene(rng, without=name)[1] if rng.random() < 0.5 else plain(COLOURS["white"])
    return Pair(
        wording="background",
        before=compose(before, placed),
        after=compose(after, placed),
        things=(thing,),
        slots={"scene": name, "on": name},
        names={"name": thing},
    )


def background_photo(rng: np.random.Generator, world: World) -> Pair:
    """A named background of the package behind the same thing."""
    thing = world.thing(rng)
    placed = _centred(rng, thing.image)
    one, two = (sorted(world.photos)[int(i)] for i in rng.choice(len(world.photos), 2, replace=False))
    before = world.photos[one] if rng.random() < 0.6 else plain(COLOURS["white"])
    return Pair(
        wording="background-photo",
        before=compose(before, placed),
        after=compose(world.photos[two], placed),
        things=(thing,),
        slots={"photo": two},
        names={"name": thing},
    )


def background_colour(rng: np.random.Generator, world: World) -> Pair:
    """Another plain colour behind the same thing."""
    thing = world.thing(rng)
    placed = _centred(rng, thing.image)
    old, new = (list(COLOURS)[int(i)] for i in rng.choice(len(COLOURS), 2, replace=False))
    return Pair(
        wording="background-colour",
        before=compose(plain(COLOURS[old]), placed),
        after=compose(plain(COLOURS[new]), placed),
        things=(thing,),
        slots={"colour": new, "old": old},
        names={"name": thing},
    )


def cut_out(rng: np.random.Generator, world: World) -> Pair:
    """The thing alone on white."""
    thing = world.thing(rng)
    placed = _centred(rng, thing.image)
    return Pair(
        wording="cut-out",
        before=compose(any_background(rng, world), placed),
        after=compose(plain(COLOURS["white"]), placed),
        things=(thing,),
        names={"name": thing},
    )


def recolour(rng: np.random.Generator, world: World) -> Pair | None:
    """The main colour of the thing becomes another."""
    thing = world.thing(rng)
    old = main_colour(thing.image)
    if old is None or thing.tones:
        return None
    far = [name for name in HUES if hues_between(HUES[name], HUES[old]) >= 45]
    new = far[int(rng.integers(len(far)))]
    placed = _centred(rng, thing.image)
    behind = any_background(rng, world)
    changed = Placed(image=with_colour(placed.image, old, new), left=placed.left, top=placed.top)
    return Pair(
        wording="recolour",
        before=compose(behind, placed),
        after=compose(behind, changed),
        things=(thing,),
        slots={"colour": new, "old": old},
        names={"name": thing},
        box=placed.box,
    )


def mirror(rng: np.random.Generator, world: World) -> Pair:
    """The whole picture mirrored."""
    thing = world.thing(rng)
    before = compose(any_background(rng, world), _centred(rng, thing.image))
    across = rng.random() < 0.7
    flip = Image.Transpose.FLIP_LEFT_RIGHT if across else Image.Transpose.FLIP_TOP_BOTTOM
    return Pair(
        wording="mirror-left-right" if across else "mirror-up-down",
        before=before,
        after=before.transpose(flip),
        things=(thing,),
        names={"name": thing},
    )


def scale(rng: np.random.Generator, world: World) -> Pair:
    """The thing larger or smaller, its centre and the background as they were."""
    thing = world.thing(rng)
    small = int(rng.integers(36, 54))
    large = min(112, round(small * float(rng.uniform(1.5, 2.1))))
    centre = (64 + int(rng.integers(-6, 7)), 66 + int(rng.integers(-6, 7)))
    one, two = (place(thing.image, size, centre) for size in (small, large))
    behind = any_background(rng, world)
    grows = rng.random() < 0.5
    if not grows:
        one, two = two, one
    return Pair(
        wording="bigger" if grows else "smaller",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(thing,),
        names={"name": thing},
        box=union(one.box, two.box),
    )


def move(rng: np.random.Generator, world: World) -> Pair:
    """The thing at another place."""
    thing = world.thing(rng)
    size = int(rng.integers(38, 54))
    start, end = (list(PLACES)[int(i)] for i in rng.choice(len(PLACES), 2, replace=False))
    one, two = (place(thing.image, size, PLACES[at]) for at in (start, end))
    behind = any_background(rng, world)
    return Pair(
        wording="move",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(thing,),
        slots={"where": end},
        names={"name": thing},
        box=union(one.box, two.box),
    )


def rotate(rng: np.random.Generator, world: World) -> Pair:
    """The thing turned about its centre."""
    thing = world.thing(rng)
    degrees = int(rng.choice([90, 270, 180, 45, 315]))
    centre, size = (64, 64), int(rng.integers(56, 78))
    one = place(thing.image, size, centre)
    turned = one.image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    two = Placed(image=turned, left=64 - turned.width // 2, top=64 - turned.height // 2)
    behind = any_background(rng, world)
    return Pair(
        wording="rotate",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(thing,),
        slots={"turn": str(degrees)},
        names={"name": thing},
        box=union(one.box, two.box),
    )


def _two(rng: np.random.Generator, world: World) -> tuple[Cutout, Cutout, Placed, Placed, str]:
    """Two things side by side: the second stands at the named side of the first."""
    first, second = world.others(rng, 2)
    side = list(_PAIRS)[int(rng.integers(len(_PAIRS)))]
    at, other = _PAIRS[side]
    sizes = rng.integers(44, 57, 2)
    return (
        first,
        second,
        place(first.image, int(sizes[0]), at),
        place(second.image, int(sizes[1]), other),
        side,
    )


def add(rng: np.random.Generator, world: World) -> Pair:
    """A second thing beside the first."""
    first, second, one, two, side = _two(rng, world)
    behind = any_background(rng, world)
    return Pair(
        wording="add",
        before=compose(behind, one),
        after=compose(behind, one, two),
        things=(first, second),
        slots={"beside": side},
        names={"name": first, "other": second},
        box=two.box,
    )


def remove(rng: np.random.Generator, world: World) -> Pair:
    """One of two things taken away."""
    first, second, one, two, _ = _two(rng, world)
    behind = any_background(rng, world)
    return Pair(
        wording="remove",
        before=compose(behind, one, two),
        after=compose(behind, two),
        things=(first, second),
        names={"name": first, "other": second},
        box=one.box,
    )


def replace(rng: np.random.Generator, world: World) -> Pair:
    """Another thing in the place of the first."""
    first, second = world.others(rng, 2)
    size, centre = int(rng.integers(60, 88)), (64, 66)
    one, two = (place(thing.image, size, centre) for thing in (first, second))
    behind = any_background(rng, world)
    return Pair(
        wording="replace",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(first, second),
        names={"name": first, "other": second},
        box=union(one.box, two.box),
    )


def style(rng: np.random.Generator, world: World) -> Pair:
    """The same thing in another drawing style, as large as it was."""
    first, second = world.twins[int(rng.integers(len(world.twins)))]
    if rng.random() < 0.5:
        first, second = second, first
    size, centre = int(rng.integers(72, 100)), (64, 66)
    one, two = (place(thing.image, size, centre) for thing in (first, second))
    # Never on white: a picture of a source must not come back in another split as half of a pair.
    shades = [COLOURS[name] for name in PALE if name != "white"]
    first_shade, second_shade = (shades[int(i)] for i in rng.choice(len(shades), 2, replace=False))
    if world.is_held_out:
        behind = gradient(first_shade, second_shade)
    else:
        behind = draw_scene(rng)[1] if rng.random() < 0.4 else plain(first_shade)
    return Pair(
        wording="style",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(first, second),
        slots={"style": second.key.split("/")[0]},
        names={"name": first},
        box=union(one.box, two.box),
    )


def tone(rng: np.random.Generator, world: World) -> Pair:
    """The same person in another tone of skin."""
    thing = world.toned[int(rng.integers(len(world.toned)))]
    tones = list(thing.tones)
    start, end = (tones[int(i)] for i in rng.choice(len(tones), 2, replace=False))
    first = thing.image if rng.random() < 0.4 else thing.in_tone(start)
    size, centre = int(rng.integers(72, 100)), (64, 66)
    one, two = (place(image, size, centre) for image in (first, thing.in_tone(end)))
    behind = any_background(rng, world)
    return Pair(
        wording="tone",
        before=compose(behind, one),
        after=compose(behind, two),
        things=(thing,),
        slots={"tone": end},
        names={"name": thing},
        box=union(one.box, two.box),
    )


def grey(rng: np.random.Generator, world: World) -> Pair:
    """The whole picture without colour."""
    thing = world.thing(rng)
    before = compose(any_background(rng, world), _centred(rng, thing.image))
    after = before.convert("L").convert("RGB")
    return Pair(wording="grey", before=before, after=after, things=(thing,), names={"name": thing})


Operation = Callable[[np.random.Generator, World], Pair | None]
OPERATIONS: dict[str, Operation] = {
    "add": add,
    "background": background,
    "background-colour": background_colour,
    "background-photo": background_photo,
    "cut-out": cut_out,
    "grey": grey,
    "mirror": mirror,
    "move": move,
    "recolour": recolour,
    "remove": remove,
    "replace": replace,
    "rotate": rotate,
    "scale": scale,
    "style": style,
    "tone": tone,
}
