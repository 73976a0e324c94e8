"""What a source of the full starter data states of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.starter.builder.packages import Package

# Twice the embedded sample's: small enough to travel, large enough for 64 px recipes to crop and zoom.
FULL_PICTURE_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class FullSource:
    """One source: a folder of shards of its own.

    Args:
        name: of the folder, and the `source` of every row.
        task: what the rows teach ("picture-text", "picture-text-speech", "transcription", "sound", "text",
            "question", "drawing-code", "clip", "edit", "region", "synthetic-speech"); counted in the data card.
        packages: what it is made from.
        rows: makes the rows, in a fixed order, from the folder of packages.
        tools: commands that must be there, each with the command that installs it.
    """

    name: str
    task: str
    packages: tuple[Package, ...]
    rows: Callable[[Path], Iterable[dict[str, Any]]]
    tools: tuple[tuple[str, str], ...] = ()
