"""Animated emoji as short clips: Fluent Emoji in motion, named in all the languages of Unicode's CLDR."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.emoji import CLDR_DERIVED, cldr_names, emoji_concept
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members

_SHA256 = {
    1: "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
    2: "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0",
    3: "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
    4: "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3",
}
PACKAGES = tuple(
    Package(
        client="npm",
        name=f"@lobehub/fluent-emoji-anim-{number}",
        version="1.0.0",
        file_name=f"lobehub-fluent-emoji-anim-{number}-1.0.0.tgz",
        sha256=digest,
    )
    for number, digest in _SHA256.items()
)
MAX_FRAMES = 16
CLIP_SIZE = 96
_QUALITY = 85
_ANNOTATIONS = re.compile(r"package/annotations(?:Derived)?/([^/]+)/annotations\.json")
_SKIN_TONE = re.compile(r"1f3f[b-f]")

Frame = tuple[Image.Image, int]


def clip_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per animated picture that has an English name, in order of the archives."""
    names = emoji_names(folder)
    known = frozenset(table["en"].lower() for table in names.values())
    seen: set[str] = set()
    for package in PACKAGES:
        for name, data in read_members(fetch(package, folder), _is_clip):
            key = _key(name)
            if key in seen or key not in names:
                continue
            with Image.open(io.BytesIO(data)) as animation:
                # Most pictures of the packages do not move.
                if getattr(animation, "n_frames", 1) < 2:
                    continue
                frames, duration_ms = pick_frames(animation)
            seen.add(key)
            text = names[key]["en"]
            concept = emoji_concept(text, known)
            yield {
                "id": f"fluent-animated/{key}",
                "split": split_of(concept),
                "concept": concept,
                "language": "en",
                "source": "fluent-animated",
                "license": "MIT",
                "attribution": "Fluent Emoji, Microsoft Corporation (https://github.com/microsoft/fluentui-emoji), "
                "as packaged by LobeHub; shrunk, fewer frames; names: Unicode CLDR, Unicode, Inc. (Unicode-3.0)",
                "text": text,
                "names": names[key],
                "video": medium(encode_clip(frames, duration_ms), f"{key}.webp"),
                "metadata": {
                    "style": "fluent",
                    "num_frames": str(len(frames)),
                    "duration_s": f"{duration_ms / 1000:.3f}",
                },
            }


def pick_frames(animation: Image.Image) -> tuple[list[Frame], int]:
    """Return at most 16 frames with the milliseconds at which they begin, and the duration of the whole.

    Each is the frame that is seen at an even step of the duration, with the time at which it really begins.
    """
    starts, end = [], 0
    for index in range(getattr(animation, "n_frames", 1)):
        animation.seek(index)
        animation.load()
        starts.append(end)
        end += int(animation.info.get("duration", 0))
    wanted = [end * step / MAX_FRAMES for step in range(MAX_FRAMES)]
    # The last frame that has begun by then.
    indices = sorted({max(i for i, start in enumerate(starts) if start <= at) for at in wanted})
    frames = []
    for index in indices:
        animation.seek(index)
        frames.append((_small(animation), starts[index]))
    return frames, end


def encode_clip(frames: list[Frame], duration_ms: int) -> bytes:
    """Return frames as an animated WebP; every frame is shown until the next begins."""
    starts = [start for _, start in frames] + [duration_ms]
    durations = [after - before for before, after in pairwise(starts)]
    images = [image for image, _ in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        quality=_QUALITY,
        method=4,
    )
    return buffer.getvalue()


def _small(frame: Image.Image) -> Image.Image:
    picture = frame.convert("RGBA")
    solid = Image.new("RGBA", picture.size, "white")
    solid.alpha_composite(picture)
    return solid.convert("RGB").resize((CLIP_SIZE, CLIP_SIZE), Image.Resampling.LANCZOS)


def _is_clip(name: str) -> bool:
    return name.startswith("package/assets/") and name.endswith(".webp") and not _SKIN_TONE.search(name)


def _key(name: str) -> str:
    codes = PurePosixPath(name).stem.lower().split("-")
    return "-".join(code for code in codes if code != "fe0f")


def emoji_names(folder: Path) -> dict[str, dict[str, str]]:
    """{code points: {locale: name}} of what has an English name."""
    found: dict[str, dict[str, str]] = {}
    for package in (pinned.CLDR, CLDR_DERIVED):
        texts = read_members(fetch(package, folder), lambda name: _ANNOTATIONS.fullmatch(name) is not None)
        for key, locales in cldr_names(texts).items():
            if "en" in locales and not _SKIN_TONE.search(key):
                found[key] = {locale: entry[0] for locale, entry in locales.items()}
    return found


SOURCES = (
    FullSource(
        name="fluent-animated",
        task="clip",
        packages=(*PACKAGES, pinned.CLDR, CLDR_DERIVED),
        rows=clip_rows,
    ),
)
