"""Filtering and captioning: functions from rows to verdicts, with nothing of where they run.

Whatever needs a model is handed in as a factory that workers call, so that this room knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sensorium.data.engines import VERDICT_SCHEMA, Function
from sensorium.data.language import language_detector
from sensorium.data.vectors import (
    WAITING_BYTES,
    Decoded,
    Embedder,
    Encoded,
    ModelFactory,
    Part,
    decode_medium,
    encode_rows,
    media_of,
    rows_of,
    text_of,
)
from sensorium.media.errors import MediaError

MIN_DETECTED_CHARS = 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sample must keep to; None and "" ask for nothing. Every medium of a sample must.

    Args:
        min_pixels, max_pixels: height times width of a picture.
        min_side: shorter side of a picture.
        max_aspect: longer by shorter side of a picture or video, at least 1.
        min_seconds, max_seconds: length of a sound or video.
        min_chars, max_chars: letters of the text, or of all text in the messages.
        languages: two-letter codes; a sample without a language is detected by its text.
        min_alignment: cosine of medium and text by a model.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    languages: tuple[str, ...] = ()
    min_alignment: float | None = None

    @property
    def needs_media(self) -> bool:
        """Whether media must be decoded."""
        limits = (self.min_pixels, self.max_pixels, self.min_side, self.max_aspect)
        return any(
            limit is not None for limit in (*limits, self.min_seconds, self.max_seconds, self.min_alignment)
        )

    def of_text(self, row: Mapping[str, Any], detect: Callable[[str], str]) -> str | None:
        """Why the words of a sample are not wanted, or None."""
        text = text_of(row)
        reason = _outside("characters", len(text), self.min_chars, self.max_chars)
        if reason or not self.languages:
            return reason
        # One or two words are too little to tell a language by.
        language = row.get("language") or (detect(text) if len(text) >= MIN_DETECTED_CHARS else "")
        if not language or language in self.languages:
            return None
        return f"language: {language} is not {' or '.join(self.languages)}"

    def of_medium(self, medium: Decoded) -> str | None:
        """Why a medium is not wanted, or None."""
        reason = None
        if medium.size is not None:
            height, width = medium.size
            aspect = max(height, width) / min(height, width)
            # Frames of a video are shrunk on decoding, so only their shape is known here.
            if medium.kind == "image":
                reason = _outside(
                    "pixels", height * width, self.min_pixels, self.max_pixels, f" ({width} x {height})"
                ) or _outside("side", min(height, width), self.min_side, None, f" ({width} x {height})")
            reason = reason or _outside("aspect", aspect, None, self.max_aspect, f" ({width} x {height})")
        if medium.duration_s is not None:
            reason = reason or _outside("seconds", medium.duration_s, self.min_seconds, self.max_seconds)
        return reason


def _outside(
    name: str, value: float, least: float | None, most: float | None, detail: str = ""
) -> str | None:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    if least is not None and value < least:
        return f"{name}: {shown}{detail} is under {least:,}"
    if most is not None and value > most:
        return f"{name}: {shown}{detail} is over {most:,}"
    return None


def _detector() -> Callable[[str], str]:
    """A function from text to the code of its language.

    Raises:
        ValueError: the package that detects languages is not installed.
    """
    detect = language_detector()
    if detect is None:
        raise ValueError(
            "--language needs py3langid for samples whose language is not stated; "
            "install it with pip install 'sensorium[curate]'"
        )
    return lambda text: detect(text)[0]


def alignment(encoded: Encoded) -> float | None:
    """The least cosine of a sample's media with its text; None where one of them is missing."""
    media = [vector for kind, vector in zip(encoded.kinds, encoded.vectors, strict=True) if kind != "text"]
    if not media or encoded.kinds[-1] != "text":
        return None
    return float(min(vector @ encoded.vectors[-1] for vector in media))


@dataclass(frozen=True)
class Filter:
    """The job of `sensorium data filter`: verdicts by limits, and by the alignment that a model sees.

    Only the short form has an alignment: what of a conversation belongs to which medium is not known.
    """

    limits: Limits
    model: ModelFactory | None = None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Media are read where a limit is on media."""
        return None if self.limits.needs_media else ("id", "language", "text", "messages")

    def open(self) -> Function:
        """Load the model and the detector of languages, where they are needed."""
        detect = _detector() if self.limits.languages else str
        embedder = self.model() if self.model and self.limits.min_alignment is not None else None
        return lambda table: self._judge(rows_of(table), detect, embedder)

    def asked(self) -> dict[str, Any]:
        """The limits, and the model that scores."""
        return {
            "verb": "filter",
            "limits": asdict(self.limits),
            "model": self.model.asked() if self.model else None,
        }

    def _judge(
        self, rows: list[dict[str, Any]], detect: Callable[[str], str], embedder: Embedder | None
    ) -> pa.Table:
        verdicts: list[dict[str, Any]] = [{"reason": self.limits.of_text(row, detect)} for row in rows]
        kept = [index for index, verdict in enumerate(verdicts) if not verdict["reason"]]
        if not self.limits.needs_media:
            return pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA)
        short = [index for index in kept if not rows[index].get("messages")]
        for indices, scorer in ((short, embedder), (sorted(set(kept) - set(short)), None)):
            found = encode_rows(
                [rows[index] for index in indices],
                scorer,
                lambda row, media: next(filter(None, map(self.limits.of_medium, media)), None),
            )
            for index, encoded in zip(indices, found, strict=True):
                verdicts[index] = self._verdict(encoded)
        return pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA)

    def _verdict(self, encoded: Encoded) -> dict[str, Any]:
        score = alignment(encoded) if encoded.vectors else None
        least = self.limits.min_alignment
        if encoded.reason or score is None or least is None:
            return {"reason": encoded.reason}
        # Four places: the last bits of a cosine differ between machines.
        shown = f"{score:.4f}"
        if float(shown) < least:
            return {"reason": f"alignment: {shown} is under {least:g}"}
        return {"metadata": [("alignment", shown)]}


@dataclass(frozen=True)
class Caption:
    """The job of `sensorium data caption`: a text by a model for samples of media without one."""

    model: ModelFactory
    name: str
    max_tokens: int = 64
    columns: None = None

    def open(self) -> Function:
        """Load the model."""
        embedder = self.model()
        return lambda table: self._caption(rows_of(table), embedder)

    def asked(self) -> dict[str, Any]:
        """The model and the length of its texts."""
        return {
            "verb": "caption",
            "model": self.model.asked(),
            "name": self.name,
            "max_tokens": self.max_tokens,
        }

    def _caption(self, rows: list[dict[str, Any]], embedder: Embedder) -> pa.Table:
        verdicts: list[dict[str, Any]] = [{} for _ in rows]
        for batch in self._batches(rows, verdicts, embedder):
            texts = embedder.caption([parts for _, parts in batch], self.max_tokens)
            for (index, _), text in zip(batch, texts, strict=True):
                if text.strip():
                    marks = [("caption_model", self.name), ("generated", "true")]
                    verdicts[index] = {"text": text.strip(), "metadata": marks}
        return pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA)

    def _batches(
        self, rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], embedder: Embedder
    ) -> Iterator[list[tuple[int, list[Part]]]]:
        """Rows to caption with their media, few enough to lie in memory; what does not decode is rejected."""
        batch: list[tuple[int, list[Part]]] = []
        num_bytes = 0
        for index, row in enumerate(rows):
            if row.get("messages") or text_of(row) or not media_of(row):
                continue
            try:
                media = [decode_medium(kind, medium) for kind, medium in media_of(row)]
            except MediaError as error:
                verdicts[index] = {"reason": f"media: {error}"}
                continue
            kinds = {"image" if medium.kind == "video" else medium.kind for medium in media}
            if kinds <= set(embedder.modalities):
                batch.append((index, [medium.part for medium in media]))
                num_bytes += sum(medium.num_bytes for medium in media)
            if num_bytes > WAITING_BYTES:
                yield batch
                batch, num_bytes = [], 0
        if batch:
            yield batch
