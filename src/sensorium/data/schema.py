"""The one table layout of every sample, and helpers that write and check single rows.

A sample is written in one of two forms. The short form is media and their words: any of `image`, `audio` and
`video`, and `text`. The long form is a conversation: `messages`, whose parts are text or placeholders, and the
lists `images`, `audios` and `videos` with the media in the order of their placeholders; media in an assistant's
turn are to be generated. Columns that a sample does not use are null; nullable columns that a file lacks are read
as null. Media are `struct<bytes, path>`, as the public hubs store them. `docs/data.md` explains every column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from sensorium.data.splits import SPLITS

SCHEMA_VERSION = 1

MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PART = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(PART))])
SEGMENT = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("language", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("attribution", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("names", pa.map_(pa.string(), pa.string())),
        pa.field("image", MEDIUM),
        pa.field("audio", MEDIUM),
        pa.field("video", MEDIUM),
        # What is said or seen when in the sound or the video, in order of time.
        pa.field("segments", pa.list_(SEGMENT)),
        pa.field("messages", pa.list_(MESSAGE)),
        pa.field("images", pa.list_(MEDIUM)),
        pa.field("audios", pa.list_(MEDIUM)),
        pa.field("videos", pa.list_(MEDIUM)),
        # Anything else worth keeping: voice, style, category, scores of filters.
        pa.field("metadata", pa.map_(pa.string(), pa.string())),
    ],
    metadata={"sensorium_schema_version": str(SCHEMA_VERSION)},
)

ROLES = ("system", "user", "assistant")
# The list column that holds the media of a placeholder part.
MEDIA_LISTS = {"image": "images", "audio": "audios", "video": "videos"}
PART_TYPES = ("text", *MEDIA_LISTS)
_COLUMNS = frozenset(SAMPLE_SCHEMA.names)
_STATED = tuple(field.name for field in SAMPLE_SCHEMA if not field.nullable)
_STRINGS = tuple(field.name for field in SAMPLE_SCHEMA if field.type == pa.string())
_MAPS = tuple(field.name for field in SAMPLE_SCHEMA if pa.types.is_map(field.type))


def medium(data: bytes, path: str) -> dict[str, Any]:
    """Return one value of a media column.

    Args:
        data: the encoded file.
        path: a file name whose suffix tells the format; nothing is read from it.
    """
    return {"bytes": data, "path": path}


def message(role: str, *parts: str | Mapping[str, str]) -> dict[str, Any]:
    """Return one message; a plain string is a text part, `{"type": "image"}` a placeholder."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else dict(part) for part in parts]
    return {"role": role, "content": content}


def check_row(row: Mapping[str, Any]) -> None:
    """Check what the column types cannot say about one sample.

    Raises:
        ValueError: a column is unknown or missing, the split is not one of ours, no form or both forms are
            used, a medium is empty, or placeholders and media differ in number.
    """
    name = f"sample {row.get('id')!r}"
    if not row.keys() <= _COLUMNS:
        unknown = min(row.keys() - _COLUMNS)
        raise ValueError(f"{name}: unknown column {unknown!r}; the columns are {SAMPLE_SCHEMA.names}")
    get = row.get  # most of a row is empty, and every row that is trained on comes by here
    for column in _STATED:
        if not get(column):
            raise ValueError(f"{name}: column {column!r} is empty; every sample must state it")
    for column in _STRINGS:
        if (value := get(column)) and not isinstance(value, str):
            raise ValueError(f"{name}: column {column!r} is not UTF-8; encode it again")
    for column in _MAPS:
        if not (pairs := get(column)):
            continue
        if not isinstance(pairs, Mapping):
            raise ValueError(f"{name}: {column!r} holds a key twice; keep one")
        if not all(isinstance(value, str) for value in pairs.values()):
            raise ValueError(f"{name}: {column!r} holds a null; give its text, or drop the key")
    try:
        _check_values(row, name)
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{name}: a null or another type where the messages, their parts or the segments need a value "
            f"({error}); fill it in or drop it"
        ) from error


def _check_values(row: Mapping[str, Any], name: str) -> None:
    if row["split"] not in SPLITS:
        raise ValueError(f"{name}: split {row['split']!r} is not one of {SPLITS}; take it from split_of")
    short = any(row.get(column) is not None for column in ("text", *MEDIA_LISTS))
    if short == (row.get("messages") is not None):
        found = "both forms" if short else "neither form"
        raise ValueError(f"{name}: {found}; give either image/audio/video/text or messages")
    for column, plural in MEDIA_LISTS.items():
        if row.get(column) is not None:
            _check_medium(row[column], f"{name}: {column}")
        if short and row.get(plural):
            raise ValueError(
                f"{name}: {', '.join(MEDIA_LISTS.values())} belong to messages; use "
                f"{', '.join(MEDIA_LISTS)} in the short form"
            )
    if row.get("segments"):
        _check_segments(row["segments"], name)
    if not short:
        _check_messages(row, name)


def _check_segments(segments: Iterable[Mapping[str, Any]], name: str) -> None:
    before = 0.0
    for number, segment in enumerate(segments):
        start, end = segment["start_s"], segment["end_s"]
        if not before <= start <= end < float("inf"):
            raise ValueError(
                f"{name}: segment {number} goes from {start} to {end} s; expected finite times in seconds, in "
                "order, each start at or after the one before"
            )
        if not isinstance(segment["text"], str):
            raise ValueError(f"{name}: segment {number} has no text; give it, or drop the segment")
        before = start


def _check_messages(row: Mapping[str, Any], name: str) -> None:
    parts: list[Mapping[str, Any]] = []
    for turn in row["messages"]:
        if turn["role"] not in ROLES:
            raise ValueError(f"{name}: role {turn['role']!r} is not one of {ROLES}")
        if not turn["content"]:
            raise ValueError(f"{name}: a message of the {turn['role']} has no part; drop it or give its text")
        parts.extend(turn["content"])
    if not parts:
        raise ValueError(f"{name}: the messages hold no part; give at least one text or medium")
    for part in parts:
        if part["type"] not in PART_TYPES:
            raise ValueError(f"{name}: part type {part['type']!r} is not one of {PART_TYPES}")
        if part["type"] == "text" and part.get("text") is None:
            raise ValueError(f"{name}: a text part has no text; drop the part or give its text")
    for kind, column in MEDIA_LISTS.items():
        media = row.get(column) or []
        num_placeholders = sum(part["type"] == kind for part in parts)
        if num_placeholders != len(media):
            raise ValueError(
                f"{name}: {num_placeholders} {kind} placeholder(s) but {len(media)} in {column}; "
                "give one medium for each placeholder, in order"
            )
        for index, value in enumerate(media):
            if value is None:
                raise ValueError(f"{name}: {column} holds a null; give every medium's bytes")
            _check_medium(value, f"{name}: {column}[{index}]")


def _check_medium(value: Mapping[str, Any] | None, name: str) -> None:
    # A path alone is a reference to a file beside the shard, which readers of the hubs allow too.
    if value is not None and not value.get("bytes") and not value.get("path"):
        raise ValueError(f"{name}: neither bytes nor path; give the encoded file")


def table_from_rows(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return checked rows as a table of `SAMPLE_SCHEMA`; columns left out are null."""
    checked = []
    for row in rows:
        check_row(row)
        checked.append({column: row.get(column) for column in SAMPLE_SCHEMA.names})
    return pa.Table.from_pylist(checked, schema=SAMPLE_SCHEMA)


def row_from_table(table: pa.Table, index: int) -> dict[str, Any]:
    """Return one row as plain Python values, `names` as a dictionary."""
    row: dict[str, Any] = table.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
    return row
