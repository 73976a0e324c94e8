"""What format some input is in, told by its content."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sensorium.data.importers.archives import TAR_SUFFIXES
from sensorium.data.importers.base import Options, stem_of, suffix_of, walk
from sensorium.data.importers.columnar import COLUMNAR_SUFFIXES, columnar_records, schema_of
from sensorium.data.importers.conversations import INFO_NAME, info_entries
from sensorium.data.importers.media import KIND_OF_SUFFIX
from sensorium.data.importers.medical import MEDICAL_SUFFIXES, is_dicom
from sensorium.data.importers.ours import is_ours
from sensorium.data.importers.records import TEXT_SUFFIXES, text_records
from sensorium.data.importers.tables import guess_columns
from sensorium.data.schema import MEDIA_LISTS

_LOOK_AT = 2_000  # files that are looked at before a folder is judged


def detect(path: Path, options: Options) -> tuple[str, str, Path]:
    """Return the format, what was found, and the path to read: a table inside a folder takes its place.

    Raises:
        ValueError: nothing that is known lies there.
    """
    if path.is_file():
        return *_of_file(path, options), path
    names = list(itertools.islice(_names(path), _LOOK_AT))
    if not names:
        raise ValueError(f"{path} holds no files; give a folder or a file with data")
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        by_suffix.setdefault(suffix_of(name), []).append(name)
    tars = [name for suffix in TAR_SUFFIXES for name in by_suffix.get(suffix, [])]
    if found := _img2dataset(path, by_suffix.get(".parquet", [])):
        return "img2dataset", found, path
    if tars:
        return "webdataset", f"tar files ({tars[0]})", path
    if (path / INFO_NAME).is_file() and _describes_files(path):
        return "llama-factory", f"{INFO_NAME} that names data files", path
    for suffix in COLUMNAR_SUFFIXES:
        if suffix in by_suffix:
            return *_of_columns(path / by_suffix[suffix][0]), path
    medical = [name for suffix in MEDICAL_SUFFIXES for name in by_suffix.get(suffix, [])]
    if medical or is_dicom(path / names[0]):
        return "medical", f"medical pictures ({suffix_of((medical or names)[0]) or 'DICOM'})", path
    stems = {stem_of(name) for name in names if suffix_of(name) in KIND_OF_SUFFIX}
    tables = [n for n in names if suffix_of(n) in TEXT_SUFFIXES and "/" not in n and stem_of(n) not in stems]
    # As the `datasets` library lays out folders of media: this one says what the others may not.
    tables = [name for name in tables if stem_of(name) == "metadata"] or tables
    if len(tables) == 1:
        format, found = _of_file(path / tables[0], options)
        # Beside media with sidecars of their own there may lie any notes.
        if not stems or format != "table" or _names_media(path / tables[0], options):
            return format, found, path / tables[0]
    if not stems:
        found = f"files such as {names[0]}" + (f", and {len(tables)} tables" if tables else "")
        raise ValueError(f"{path} holds {found}; nothing that is known; give one file, or --format")
    return "folder", "media files and what stands beside them", path


def _names(path: Path) -> Iterator[str]:
    for folder, files in walk(path):
        yield from (f"{folder}/{name}" if folder else name for name in files)


def _describes_files(path: Path) -> bool:
    return bool(info_entries(path / INFO_NAME))


def _names_media(path: Path, options: Options) -> bool:
    """Whether a table has a column of media."""
    record = next((r for r in text_records(path, options) if not r.error), None)
    try:
        columns = guess_columns(record.values, options.columns, {}, path.name) if record else {}
    except ValueError:
        return False
    return any(kind in columns for kind in ("file", *MEDIA_LISTS))


def _of_file(path: Path, options: Options) -> tuple[str, str]:
    suffix = suffix_of(path.name)
    if suffix in TAR_SUFFIXES:
        return "webdataset", "a tar file"
    if suffix in COLUMNAR_SUFFIXES:
        return _of_columns(path)
    if suffix in MEDICAL_SUFFIXES or is_dicom(path):
        return "medical", "a medical picture"
    if path.name == INFO_NAME:
        return "llama-factory", f"{INFO_NAME} that names data files"
    if suffix not in TEXT_SUFFIXES:
        known = ", ".join((*TAR_SUFFIXES, *COLUMNAR_SUFFIXES, *TEXT_SUFFIXES, *MEDICAL_SUFFIXES))
        raise ValueError(f"{path}: a file of this kind is not known; expected a folder, or one of {known}")
    if suffix in (".csv", ".tsv"):
        return "table", "a table"
    record = next((r for r in text_records(path, options) if not r.error), None)
    if record is None:
        raise ValueError(f"{path}: holds no object that can be read as JSON; check the file")
    return _of_record(record.values)


def _of_columns(path: Path) -> tuple[str, str]:
    record = next(columnar_records(path), None)
    if record is None or record.error:
        schema_of(path)
        return "datasets", "a table without rows" if record is None else "a damaged table"
    name, found = _of_record(record.values)
    return (name, found) if name in ("trl", "llava", "swift") else ("datasets", "a Parquet or Arrow table")


def _of_record(values: Mapping[str, Any]) -> tuple[str, str]:
    """The format whose columns these are."""
    columns = set(values)
    if is_ours(values):
        return "datasets", "samples of ours"
    turns = values.get("conversations") or values.get("conversation")
    if isinstance(turns, list):
        if columns & {"images", "audios", "videos", "system", "tools"}:
            return "llama-factory", "sharegpt conversations with lists of media"
        return "llava", "LLaVA conversations"
    if "messages" in columns:
        turns = values["messages"]
        contents = (
            [t.get("content") for t in turns if isinstance(t, Mapping)] if isinstance(turns, list) else []
        )
        if callable(turns) or any(not isinstance(content, str) for content in contents):
            return "trl", "messages with typed parts"
        paths = values.get("images")
        is_hub = callable(paths) or (isinstance(paths, list) and any(not isinstance(p, str) for p in paths))
        return ("trl", "messages") if is_hub else ("swift", "messages with lists of paths")
    if "prompt" in columns and "completion" in columns:
        return "trl", "prompts and completions"
    if "instruction" in columns and "output" in columns:
        return "llama-factory", "alpaca instructions"
    if "query" in columns and "response" in columns:
        return "swift", "queries and responses"
    return "table", "a table"


def _img2dataset(path: Path, tables: list[str]) -> str:
    """What kind of img2dataset's output lies in a folder, "" when none does."""
    if not tables:
        return ""
    try:
        columns = set(schema_of(path / tables[0]).names)
    except ValueError:
        return ""
    if not {"key", "status", "url"} <= columns:
        return ""
    return "output of img2dataset"
