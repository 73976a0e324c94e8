"""What readers of foreign data share: drafts, options, names of splits, and the walk through a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensorium.data.splits import Split

JUNK = (".", "__MACOSX")  # what systems leave beside a user's files
COMPOUND = (".tar.gz", ".tar.bz2", ".tar.xz", ".nii.gz")

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# A word of its own: "train-00000.parquet" and "val2017/", not "latest.json".
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])")


@dataclass(frozen=True)
class Draft:
    """A sample that was found and not read yet, so that one that is done already costs nothing.

    Args:
        id: unique in the whole import.
        load: reads the media and returns columns of the sample; None leaves the sample out without blame. A
            ValueError or OSError says why the sample cannot be used.
        split: as the data state it; "" where they do not.
        group: samples of one group share a split when none is stated: a concept, a picture, a patient.
        at: how much of the input lies before this sample, from 0 to 1.
    """

    id: str
    load: Callable[[], dict[str, Any] | None]
    split: str = ""
    group: str = ""
    at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may say about an import; `sensorium data import --help` explains each.

    Args:
        columns: our name to the column of a table.
    """

    split: str = "auto"
    source: str = ""
    license: str = "unknown"
    attribution: str = "unknown"
    language: str = ""
    media_root: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    concept_folders: bool = False
    allow_outside: bool = False
    allow_burned_in: bool = False


def failed(sample_id: str, reason: str, *, split: str = "", group: str = "", at: float = 0.0) -> Draft:
    """A draft of a sample that is known to be unusable already."""

    def load() -> dict[str, Any]:
        raise ValueError(reason)

    return Draft(sample_id, load, split, group, at)


def stated_split(value: Any) -> str:
    """The split that the value of a column names, "" where it names none."""
    return _SPLITS.get(str(value).strip().lower(), "") if value is not None else ""


def split_in_path(path: str) -> str:
    """The split that a folder or a file name states, "" where none does; the outermost wins."""
    found = _SPLIT_WORD.search(path.lower())
    return _SPLITS[found[1]] if found else ""


def stem_of(name: str) -> str:
    """A path without its suffix; `.tar.gz` and the like count as one."""
    for suffix in COMPOUND:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return os.path.splitext(name)[0]


def suffix_of(name: str) -> str:
    """The suffix of a file name in small letters, with its dot."""
    return name[len(stem_of(name)) :].lower()


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder, relative to the root, with its sorted file names: the same order everywhere.

    Names of one folder at a time are in memory. Hidden files are left out and links to folders not followed.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            kept = sorted((e for e in entries if not e.name.startswith(JUNK)), key=lambda entry: entry.name)
        yield folder, [entry.name for entry in kept if not entry.is_dir()]
        waiting += [
            f"{folder}/{entry.name}" if folder else entry.name
            for entry in reversed(kept)
            if entry.is_dir(follow_symlinks=False)
        ]


def find_files(path: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The files with these suffixes under a folder, or the file itself, each with its relative name."""
    if path.is_file():
        return [(path, path.name)]
    found = []
    for folder, names in walk(path):
        for name in names:
            if suffix_of(name) in suffixes:
                relative = f"{folder}/{name}" if folder else name
                found.append((path / relative, relative))
    return found


def clean(text: str) -> str:
    """Names that are not UTF-8 come from the system as surrogates, which no file of ours can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_text(value: Any) -> str:
    """Any value of a table as the text that `metadata` holds."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def metadata_of(values: Mapping[str, Any], used: set[str]) -> dict[str, str] | None:
    """What is left of a record after the columns that were used."""
    left = {k: as_text(v) for k, v in values.items() if k not in used and v is not None and v != ""}
    return left or None
