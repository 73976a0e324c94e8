"""Backgrounds drawn by code, each a pure function of a random generator: beach, forest, night sky and others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
# Drawn twice as large, so that edges come out smooth.
_DRAWN = 2 * SIZE
Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (220, 50, 47),
    "orange": (240, 140, 40),
    "yellow": (248, 214, 60),
    "green": (70, 160, 80),
    "turquoise": (64, 190, 185),
    "blue": (60, 110, 210),
    "purple": (135, 80, 185),
    "pink": (245, 150, 190),
    "brown": (140, 95, 60),
    "black": (25, 25, 28),
    "grey": (150, 152, 155),
    "white": (255, 255, 255),
}


def plain(colour: Colour) -> Image.Image:
    """Return a background of one colour."""
    return Image.new("RGB", (SIZE, SIZE), colour)


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    """Return a background that goes from one colour to another."""
    return _sky(top, bottom, SIZE)


def scene(name: str, rng: np.random.Generator) -> Image.Image:
    """Return a scene of `SCENES`, RGB, 128 pixels."""
    image = _SCENES[name](rng)
    return image.reduce(_DRAWN // SIZE)


def _sky(top: Colour, bottom: Colour, size: int = _DRAWN) -> Image.Image:
    share = np.linspace(0, 1, size)[:, None, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return Image.fromarray(np.broadcast_to(rows, (size, size, 3)).astype(np.uint8))


def _shade(colour: Colour, rng: np.random.Generator, amount: int = 14) -> Colour:
    shift = int(rng.integers(-amount, amount + 1))
    r, g, b = (int(np.clip(part + shift, 0, 255)) for part in colour)
    return r, g, b


def _noise(image: Image.Image, rng: np.random.Generator, amount: float, top: int = 0) -> Image.Image:
    """Roughen the part of the picture below a line."""
    pixels = np.asarray(image).astype(np.int16)
    pixels[top:] += rng.normal(0, amount, (_DRAWN - top, _DRAWN, 1)).astype(np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _hills(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    base: int,
    height: int,
    colour: Colour,
    waves: float = 2,
) -> None:
    x = np.arange(0, _DRAWN + 4, 4)
    phase, second = rng.uniform(0, 6.28, 2)
    y = base - height * (
        0.5 + 0.35 * np.sin(x / _DRAWN * 6.28 * waves + phase) + 0.15 * np.sin(x / 20 + second)
    )
    points = [(0, _DRAWN), *zip(x.tolist(), y.tolist(), strict=True), (_DRAWN, _DRAWN)]
    draw.polygon(points, fill=colour)


def _ball(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _cloud(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: int, y: int, colour: Colour) -> None:
    for _ in range(5):
        dx, dy = rng.integers(-26, 27), rng.integers(-6, 7)
        _ball(draw, x + int(dx), y + int(dy), int(rng.integers(10, 19)), colour)


def _beach(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((110, 185, 240), rng), (205, 235, 250))
    draw = ImageDraw.Draw(image)
    horizon, shore = int(rng.integers(85, 115)), int(rng.integers(150, 180))
    _ball(draw, int(rng.integers(30, 226)), 36, 18, (255, 240, 140))
    draw.rectangle((0, horizon, _DRAWN, _DRAWN), fill=_shade((45, 135, 195), rng))
    for y in range(horizon + 8, shore, 10):
        x = int(rng.integers(-40, 60))
        while x < _DRAWN:
            draw.line((x, y, x + 26, y), fill=(110, 185, 225), width=2)
            x += int(rng.integers(50, 100))
    _hills(draw, rng, shore + 8, 12, (240, 245, 245), 1)
    _hills(draw, rng, shore + 16, 12, _shade((236, 208, 150), rng), 1)
    return _noise(image, rng, 5, shore + 16)


def _night_sky(rng: np.random.Generator) -> Image.Image:
    image = _sky((8, 12, 40), _shade((40, 50, 100), rng))
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        x, y = rng.integers(0, _DRAWN, 2)
        _ball(draw, int(x), int(y), float(rng.uniform(0.7, 2.2)), (255, 255, int(rng.integers(190, 256))))
    x, y = int(rng.integers(40, 216)), int(rng.integers(30, 70))
    _ball(draw, x, y, 22, (250, 245, 215))
    _ball(draw, x + 10, y - 5, 19, (16, 20, 54))
    return image


def _forest(rng: np.random.Generator) -> Image.Image:
    image = _sky((170, 210, 215), (225, 240, 225))
    draw = ImageDraw.Draw(image)
    for base, colour in ((150, (95, 150, 105)), (190, (55, 115, 65)), (235, (30, 80, 45))):
        _hills(draw, rng, base + 10, 12, colour)
        for x in range(-10, _DRAWN + 20, 24):
            at, height = x + int(rng.integers(-8, 9)), int(rng.integers(60, 100))
            shade = _shade(colour, rng)
            draw.rectangle((at - 2, base - 8, at + 2, base + 12), fill=(90, 65, 45))
            for step in range(3):
                top, width = base - height + step * height // 4, 9 + step * 5
                draw.polygon(
                    [(at, top), (at - width, top + height // 2), (at + width, top + height // 2)], fill=shade
                )
    return image


def _mountains(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((130, 180, 230), rng), (225, 235, 245))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, top = int(rng.integers(0, _DRAWN)), int(rng.integers(40, 100))
        width = int(rng.integers(60, 100))
        draw.polygon([(x, top), (x - width, 215), (x + width, 215)], fill=_shade((115, 125, 145), rng))
        cut = 0.3
        side, low = width * cut, top + (215 - top) * cut
        zigzag = [(x + side * 0.4, low - 8), (x, low + 6), (x - side * 0.4, low - 8)]
        draw.polygon([(x, top), (x + side, low), *zigzag, (x - side, low)], fill=(248, 250, 252))
    _hills(draw, rng, 210, 25, (240, 244, 250), 1)
    return image


def _desert(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((120, 180, 225), rng), (250, 230, 190))
    draw = ImageDraw.Draw(image)
    _ball(draw, int(rng.integers(40, 216)), 40, 22, (255, 235, 130))
    for base, colour in ((150, (235, 190, 120)), (185, (222, 170, 95)), (230, (205, 150, 80))):
        _hills(draw, rng, base, 40, _shade(colour, rng), float(rng.uniform(0.8, 1.6)))
    return _noise(image, rng, 4, 150)


def _underwater(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((60, 170, 215), rng), (10, 60, 120))
    draw = ImageDraw.Draw(image)
    for x in rng.integers(0, _DRAWN, 7).tolist():
        for step in range(14):
            sway = 6 * np.sin(step / 2 + x)
            _ball(draw, x + float(sway), _DRAWN - 10 - step * 6, 4, _shade((40, 140, 90), rng))
    _hills(draw, rng, 236, 14, (215, 195, 140), 1.5)
    for _ in range(14):
        x, y = rng.integers(0, _DRAWN, 2).tolist()
        radius = int(rng.integers(3, 8))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(190, 230, 245), width=2)
    return image


def _city(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((150, 190, 225), rng), (240, 225, 205))
    draw = ImageDraw.Draw(image)
    x = -6
    while x < _DRAWN:
        width, top = int(rng.integers(28, 48)), int(rng.integers(50, 150))
        draw.rectangle((x, top, x + width, 210), fill=_shade((120, 125, 140), rng, 35))
        for wy in range(top + 8, 200, 14):
            for wx in range(x + 6, x + width - 6, 11):
                lit = rng.random() < 0.6
                draw.rectangle((wx, wy, wx + 5, wy + 7), fill=(250, 230, 150) if lit else (80, 90, 110))
        x += width + int(rng.integers(0, 4))
    draw.rectangle((0, 205, _DRAWN, _DRAWN), fill=(75, 78, 85))
    for x in range(int(rng.integers(0, 30)), _DRAWN, 50):
        draw.rectangle((x, 228, x + 26, 232), fill=(235, 235, 225))
    return image


def _meadow(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((115, 185, 240), rng), (215, 238, 250))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        _cloud(draw, rng, int(rng.integers(20, 236)), int(rng.integers(25, 70)), (250, 252, 255))
    _hills(draw, rng, 160, 40, _shade((125, 190, 95), rng), 1.2)
    _hills(draw, rng, 190, 30, _shade((95, 170, 75), rng), 0.9)
    petals: tuple[Colour, ...] = ((250, 250, 250), (250, 215, 70), (235, 110, 140), (180, 130, 220))
    for _ in range(28):
        x, y = int(rng.integers(0, _DRAWN)), int(rng.integers(195, _DRAWN))
        _ball(draw, x, y, 3, petals[int(rng.integers(len(petals)))])
    return image


def _sunset(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((95, 55, 120), rng), (255, 165, 80))
    draw = ImageDraw.Draw(image)
    x = int(rng.integers(50, 206))
    _ball(draw, x, 165, 34, (255, 225, 120))
    draw.rectangle((0, 172, _DRAWN, _DRAWN), fill=_shade((70, 45, 95), rng))
    for y in range(178, _DRAWN, 9):
        width = int(rng.integers(10, 36))
        draw.line((x - width, y, x + width, y), fill=(250, 180, 95), width=3)
    return image


def _room(rng: np.random.Generator) -> Image.Image:
    walls: tuple[Colour, ...] = ((235, 220, 195), (200, 220, 225), (225, 205, 215), (210, 225, 200))
    image = Image.new("RGB", (_DRAWN, _DRAWN), walls[int(rng.integers(len(walls)))])
    draw = ImageDraw.Draw(image)
    floor = int(rng.integers(165, 190))
    draw.rectangle((0, floor, _DRAWN, _DRAWN), fill=_shade((175, 125, 80), rng))
    for y in range(floor + 14, _DRAWN, 16):
        draw.line((0, y, _DRAWN, y), fill=(145, 100, 62), width=2)
    draw.rectangle((0, floor - 8, _DRAWN, floor), fill=(250, 248, 242))
    x = int(rng.integers(15, 170))
    draw.rectangle((x, 28, x + 74, 108), fill=(250, 250, 248))
    draw.rectangle((x + 6, 34, x + 68, 102), fill=(165, 210, 240))
    draw.line((x + 37, 34, x + 37, 102), fill=(250, 250, 248), width=4)
    draw.line((x + 6, 68, x + 68, 68), fill=(250, 250, 248), width=4)
    return image


def _rain(rng: np.random.Generator) -> Image.Image:
    image = _sky((95, 105, 120), (160, 170, 180))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        _cloud(draw, rng, int(rng.integers(0, _DRAWN)), int(rng.integers(10, 45)), _shade((75, 82, 95), rng))
    draw.rectangle((0, 205, _DRAWN, _DRAWN), fill=_shade((95, 110, 100), rng))
    for _ in range(80):
        x, y = rng.integers(0, _DRAWN, 2).tolist()
        draw.line((x, y, x - 5, y + 14), fill=(200, 215, 235), width=2)
    return image


def _brick_wall(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), (205, 195, 185))
    draw = ImageDraw.Draw(image)
    for row, y in enumerate(range(0, _DRAWN, 22)):
        for x in range(-44 + (row % 2) * 22, _DRAWN, 44):
            draw.rectangle((x + 2, y + 2, x + 42, y + 20), fill=_shade((165, 80, 60), rng, 22))
    return _noise(image, rng, 5)


def _wooden_table(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), (180, 130, 80))
    draw = ImageDraw.Draw(image)
    for y in range(0, _DRAWN, 43):
        draw.rectangle((0, y, _DRAWN, y + 42), fill=_shade((182, 132, 84), rng, 16))
        draw.line((0, y, _DRAWN, y), fill=(110, 75, 42), width=2)
        for _ in range(5):
            line = y + int(rng.integers(5, 40))
            draw.line(
                (int(rng.integers(0, 120)), line, int(rng.integers(130, 256)), line),
                fill=(155, 108, 64),
                width=1,
            )
    return image


def _cloudy_sky(rng: np.random.Generator) -> Image.Image:
    image = _sky(_shade((75, 150, 225), rng), (190, 222, 245))
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y = rng.integers(0, _DRAWN, 2).tolist()
        _cloud(draw, rng, x, y, _shade((245, 248, 252), rng, 6))
    return image


_SCENES: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "beach": _beach,
    "brick wall": _brick_wall,
    "city": _city,
    "cloudy sky": _cloudy_sky,
    "desert": _desert,
    "forest": _forest,
    "meadow": _meadow,
    "mountains": _mountains,
    "night sky": _night_sky,
    "rain": _rain,
    "room": _room,
    "sunset": _sunset,
    "underwater": _underwater,
    "wooden table": _wooden_table,
}
SCENES = tuple(_SCENES)
