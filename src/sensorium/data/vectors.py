"""Media and words of samples as a model takes them, and the vectors that it gives.

Whatever needs a model is handed in as a factory that workers call, so that this room knows no model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.engines import (
    Function,
    Progress,
    Results,
    check_out,
    compute,
    find_units,
    inputs_asked,
)
from sensorium.data.schema import MEDIA_LISTS
from sensorium.media.audio import SAMPLE_RATE, decode_audio
from sensorium.media.errors import MediaError
from sensorium.media.image import decode_image
from sensorium.media.parts import Audio, Image

Part = str | Image | Audio
# Decoded media that wait for the model together: what bounds memory is not how many rows a group has.
WAITING_BYTES = 128 * 2**20
MAX_EMBEDDED_CHARS = 2048

VECTORS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("reason", pa.string()),
        ("kinds", pa.list_(pa.string())),
        ("vectors", pa.list_(pa.list_(pa.float32()))),
    ]
)
OUT_SCHEMA = pa.schema([("id", pa.string()), ("kind", pa.string()), ("vector", pa.list_(pa.float32()))])
FILE_VECTORS = 100_000
_NUM_DAMAGED = 20


class Embedder(Protocol):
    """A model as it is used here."""

    @property
    def modalities(self) -> Collection[str]:
        """Names of the media it takes."""

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        """Unit vectors, float32 ``[len(items), latent_dim]``."""

    def caption(self, prompts: Sequence[Sequence[Part]], max_tokens: int) -> list[str]:
        """A text for each list of media."""


class ModelFactory(Protocol):
    """Loads a model in a worker."""

    def __call__(self) -> Embedder:
        """Load it."""

    def asked(self) -> dict[str, Any]:
        """What tells this model from others, as JSON values."""


@dataclass(frozen=True)
class Decoded:
    """A medium of a sample, ready for a model. ``size`` is (height, width) of what has one."""

    kind: str
    part: Image | Audio
    num_bytes: int
    size: tuple[int, int] | None = None
    duration_s: float | None = None


def media_of(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The media of a sample of either form, as (kind, medium)."""
    found = [(kind, row[kind]) for kind in MEDIA_LISTS if row.get(kind)]
    return found + [(kind, value) for kind, column in MEDIA_LISTS.items() for value in row.get(column) or ()]


def text_of(row: Mapping[str, Any]) -> str:
    """The words of a sample: its text, or those of all its messages, one part a line."""
    if row.get("messages"):
        parts = (part for message in row["messages"] for part in message["content"])
        return "\n".join(part["text"] or "" for part in parts if part["type"] == "text").strip()
    return (row.get("text") or "").strip()


def decode_medium(kind: str, medium: Mapping[str, Any]) -> Decoded:
    """Decode one medium; of a video the middle frame stands for the whole.

    Raises:
        MediaError: it does not decode, or the shard holds only its path.
    """
    data, name = medium.get("bytes"), medium.get("path") or kind
    if not data:
        raise MediaError(name, "has no bytes", "expected the encoded file", "import the data again")
    if kind == "image":
        pixels = decode_image(data, name=name)
        return Decoded(kind, Image(pixels), pixels.nbytes, pixels.shape[:2])
    if kind == "audio":
        waveform = decode_audio(data, name=name)
        return Decoded(
            kind, Audio((waveform, SAMPLE_RATE)), waveform.nbytes, None, len(waveform) / SAMPLE_RATE
        )
    from sensorium.media.video import decode_video

    frames, times_s = decode_video(data, name=name)
    middle = frames[len(frames) // 2].copy()
    # The last frame is shown as long as the others are on average.
    duration_s = float(times_s[-1]) * len(times_s) / max(1, len(times_s) - 1)
    return Decoded(kind, Image(middle), middle.nbytes, middle.shape[:2], duration_s)


@dataclass
class Encoded:
    """The vectors of a sample, one for each medium and one for its text, or why there are none."""

    reason: str | None = None
    kinds: list[str] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    embedder: Embedder | None,
    judge: Callable[[Mapping[str, Any], Sequence[Decoded]], str | None] = lambda row, media: None,
) -> list[Encoded]:
    """Decode the media of samples, judge them, and embed those that pass, in batches of bounded memory.

    Args:
        rows: samples.
        embedder: without one nothing is embedded. Media of kinds it does not take are left out.
        judge: a sample and its media -> why it is not wanted, or None.
    """
    encoded = [Encoded() for _ in rows]
    waiting: list[tuple[int, str, Part]] = []
    num_bytes = 0

    def flush() -> None:
        nonlocal num_bytes
        if waiting and embedder:
            vectors = embedder.embed([part for _, _, part in waiting])
            for (index, kind, _), vector in zip(waiting, vectors, strict=True):
                encoded[index].kinds.append(kind)
                encoded[index].vectors.append(vector)
        waiting.clear()
        num_bytes = 0

    for index, row in enumerate(rows):
        try:
            media = [decode_medium(kind, medium) for kind, medium in media_of(row)]
        except MediaError as error:
            encoded[index].reason = f"media: {error}"
            continue
        encoded[index].reason = judge(row, media)
        if encoded[index].reason or embedder is None:
            continue
        for medium in media:
            if ("image" if medium.kind == "video" else medium.kind) in embedder.modalities:
                waiting.append((index, medium.kind, medium.part))
                num_bytes += medium.num_bytes
        if text := text_of(row)[:MAX_EMBEDDED_CHARS]:
            waiting.append((index, "text", text))
        if num_bytes > WAITING_BYTES:
            flush()
    flush()
    return encoded


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain values."""
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return rows


@dataclass(frozen=True)
class Embed:
    """The job of `sensorium data embed`: vectors of every medium and text."""

    model: ModelFactory
    columns: None = None

    def open(self) -> Function:
        """Load the model."""
        embedder = self.model()
        return lambda table: vectors_table(rows_of(table), embedder)

    def asked(self) -> dict[str, Any]:
        """The model."""
        return {"verb": "embed", "model": self.model.asked()}


def vectors_table(rows: Sequence[Mapping[str, Any]], embedder: Embedder) -> pa.Table:
    """The vectors of samples, a row for each sample (`VECTORS_SCHEMA`)."""
    found = encode_rows(rows, embedder)
    return pa.Table.from_pydict(
        {
            "id": [row["id"] for row in rows],
            "reason": [encoded.reason for encoded in found],
            "kinds": [encoded.kinds for encoded in found],
            "vectors": [[vector.astype(np.float32) for vector in encoded.vectors] for encoded in found],
        },
        schema=VECTORS_SCHEMA,
    )


def embed_shards(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    job: Embed,
    *,
    engine: str = "local",
    num_workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a row (id, kind, vector) for every medium and every text of some shards, in their order.

    An interrupted run is continued by the same call, with any engine, and gives the same file.

    Args:
        inputs: Parquet files and folders of them.
        out: a file ending in .parquet, or a folder, which gets files of about a hundred thousand vectors.
        job: the model.
        engine, num_workers: see `engines.compute`.
        progress: called after every unit.

    Returns:
        Counts: ``rows``, ``vectors`` (by kind), ``without`` (samples that gave none) and ``damaged`` (the first
        reasons, by id, and how many).

    Raises:
        FileExistsError: there is such a file or folder already.
        ValueError: what was begun there is something else.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already; choose another name, or delete it")
    check_out(out, inputs)
    units = find_units(inputs)
    work = out.with_name(out.name + ".work")
    _check_asked(work, {**job.asked(), "inputs": inputs_asked(units), "folder": out.suffix != ".parquet"})
    results = compute(units, job, work / "results", engine=engine, num_workers=num_workers, progress=progress)
    if out.suffix == ".parquet":
        counts = _write_vectors(results, work / out.name, per_file=None)
        os.replace(work / out.name, out)
    else:
        counts = _write_vectors(results, work / "vectors", per_file=FILE_VECTORS)
        os.replace(work / "vectors", out)
    shutil.rmtree(work)
    return counts


def _check_asked(work: Path, asked: Mapping[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    note, text = work / "asked.json", json.dumps(asked, sort_keys=True)
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise ValueError(f"{work} holds the beginning of something else; delete it, or choose another --out")
    partial = note.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, note)


def _write_vectors(results: Results, out: Path, *, per_file: int | None) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    counts = {"rows": 0, "without": 0, "damaged": 0}
    if per_file is not None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    writer: pq.ParquetWriter | None = None
    number = written = 0
    try:
        for unit, table in results:
            if writer is None or (per_file is not None and written >= per_file):
                if writer:
                    writer.close()
                name = out if per_file is None else out / f"vectors-{number:05d}.parquet"
                writer, number, written = (
                    pq.ParquetWriter(name, OUT_SCHEMA, compression="zstd"),
                    number + 1,
                    0,
                )
            counts["rows"] += unit.num_rows
            lines: list[dict[str, Any]] = []
            for row in table.to_pylist():
                counts["without"] += not row["kinds"]
                if row["reason"]:
                    counts["damaged"] += 1
                    if len(damaged) < _NUM_DAMAGED:
                        damaged[row["id"]] = row["reason"]
                for kind, vector in zip(row["kinds"], row["vectors"], strict=True):
                    kinds[kind] += 1
                    lines.append({"id": row["id"], "kind": kind, "vector": vector})
            writer.write_table(pa.Table.from_pylist(lines, schema=OUT_SCHEMA))
            written += len(lines)
    finally:
        if writer:
            writer.close()
    return {**counts, "vectors": dict(sorted(kinds.items())), "first_damaged": damaged}
