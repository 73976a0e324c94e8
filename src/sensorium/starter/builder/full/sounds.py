"""Every named sound of Scratch, Sonic Pi and Wesnoth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import concept_of, effect_clip, held_out_names, read_waveform, tidy
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members
from sensorium.starter.builder.sounds import listed_sounds, sonic_pi_credits

WESNOTH = Package(
    client="apt",
    name="wesnoth-1.16-data",
    version="1:1.16.9-1",
    file_name="wesnoth-1.16-data_1%3a1.16.9-1_all.deb",
    sha256="1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
)
# What the prefixes of Sonic Pi's file names stand for, and what follows the rest of the name.
_SONIC_PI_KINDS = {
    "ambi": "ambient",
    "arovane": "electronic beat",
    "bass": "bass",
    "bd": "bass drum",
    "drum": "drum",
    "elec": "electronic",
    "glitch": "glitch",
    "guit": "guitar",
    "hat": "hi-hat",
    "loop": "drum loop",
    "mehackit": "electronic",
    "misc": "",
    "perc": "percussion",
    "ride": "ride cymbal",
    "sn": "snare drum",
    "tabla": "tabla",
    "tbd": "bass drum",
    "vinyl": "vinyl record",
}
_SCRATCH_KINDS = {"Music Loops": "music loop", "Vocals": "vocals"}
_WESNOTH_WORDS = {"miss": "missing its target", "die": "dying", "hit": "being hit", "puny": "small"}


@dataclass(frozen=True, kw_only=True)
class Library:
    """One library of sounds: where it lies, how a file's name is read, and what must be said of it."""

    source: str
    package: Package
    folder: re.Pattern[str]
    license: str
    attribution: str
    name: Callable[[str], str]


def sound_rows(folder: Path, library: Library) -> Iterator[dict[str, Any]]:
    """Yield one row per sound of a library that is not silent."""
    package = fetch(library.package, folder)
    held_out = held_out_names(folder)
    chosen = listed_sounds(library.source)
    credits = sonic_pi_credits(package) if library.source == "sonic-pi" else {}
    for member, data in read_members(package, lambda name: library.folder.match(name) is not None):
        file = library.folder.sub("", member, count=1)
        path = file.rpartition(".")[0]
        waveform = read_waveform(data)
        if waveform is None:
            continue
        # What was named by eye for the embedded sample keeps its name.
        name = chosen.get(file) or chosen.get(path) or library.name(path)
        concept = concept_of(name, held_out)
        yield {
            "id": f"{library.source}/{path}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en",
            "source": library.source,
            "license": library.license,
            "attribution": f"{credits.get(path, library.attribution)}; cut, levelled and resampled",
            "text": name,
            "audio": effect_clip(waveform, PurePosixPath(path).name),
            "metadata": {"category": path.rpartition("/")[0] or path.partition("_")[0]},
        }


def scratch_name(path: str) -> str:
    """Return what a file of Scratch sounds like: "Human/Cough-female" is "cough female"."""
    folder, _, stem = path.rpartition("/")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[-_]", " ", stem)
    return tidy(f"{re.sub(r'[0-9]+', ' ', words)} {_SCRATCH_KINDS.get(folder, '')}").lower()


def sonic_pi_name(path: str) -> str:
    """Return what a file of Sonic Pi sounds like: "bd_fat" is "bass drum fat"."""
    kind, _, rest = path.partition("_")
    words = re.sub(r"_|(?<=[a-z])\d+", " ", rest)
    return tidy(f"{_SONIC_PI_KINDS.get(kind, kind)} {words}").lower()


def wesnoth_name(path: str) -> str:
    """Return what a file of Wesnoth sounds like: "orc-small-die-2" is "small orc dying"."""
    words = [word for word in re.split(r"[-/_]", path) if not word.isdigit()]
    words = [_WESNOTH_WORDS.get(re.sub(r"\d+$", "", word), re.sub(r"\d+$", "", word)) for word in words]
    for size in ("small", "big"):
        if size in words:
            words.remove(size)
            words.insert(0, size)
    return " ".join(dict.fromkeys(words)).replace("horn signals", "horn signal")


LIBRARIES = (
    Library(
        source="scratch",
        package=pinned.SCRATCH,
        folder=re.compile(r"usr/share/scratch/Media/Sounds/(?=.*\.(?:wav|mp3)$)"),
        license="CC-BY-SA-3.0",
        attribution="Scratch 1.4, Massachusetts Institute of Technology (https://scratch.mit.edu)",
        name=scratch_name,
    ),
    Library(
        source="sonic-pi",
        package=pinned.SONIC_PI,
        folder=re.compile(r"usr/share/sonic-pi/samples/(?=.*\.flac$)"),
        license="CC0-1.0",
        attribution="samples of Sonic Pi (https://sonic-pi.net)",
        name=sonic_pi_name,
    ),
    Library(
        source="wesnoth",
        package=WESNOTH,
        folder=re.compile(r"usr/share/games/wesnoth/1\.16/data/core/sounds/(?=.*\.ogg$)"),
        license="GPL-2.0-or-later",
        attribution="The Battle for Wesnoth, David White and the Wesnoth contributors (https://www.wesnoth.org)",
        name=wesnoth_name,
    ),
)
SOURCES: tuple[FullSource, ...] = tuple(
    FullSource(
        name=library.source,
        task="sound",
        packages=(library.package, pinned.CLDR),
        rows=partial(sound_rows, library=library),
    )
    for library in LIBRARIES
)
