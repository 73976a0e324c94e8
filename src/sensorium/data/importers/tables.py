"""Tables whose columns are media and words: CSV, TSV, JSON lines, and Parquet of the `datasets` library."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sensorium.data.importers.base import (
    Draft,
    Options,
    failed,
    find_files,
    metadata_of,
    split_in_path,
    stated_split,
    suffix_of,
)
from sensorium.data.importers.columnar import (
    COLUMNAR_SUFFIXES,
    columnar_records,
    features_of,
    holds_bytes,
    schema_of,
)
from sensorium.data.importers.media import KIND_OF_SUFFIX, Files, sniff
from sensorium.data.importers.ours import is_ours, restored
from sensorium.data.importers.records import TEXT_SUFFIXES, Record, drafts_of, text_records
from sensorium.data.schema import MEDIA_LISTS, SAMPLE_SCHEMA

# Our column to the names that others give it, the likeliest first. "file" is a medium of whatever kind.
GUESSES: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "image_file", "img", "img_path", "picture", "photo", "jpg", "png"),
    "audio": ("audio", "audio_path", "audio_file", "audio_filepath", "wav", "wav_path", "sound", "speech"),
    "video": ("video", "video_path", "video_file", "clip"),
    "file": ("file_name", "filename", "file", "path", "filepath", "file_path"),
    "text": (
        *("text", "caption", "transcript", "transcription", "sentence", "description", "alt_text", "txt"),
        *("utterance", "title"),
    ),
    "concept": ("concept", "label", "class", "class_name", "category"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset", "partition", "set"),
    "license": ("license", "licence"),
    "attribution": ("attribution", "credit", "author"),
    "names": ("names",),
    "segments": ("segments",),
}
SETTABLE = (*GUESSES, "id", "source")
_FEATURES = {"Image": "image", "Audio": "audio", "Video": "video"}


def read_table(path: Path, options: Options) -> Iterator[Draft]:
    """Rows of text tables, or of all text tables of a folder."""
    files = find_files(path, TEXT_SUFFIXES)
    root = Path(options.media_root) if options.media_root else None
    for number, (file, name) in enumerate(files):
        media = Files(root or file.parent, allow_outside=options.allow_outside)
        make = RowMaker(media, options, name, features={})
        span = (number / len(files), (number + 1) / len(files))
        yield from drafts_of(text_records(file, options), name, span, make)


def read_datasets(path: Path, options: Options) -> Iterator[Draft]:
    """Rows of Parquet files, or of folders made by `save_to_disk`, of the `datasets` library."""
    files = find_files(path, COLUMNAR_SUFFIXES)
    root = Path(options.media_root) if options.media_root else None
    for number, (file, name) in enumerate(files):
        span = (number / len(files), (number + 1) / len(files))
        try:
            schema = schema_of(file)
        except ValueError:  # the same complaint comes as a bad record
            features = {}
        else:
            features = features_of(schema) or _plain_features(schema)
        media = Files(root or file.parent, allow_outside=options.allow_outside)
        make = RowMaker(media, options, name, features=features)
        yield from drafts_of(columnar_records(file), name, span, make)


class RowMaker:
    """Makes drafts of the records of one table; which column is what is decided by the first record.

    Args:
        name: of the table, for splits stated by a file or folder name and for errors.
        features: column to feature, as `datasets` notes them.
    """

    def __init__(self, media: Files, options: Options, name: str, *, features: Mapping[str, Any]) -> None:
        self.media, self.options, self.name, self.features = media, options, name, features
        self.split = split_in_path(name)
        self.columns: dict[str, str] = {}
        self._known: tuple[str, ...] | None = None

    def __call__(self, record: Record, sample_id: str) -> Draft:
        """The draft of a record."""
        values = record.values
        if is_ours(values):
            return restored(values, self.media)
        if self._known != tuple(values):
            # JSON lines may leave out what they do not have; only the first must show what the table is.
            asked = self.options.columns
            if self._known is not None:
                asked = {ours: column for ours, column in asked.items() if column in values}
            try:
                self.columns = guess_columns(values, asked, self.features, self.name)
            except ValueError as error:
                if self._known is None:
                    raise
                return failed(sample_id, str(error), split=self.split)
            self._known = tuple(values)
        taken = {ours: self._value(values, column) for ours, column in self.columns.items()}
        sample_id = str(taken["id"]) if taken.get("id") else sample_id
        group = next((taken[k] for k in ("concept", "image", "audio", "video", "file") if taken.get(k)), "")
        return Draft(
            sample_id,
            lambda: self._load(values, taken),
            stated_split(taken.get("split")) or self.split,
            group if isinstance(group, str) else "",
        )

    def _value(self, values: Mapping[str, Any], column: str) -> Any:
        value = values.get(column)
        feature = self.features.get(column)
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and isinstance(value, int):
            names = feature.get("names") or []
            return names[value] if 0 <= value < len(names) else None
        return value

    def _load(self, values: Mapping[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
        used = set(self.columns.values())
        # Media columns that were not chosen are left out; they must not be read, let alone become text.
        row: dict[str, Any] = {
            "metadata": metadata_of({k: v for k, v in values.items() if not callable(v)}, used)
        }
        for ours, given in taken.items():
            value = given() if callable(given) else given
            if value is None or value == "":
                continue
            if ours in (*MEDIA_LISTS, "file"):
                kind = _kind_of(value) if ours == "file" else ours
                if isinstance(value, list):
                    value = value[0] if len(value) == 1 else _too_many(ours, value)
                if row.get(kind) is not None:
                    raise ValueError(
                        f"columns {ours!r} and {kind!r} both hold a {kind}; choose with --columns"
                    )
                row[kind] = self.media.read(kind, value)
            elif ours in ("names", "segments"):
                row[ours] = structured(ours, value)
            elif ours not in ("id", "split"):
                row[ours] = str(value)
        if not any(row.get(column) is not None for column in ("text", *MEDIA_LISTS)):
            looked = ", ".join(
                repr(c) for o, c in self.columns.items() if o in ("text", "file", *MEDIA_LISTS)
            )
            raise ValueError(f"neither a medium nor text in {looked}; fill one of them")
        return row


def guess_columns(
    values: Mapping[str, Any], asked: Mapping[str, str], features: Mapping[str, Any], name: str
) -> dict[str, str]:
    """Our columns to those of a table: as asked, else by the feature, else by the name.

    Raises:
        ValueError: a column that was asked for does not exist, or no medium and no text was found.
    """
    chosen: dict[str, str] = {}
    for ours, column in asked.items():
        if ours not in SETTABLE:
            near = difflib.get_close_matches(ours, SETTABLE, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"--columns {ours}={column}: nothing is called {ours!r}; the nearest is {near!r}"
            )
        if column not in values:
            raise ValueError(f"{name} has no column {column!r}; it has {', '.join(map(repr, values))}")
        chosen[ours] = column
    lower = {column.lower(): column for column in reversed(list(values))}
    for column, feature in features.items():
        kind = _FEATURES.get(feature.get("_type", "")) if isinstance(feature, Mapping) else None
        if not kind or column not in values or column in chosen.values():
            continue
        # Of several pictures, the one that is called so; else the first.
        if kind not in chosen or (column.lower() == kind and kind not in asked):
            chosen[kind] = column
    for ours, names in GUESSES.items():
        free = (lower[n] for n in names if n in lower and lower[n] not in chosen.values())
        if ours not in chosen and (column := next(free, "")):
            chosen[ours] = column
    if any(kind in chosen for kind in MEDIA_LISTS) and "file" in chosen and "file" not in asked:
        del chosen["file"]
    if not any(ours in chosen for ours in (*MEDIA_LISTS, "file", "text")):
        raise ValueError(
            f"{name}: none of its columns ({', '.join(map(repr, values))}) is known to hold media or text; say "
            "which do, as in --columns image=COLUMN,text=COLUMN"
        )
    return chosen


def _plain_features(schema: Any) -> dict[str, Any]:
    """Features of a file that notes none: structs of bytes and path are media of a kind yet unknown."""
    found: dict[str, Any] = {}
    for field in schema:
        if holds_bytes(field.type):
            known = next((k for k in _FEATURES.values() if field.name.lower() in GUESSES[k]), "image")
            found[field.name] = {"_type": known.capitalize()}
    return found


def _kind_of(value: Any) -> str:
    name = value.get("path") or "" if isinstance(value, Mapping) else value
    kind = KIND_OF_SUFFIX.get(suffix_of(str(name)))
    if kind is None and isinstance(value, Mapping) and value.get("bytes"):
        kind = next(iter(sniff(value["bytes"])[1]), None)
    if kind is None:
        raise ValueError(
            f"{name}: its suffix is not that of a picture, a sound or a video; rename or convert it"
        )
    return kind


def _too_many(column: str, value: list[Any]) -> Any:
    raise ValueError(
        f"column {column!r} holds {len(value)} media; a row of a table has one of each kind; use messages for more"
    )


def structured(column: str, value: Any) -> Any:
    """A value of `names` or `segments`, once it has the type of our schema.

    Raises:
        ValueError: it has another.
    """
    try:
        if column == "segments" and any({"start_s", "end_s", "text"} - set(segment) for segment in value):
            raise ValueError("a segment has start_s, end_s and text")
        pa.array([value], SAMPLE_SCHEMA.field(column).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise ValueError(f"column {column!r} is not as docs/data.md has it ({error})") from None
    return value
