"""Everyday sounds and instruments from Scratch and Sonic Pi, named in sounds.txt (source, file, name)."""

from __future__ import annotations

import io
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import soundfile
import soxr

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.clipart import named_concept
from sensorium.starter.builder.packages import BuildError, fetch, read_members, read_texts
from sensorium.starter.builder.waveforms import encode_opus, finish, loudest_part, trim_silence

SAMPLE_RATE = 24_000
MAX_DURATION_S = 2.5

_SCRATCH_FOLDER = "usr/share/scratch/Media/Sounds/"
_SONIC_PI_FOLDER = "usr/share/sonic-pi/samples/"
_SONIC_PI_CREDIT = re.compile(r"`:(\w+)` ?- ?https?://(?:www\.)?freesound\.org/people/([^/]+)/sounds/(\d+)")


def listed_sounds(source: str) -> dict[str, str]:
    """Return {file: name} of the sounds chosen from one source."""
    lines = files(__package__).joinpath("sounds.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split("\t") for line in lines]
    return {file: name for from_source, file, name in entries if from_source == source}


def sound_rows(source: str, cache: Path, held_out: set[str]) -> list[dict[str, Any]]:
    """Return the rows of the sounds of one source.

    Args:
        source: "scratch" or "sonic-pi".
        cache: the folder of packages.
        held_out: the picture concepts that are not in the training split.

    Raises:
        BuildError: a listed sound is not in the package, or nobody is credited for it.
    """
    names = listed_sounds(source)
    if source == "scratch":
        package, folder, suffix, license_id = (
            fetch(pinned.SCRATCH, cache),
            _SCRATCH_FOLDER,
            "",
            "CC-BY-SA-3.0",
        )
        credits = dict.fromkeys(
            names, "Scratch 1.4, Massachusetts Institute of Technology (https://scratch.mit.edu)"
        )
    else:
        package, folder, suffix = fetch(pinned.SONIC_PI, cache), _SONIC_PI_FOLDER, ".flac"
        license_id, credits = "CC0-1.0", sonic_pi_credits(package)
    recordings = dict(
        read_members(package, lambda name: name.removeprefix(folder).removesuffix(suffix) in names)
    )
    rows = []
    for file, name in names.items():
        recording = recordings.get(folder + file + suffix)
        if recording is None or file not in credits:
            raise BuildError(f"sounds.txt: {source} has no credited sound {file!r}; correct the line")
        concept = named_concept(name, held_out)
        stem = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        rows.append(
            {
                "id": f"{source}/{file.rsplit('.', 1)[0]}",
                "split": split_of(concept),
                "concept": concept,
                "language": "en",
                "source": source,
                "license": license_id,
                "attribution": f"{credits[file]}; cut, levelled and resampled",
                "text": name,
                "audio": medium(_clip(recording), f"{stem}.opus.ogg"),
            }
        )
    return rows


def _clip(recording: bytes) -> bytes:
    waveform, sample_rate = soundfile.read(io.BytesIO(recording), dtype="float32", always_2d=True)
    mono = soxr.resample(waveform.mean(axis=1), sample_rate, SAMPLE_RATE)
    part = loudest_part(trim_silence(mono, SAMPLE_RATE), SAMPLE_RATE, MAX_DURATION_S)
    return encode_opus(finish(part, SAMPLE_RATE), SAMPLE_RATE)


def sonic_pi_credits(package: Path) -> dict[str, str]:
    """Return {file: author and address} of the samples that the package's README credits."""
    (readme,) = read_texts(package, _SONIC_PI_FOLDER + "README.md")
    credits = {}
    for name, author, number in _SONIC_PI_CREDIT.findall(readme):
        # The list writes "phone_1" and "3dprinter" for the files phone1 and 3d_printer.
        file = re.sub(r"_(\d)$", r"\1", name).replace("3dprinter", "3d_printer")
        credits[file] = (
            f"{author}, https://freesound.org/people/{author}/sounds/{number}/, through Sonic Pi "
            "(https://sonic-pi.net)"
        )
    return credits
