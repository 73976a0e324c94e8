"""What is wrong, or only odd, with one medium."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from sensorium.data.scan import decode_medium
from sensorium.media.audio import SAMPLE_RATE
from sensorium.media.errors import MediaError

# -60 dB of full scale: softer than the noise of a quiet room in any recording.
SILENT_PEAK = 1e-3
# Levels of eight bits: a picture whose colours differ by less shows nothing.
BLANK_RANGE = 2
CLIPPED_LEVEL, CLIPPED_SHARE = 0.999, 0.01

_REASONS = (
    ("medium_empty", ("is empty", "holds no samples", "holds no picture", "holds only", "has no")),
    ("medium_damaged", ("is a damaged",)),
    ("medium_too_large", ("lasts longer",)),
    ("medium_header", ("states",)),
    ("medium_values", ("holds NaN", "holds samples up to")),
)


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a sample should cost at most; more is a warning.

    Args:
        max_pixels: height times width.
        max_duration_s: of a sound or a video.
        max_bytes: of an encoded medium.
        max_aspect: longer side over shorter side.
        min_duration_s: shorter sounds are clicks.
        min_side: pixels of the shorter side.
    """

    max_pixels: int = 16_000_000
    max_duration_s: float = 60.0
    max_bytes: int = 16 * 2**20
    max_aspect: float = 8.0
    min_duration_s: float = 0.05
    min_side: int = 8


@dataclass
class MediumFacts:
    """One decoded medium; `oddities` are (kind of finding, reason, how bad)."""

    kind: str
    medium: Mapping[str, Any]
    plain: np.ndarray
    height: int = 0
    width: int = 0
    duration_s: float = 0.0
    look: tuple[int, int] = (0, 0)
    num_bytes: int = 0
    oddities: list[tuple[str, str, float]] = field(default_factory=list)


def examine(
    kind: str,
    medium: Mapping[str, Any],
    budgets: Budgets,
    look_hash: Callable[[np.ndarray], tuple[int, int]] | None = None,
) -> MediumFacts:
    """Decode a medium and look at it.

    Raises:
        MediaError: it does not decode; `reason_of` says of which kind that is.
    """
    plain, times_s = decode_medium(kind, medium)
    facts = MediumFacts(kind, medium, plain, num_bytes=len(medium["bytes"]))
    if facts.num_bytes > budgets.max_bytes:
        found = f"{facts.num_bytes:,} bytes, more than the {budgets.max_bytes:,} of the budget"
        facts.oddities.append(("large", found, facts.num_bytes / budgets.max_bytes))
    if kind == "audio":
        _examine_sound(facts, budgets)
    else:
        _examine_pixels(facts, budgets)
        if times_s is not None:
            facts.duration_s = float(times_s[-1])
            _check_duration(facts, budgets)
        if kind == "image" and look_hash and not any(o[0] == "blank" for o in facts.oddities):
            facts.look = look_hash(plain)
    return facts


def reason_of(error: MediaError) -> str:
    """The kind of finding that an undecodable medium is."""
    _, found, expected, _ = error.args
    if "accepted" in expected:
        return "medium_too_large"
    if found.startswith("measures"):
        return "medium_header"
    return next((kind for kind, starts in _REASONS if found.startswith(starts)), "medium_format")


def _examine_pixels(facts: MediumFacts, budgets: Budgets) -> None:
    pixels = facts.plain
    facts.height, facts.width = pixels.shape[-3:-1]
    size = f"{facts.width:,} x {facts.height:,} pixels"
    if facts.height * facts.width > budgets.max_pixels:
        share = facts.height * facts.width / budgets.max_pixels
        facts.oddities.append(("large", f"{size}, more than the {budgets.max_pixels:,} of the budget", share))
    if min(facts.height, facts.width) < budgets.min_side:
        found = f"{size}; the shorter side has less than {budgets.min_side}"
        facts.oddities.append(("small", found, 1 / min(facts.height, facts.width)))
    aspect = max(facts.height, facts.width) / min(facts.height, facts.width)
    if aspect > budgets.max_aspect:
        found = f"{size}: one side is {aspect:.1f} times the other"
        facts.oddities.append(("aspect", found, aspect))
    # Pillow's extremes are twenty times as quick as numpy's over a last axis of three.
    extremes: Any = Image.fromarray(pixels.reshape(-1, facts.width, 3)).getextrema()
    if all(high - low <= BLANK_RANGE for low, high in extremes):
        colour = tuple(low for low, _ in extremes)
        facts.oddities.append(("blank", f"{size} of one colour, about rgb{colour}", 1.0))


def _examine_sound(facts: MediumFacts, budgets: Budgets) -> None:
    loudness = np.abs(facts.plain)
    facts.duration_s = facts.plain.size / SAMPLE_RATE
    _check_duration(facts, budgets)
    if facts.duration_s < budgets.min_duration_s:
        found = f"{facts.duration_s * 1000:.2g} ms, less than {budgets.min_duration_s * 1000:g} ms"
        facts.oddities.append(("short", found, 1 / facts.duration_s))
    peak = float(loudness.max())
    if peak < SILENT_PEAK:
        facts.oddities.append(("silent", f"the loudest sample is {peak:.1g} of full scale", 1 - peak))
    clipped = float((loudness >= CLIPPED_LEVEL).mean())
    if clipped > CLIPPED_SHARE:
        facts.oddities.append(("clipped", f"{clipped:.1%} of its samples are at full scale", clipped))


def _check_duration(facts: MediumFacts, budgets: Budgets) -> None:
    if facts.duration_s > budgets.max_duration_s:
        found = f"{facts.duration_s:.1f} s, more than the {budgets.max_duration_s:g} s of the budget"
        facts.oddities.append(("large", found, facts.duration_s / budgets.max_duration_s))
