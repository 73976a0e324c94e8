"""A folder of media with their words beside them: `cat.jpg`, `cat.txt` or `cat.json`, and `cat.wav`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensorium.data.importers.base import (
    Draft,
    Options,
    split_in_path,
    stem_of,
    suffix_of,
    walk,
)
from sensorium.data.importers.media import KIND_OF_SUFFIX, Files
from sensorium.data.importers.sidecar import columns_of, parse_json, parse_text

SIDECARS = {".txt": "text", ".caption": "text", ".json": "json"}
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
MAX_SIDECAR_BYTES = 4 * 2**20


def _stem(name: str) -> str:
    """Composed: some systems write "ä" as two characters, and the caption's file may come from another system."""
    return unicodedata.normalize("NFC", stem_of(name))


def read_folder(path: Path, options: Options) -> Iterator[Draft]:
    """A draft for every stem with a medium; media of different kinds with one stem are one sample."""
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that it lies in")
    files = Files(path, allow_outside=options.allow_outside)
    num_folders = max(1, sum(1 for _ in walk(path)))
    for number, (folder, names) in enumerate(walk(path)):
        prefix = f"{folder}/" if folder else ""
        samples = _samples(names)
        for index, (stem, media, sidecars) in enumerate(samples):
            yield Draft(
                prefix + stem,
                lambda p=prefix, m=media, s=sidecars: _load(files, p, m, s, options),  # type: ignore[misc]
                split_in_path(folder),
                Path(folder).name if options.concept_folders else "",
                (number + index / len(samples)) / num_folders,
            )


def _samples(names: list[str]) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """(stem, kind to file, sidecar type to file) of each sample among the files of one folder."""
    media: dict[str, list[tuple[str, str]]] = {}
    sidecars: dict[str, dict[str, str]] = {}
    for name in names:
        suffix = suffix_of(name)
        if suffix in KIND_OF_SUFFIX:
            media.setdefault(_stem(name), []).append((KIND_OF_SUFFIX[suffix], name))
        elif suffix in SIDECARS:
            sidecars.setdefault(_stem(name), {})[SIDECARS[suffix]] = name
    samples = []
    for stem, found in media.items():
        if len(dict(found)) == len(found):
            samples.append((stem, dict(found), sidecars.get(stem, {})))
        else:  # cat.jpg and cat.png are two samples, which share their words
            samples += [(name, {kind: name}, sidecars.get(stem, {})) for kind, name in found]
    return samples


def _load(
    files: Files, prefix: str, media: dict[str, str], sidecars: dict[str, str], options: Options
) -> dict[str, Any]:
    fields = (
        parse_json(_read(files, prefix + sidecars["json"]), sidecars["json"]) if "json" in sidecars else {}
    )
    text = (
        parse_text(_read(files, prefix + sidecars["text"]), sidecars["text"]) if "text" in sidecars else None
    )
    row = columns_of(fields, text)
    if options.concept_folders and prefix:
        row["concept"] = prefix.split("/")[-2]
    for kind, name in media.items():
        row[kind] = files.read(kind, prefix + name)
    return row


def _read(files: Files, name: str) -> bytes:
    path = files.resolve(name)
    if (size := path.stat().st_size) > MAX_SIDECAR_BYTES:
        raise ValueError(f"{name}: holds {size:,} bytes; a sidecar has at most {MAX_SIDECAR_BYTES:,}")
    return path.read_bytes()


def unread_tables(path: Path) -> list[str]:
    """Tables in a folder that was read as media with sidecars: what they say of the media was not taken."""
    return [
        f"{folder}/{name}" if folder else name
        for folder, names in walk(path)
        for name in names
        if suffix_of(name) in TABLES
    ]


def lonely_sidecars(path: Path) -> list[str]:
    """Text files named as if they described a medium, in folders that hold media, without one of their name."""
    lonely = []
    for folder, names in walk(path):
        stems = {_stem(name) for name in names if suffix_of(name) in KIND_OF_SUFFIX}
        if stems:
            lonely += [
                f"{folder}/{name}" if folder else name
                for name in names
                if suffix_of(name) in SIDECARS and _stem(name) not in stems
            ]
    return lonely
