"""A row with its media decoded, as the templates see it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sensorium.config import ModelConfig
from sensorium.data.augment import augment
from sensorium.data.schema import MEDIA_LISTS
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.media.errors import MediaError
from sensorium.media.modality import get_modality
from sensorium.media.video import VideoLimits, decode_video
from sensorium.sequence.document import MediaSegment


class OverBudgetError(ValueError):
    """A sample that is sound but larger than this run allows; it is counted and left out."""


@dataclass
class Medium:
    """A medium ready for a segment: the clean signal, and what the model sees of it (augmented) as context."""

    modality: str
    clean_CHW: np.ndarray
    seen_CHW: np.ndarray
    patch: tuple[int, int]

    def segment(self, *, noisy: bool) -> MediaSegment:
        """A segment of the clean signal (noisy) or of what is seen (context)."""
        array = self.clean_CHW if noisy else self.seen_CHW
        grid = (array.shape[1] // self.patch[0], array.shape[2] // self.patch[1])
        return MediaSegment(self.modality, array, grid, noisy)


@dataclass
class Clip(Medium):
    """A video: frames, each a picture, and their times in seconds. As a medium it is its first frame."""

    frames: list[Medium]
    times_s: list[float]


@dataclass
class Sample:
    """What templates are filled with. ``media`` stand in the order of their parts."""

    id: str
    source: str
    text: str = ""
    concept: str = ""
    names: dict[str, str] = field(default_factory=dict)
    media: list[Medium] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Arrays:
    """The clean arrays ``[C, H, W]`` of one medium: one, or as many as a video has frames."""

    arrays: list[np.ndarray]
    times_s: list[float] | None = None

    @property
    def num_bytes(self) -> int:
        """Memory they take."""
        return sum(array.nbytes for array in self.arrays)


def media_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """(kind, medium, whether it is to be generated) of every medium of a row, in the order of its parts.

    Raises:
        ValueError: the messages have more or fewer media parts than there are media.
    """
    if not row.get("messages"):
        yield from ((kind, row[kind], False) for kind in MEDIA_LISTS if row.get(kind))
        return
    waiting = {kind: list(row.get(column) or ()) for kind, column in MEDIA_LISTS.items()}
    for message in row["messages"]:
        for part in message["content"]:
            kind = part["type"]
            if kind == "text":
                continue
            if not waiting.get(kind):
                raise ValueError(f"the messages have more {kind} parts than the sample has media")
            yield kind, waiting[kind].pop(0), message["role"] == "assistant"
    left = sum(map(len, waiting.values()))
    if left:
        raise ValueError(f"{left} of the sample's media have no part in its messages")


def decode_medium(
    kind: str,
    medium: Mapping[str, Any],
    sample_id: str,
    model: ModelConfig,
    *,
    max_frames: int = 8,
    cut: bool = False,
) -> Arrays:
    """Decode one medium to arrays that fit the model. ``cut`` shortens sounds that are too long.

    Raises:
        MediaError: it cannot be decoded, or the model has no such modality.
        OverBudgetError: a sound is longer than the model takes, and is not to be cut.
    """
    modality = "image" if kind == "video" else kind
    # The path comes last: its suffix tells formats that have no signature.
    name = f"{sample_id}: {medium.get('path') or kind}"
    if modality not in model.modalities:
        raise MediaError(
            name, f"is a {kind}", f"the model takes {', '.join(model.modalities)}", "leave it out"
        )
    if not medium.get("bytes"):
        raise MediaError(
            name, "has no bytes", "expected the encoded file in the row", "import the data again"
        )
    entry, config = get_modality(modality), model.modalities[modality]
    if kind == "video":
        frames, times = decode_video(medium["bytes"], name=name, limits=VideoLimits(max_frames=max_frames))
        return Arrays([entry.to_array(frame, config) for frame in frames], [float(t) for t in times])
    if entry.load:
        return Arrays([entry.load(medium["bytes"], name, config)])
    plain = entry.decode(medium["bytes"], name)
    if kind == "audio" and not cut and plain.size > config.max_size[0] * HOP_LENGTH:
        longest = config.max_size[0] * HOP_LENGTH / SAMPLE_RATE
        raise OverBudgetError(
            f"{name}: lasts {plain.size / SAMPLE_RATE:.2f} s, the model takes {longest:.2f} s"
        )
    return Arrays([entry.to_array(plain, config)])


def sample_of_row(
    row: Mapping[str, Any],
    model: ModelConfig,
    *,
    rng: np.random.Generator | None = None,
    strength: float = 0.0,
    keep_pixels: bool = False,
    max_frames: int = 8,
    decode: Callable[[int, str, Mapping[str, Any]], Arrays] | None = None,
) -> Sample:
    """Decode the media of a row.

    Args:
        rng: of the augmentation; None means none.
        strength: of the augmentation in [0, 1]. A row with media to be generated is never augmented: an edited
            picture must stay the edit of its source.
        keep_pixels: see ``augment``.
        max_frames: frames taken from a video.
        decode: (ordinal, kind, medium) -> arrays, where the caller keeps decoded arrays.

    Raises:
        MediaError: a medium cannot be decoded.
        OverBudgetError: a medium is larger than the model takes.
        ValueError: parts and media differ in number.
    """
    found = list(media_of(row))
    if any(generated for _, _, generated in found):
        rng = None

    # The times of what is said hold at one speed only, and several sounds that all take longer may not fit a row.
    has_one_speed = bool(row.get("segments")) or sum(kind == "audio" for kind, _, _ in found) > 1

    def seen(x_CHW: np.ndarray, modality: str) -> np.ndarray:
        """What the model sees of it as context."""
        if rng is None:
            return x_CHW
        num_frames = None
        if modality == "audio" and not has_one_speed:
            step, longest = model.modalities[modality].patch[0], model.modalities[modality].max_size[0]
            num_frames = range(step, longest + 1, step)
        return augment(x_CHW, rng, strength, keep_pixels=keep_pixels, num_frames=num_frames)

    media: list[Medium] = []
    for ordinal, (kind, medium, _) in enumerate(found):
        clean = (
            decode(ordinal, kind, medium)
            if decode
            else decode_medium(kind, medium, row["id"], model, max_frames=max_frames)
        )
        modality = "image" if kind == "video" else kind
        patch = model.modalities[modality].patch
        frames = [Medium(modality, x, seen(x, modality), patch) for x in clean.arrays]
        first = frames[0]
        if clean.times_s is not None:
            first = Clip("video", first.clean_CHW, first.seen_CHW, patch, frames, clean.times_s)
        media.append(first)
    return Sample(
        id=row["id"],
        source=row["source"],
        text=row.get("text") or "",
        concept=row.get("concept") or "",
        names=row.get("names") or {},
        media=media,
        messages=row.get("messages") or [],
        segments=row.get("segments") or [],
    )
