"""The kinds of finding of `sensorium data check`, and what a check hands back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sensorium.data.scan import Rows

# Of every kind all are counted and this many are kept with id and reason.
MAX_LISTED = 10_000
MEDIA_NAMES = {"image": "pictures", "audio": "sounds", "video": "videos"}


@dataclass(frozen=True)
class Kind:
    """A kind of finding: how bad it is, what it means, and what to do."""

    severity: str
    meaning: str
    mend: str


_AGAIN = "fetch or export the file again, or drop the row"
KINDS: dict[str, Kind] = {
    "file": Kind("error", "files that cannot be read", "write them again with `sensorium data import`"),
    "schema": Kind("error", "rows that break the schema", "mend the rows; docs/data.md explains every column"),
    "placeholders": Kind("error", "placeholders and media differ", "give one medium for each placeholder, in order"),
    "document": Kind("error", "rows that give no document", "choose templates that fit the rows, or mend them"),
    "medium_empty": Kind("error", "media with nothing in them", "put the encoded file into the row, or drop it"),
    "medium_damaged": Kind("error", "damaged or truncated media", _AGAIN),
    "medium_format": Kind("error", "media of another format than their column", "convert them, or move them"),
    "medium_header": Kind("error", "media with an impossible header", _AGAIN),
    "medium_too_large": Kind("error", "media over the hard limits", "shrink them or cut them into pieces"),
    "medium_values": Kind("error", "sounds with impossible samples", "scale them to [-1, 1] and export again"),
    "id_twice": Kind("error", "ids that occur twice", "give every sample its own id"),
    "leak_medium": Kind("error", "the same medium in two splits", "keep one: `sensorium data dedup --compare media`"),
    "leak_near": Kind("warning", "pictures that look alike in two splits", "look at them; `sensorium data dedup --near --compare media`"),
    "leak_concept": Kind("warning", "concepts in two splits", "split by concept: `sensorium.data.splits.split_of`"),
    "duplicate": Kind("warning", "rows with the same media and text", "`sensorium data dedup` keeps one of each"),
    "too_long": Kind("warning", "samples too long for the recipe: left out", "raise --data.row-length or max_size, or cut them"),
    "large": Kind("warning", "media over the budget", "shrink or cut them, or raise the budget"),
    "small": Kind("warning", "pictures with hardly a pixel", "find larger ones, or drop the rows"),
    "short": Kind("warning", "sounds shorter than a click", "check how they were cut, or drop the rows"),
    "blank": Kind("warning", "pictures of one colour", "drop the rows: `sensorium data filter`"),
    "silent": Kind("warning", "sounds in which nothing is heard", "drop the rows"),
    "clipped": Kind("warning", "sounds cut off at full scale", "export them again with less gain"),
    "aspect": Kind("warning", "pictures much longer than wide, or the reverse", "crop them, or drop the rows"),
    "near": Kind("note", "pictures that look alike within a split", "`sensorium data dedup` can remove them"),
    "overlap": Kind("note", "the same medium in two of the paths", "train on one of them, or test on neither"),
    "leak_text": Kind("note", "the same text in two splits", "nothing, where the media differ"),
    "concept_split": Kind("note", "concepts in another split than the rule's", "mix only with data split the same way"),
    "no_text": Kind("warning", "media without words: no template fits, they are left out", "`sensorium data caption` writes some"),
    "not_read": Kind("note", "media that the recipe does not read", "choose a recipe with that modality"),
    "language": Kind("note", "texts that seem to be in another language", "mend the column `language`"),
    "license": Kind("note", "licence or attribution is unknown", "find it out before you publish data or weights"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the sample, where that lies, and why; `measure` orders the worst first."""

    kind: str
    id: str
    file: str
    row: int
    reason: str
    number: int = -1
    other: int = -1
    measure: float = 0.0

    @property
    def name(self) -> str:
        """What to call the sample: its id, or where it lies."""
        place = f"row {self.row} of {self.file}" if self.row >= 0 else self.file
        return "".join(char if char.isprintable() else " " for char in self.id) or place

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": KINDS[self.kind].severity,
            "id": self.id,
            "file": self.file,
            "row": self.row,
            "reason": self.reason,
        }


@dataclass
class CheckResult:
    """What a check found.

    Args:
        counts: by kind of finding, complete.
        findings: by kind, at most `MAX_LISTED` each.
        skipped: what was not looked for, and how it would be.
        sample: kind of medium -> (row number, ordinal among its row's media) of a random few.
    """

    rows: Rows
    num_rows: int = 0
    num_media: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    sample: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, finding: Finding, count: int = 1) -> None:
        """Count a finding, and keep it while there is room."""
        self.counts[finding.kind] += count
        listed = self.findings.setdefault(finding.kind, [])
        if len(listed) < MAX_LISTED:
            listed.append(finding)

    def num(self, severity: str) -> int:
        """How many findings of a severity there are."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].severity == severity)

    @property
    def media(self) -> str:
        """How many media there are, in words."""
        counts = [
            f"{self.num_media[kind]:,} {MEDIA_NAMES[kind]}" for kind in MEDIA_NAMES if self.num_media[kind]
        ]
        return ", ".join(counts) or "no media"

    def kinds(self) -> list[str]:
        """Kinds that were found, the worst first."""
        return [kind for kind in KINDS if self.counts[kind]]
