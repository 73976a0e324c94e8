"""Parquet files of samples, and the manifest that says what they hold."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.schema import SAMPLE_SCHEMA, SCHEMA_VERSION, table_from_rows
from sensorium.data.splits import SPLITS

ROW_GROUP_SIZE = 64
MANIFEST_NAME = "manifest.json"
FULL_STARTER = "data/starter"  # where the recipes look for what `sensorium data build` makes
REJECTED_NAME = "rejected.jsonl"  # what could not be used, with its reason


def no_parquet(path: str | os.PathLike[str]) -> FileNotFoundError:
    """The error for a path without shards, with what to do about it."""
    name = os.fspath(path)
    if FULL_STARTER in Path(name).as_posix():
        mend = f"build the full starter data with `sensorium data build starter --out {FULL_STARTER}`, or name other data"
    elif Path(name).expanduser().exists():
        mend = f"bring it in with `sensorium data import {name} --out FOLDER`, then name FOLDER"
    else:
        mend = "there is nothing there: give a .parquet file, a folder of them or starter:NAME"
    return FileNotFoundError(f"no Parquet data at {name}; {mend}")


def write_shard(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write samples as one Parquet file in row groups of 64; the same rows give the same bytes.

    Args:
        path: the file to write; its folder is made. A file already there is replaced only once the new one
            is complete.
        rows: samples as dictionaries of `SAMPLE_SCHEMA`.

    Returns:
        The number of rows written.

    Raises:
        ValueError: a row breaks the schema, or two rows share an id.
    """
    path = Path(path)
    table = table_from_rows(rows)
    repeated = [value for value, count in Counter(table["id"].to_pylist()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path.name}: id {repeated[0]!r} occurs more than once; give every sample its own id"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        pq.write_table(
            table, partial, row_group_size=ROW_GROUP_SIZE, compression="zstd", compression_level=19
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return int(table.num_rows)


def read_shard(path: str | os.PathLike[str], *, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file of samples.

    Args:
        path: the file.
        columns: the columns to read; all of them when None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not Parquet, or its columns are not those of `SAMPLE_SCHEMA`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such shard; check the path, or write one with write_shard")
    try:
        # Partitioning off: a folder named `a=b` on the way must not become a column.
        known = set(pq.read_schema(path).names)
        present = None if columns is None else [name for name in columns if name in known]
        table = pq.read_table(path, columns=present, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); write it again") from error
    wanted = SAMPLE_SCHEMA if columns is None else pa.schema([SAMPLE_SCHEMA.field(name) for name in columns])
    return conform(table, wanted, str(path))


def conform(table: pa.Table, wanted: pa.Schema, name: str) -> pa.Table:
    """Return the columns of a schema in its order and types; nullable columns that are missing are null.

    Raises:
        ValueError: a column that every sample must have is missing, or a column has another type.
    """
    for field in wanted:
        if field.name not in table.schema.names:
            if not field.nullable:
                raise ValueError(
                    f"{name}: column {field.name!r} is missing; a shard has the columns {SAMPLE_SCHEMA.names}; "
                    "make shards of other tables with `sensorium data import`"
                )
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    try:
        return table.select(wanted.names).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name}: a column has another type than a shard's: {error}; import it again"
        ) from error


def rows_of_table(table: pa.Table) -> list[tuple[dict[str, Any], list[str]]]:
    """Every row as plain values, with what could not be read of it; such a cell is missing in the row."""
    try:
        return [(row, []) for row in table.to_pylist(maps_as_pydicts="strict")]
    except (ValueError, KeyError):  # text that is not UTF-8, a map with a key twice
        return [_cells_of(table, index) for index in range(table.num_rows)]


def _cells_of(table: pa.Table, index: int) -> tuple[dict[str, Any], list[str]]:
    row, problems = {}, []
    for name in table.column_names:
        try:
            row[name] = table[name][index].as_py(maps_as_pydicts="strict")
        except (ValueError, KeyError) as error:
            what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "cannot be read"
            problems.append(f"column {name!r} {what} ({' '.join(str(error).split())[:200]})")
    return row, problems


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def build_manifest(root: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a folder of shards holds: schema version, counts by source and split, hashes by file.

    Args:
        root: a folder with one folder per source; every file in it but the manifest itself is hashed.
    """
    root = Path(root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
    counts: dict[str, Counter[str]] = {}
    for path in files:
        if path.suffix == ".parquet":
            table = read_shard(path, columns=["source", "split"])
            for source, split in zip(table["source"].to_pylist(), table["split"].to_pylist(), strict=True):
                counts.setdefault(source, Counter())[split] += 1
    return {
        "schema_version": SCHEMA_VERSION,
        "num_rows": sum(sum(count.values()) for count in counts.values()),
        "counts": {s: {split: counts[s][split] for split in SPLITS} for s in sorted(counts)},
        "files": {
            path.relative_to(root).as_posix(): {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        },
    }


def write_manifest(root: str | os.PathLike[str]) -> dict[str, Any]:
    """Write `build_manifest(root)` beside the shards and return it."""
    manifest = build_manifest(root)
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (Path(root) / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return manifest


def check_folder(names: Iterable[str], files: Mapping[str, Any] | None, root: str) -> None:
    """Refuse a folder whose writer has not finished, or whose Parquet files are not those of its manifest.

    Args:
        names: of the files that lie in it. files: those of the manifest; None without one.

    Raises:
        ValueError: names the file, and what to do.
    """
    found = set(names)
    if "progress.json" in found:
        raise ValueError(f"{root} is unfinished; give the command that began it once more, it goes on")
    if files is None:
        return
    shards = {name for name in found if name.endswith(".parquet")}
    listed = {name for name in files if name.endswith(".parquet") and "/" not in name}
    for name in sorted(shards ^ listed):
        state = "is not in the manifest" if name in shards else "is missing"
        raise ValueError(
            f"{root}/{name} {state}; put the folder back as it was written, or delete manifest.json to take what is there"
        )


def read_manifest(root: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a folder of shards.

    Raises:
        FileNotFoundError: the folder has no manifest.
        ValueError: the manifest is of another schema version.
    """
    path = Path(root) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no manifest; write one with write_manifest({str(root)!r})")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema version {manifest.get('schema_version')!r}, "
            f"this version reads {SCHEMA_VERSION}; build the data again"
        )
    return manifest


def verify_manifest(root: str | os.PathLike[str]) -> None:
    """Check that the files of a folder are those of its manifest.

    Raises:
        ValueError: a file is missing, differs, or is not in the manifest.
    """
    root = Path(root)
    recorded = read_manifest(root)["files"]
    found = {
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and p.name not in (MANIFEST_NAME, REJECTED_NAME)
    }
    for name in sorted(found ^ set(recorded)):
        state = "is missing" if name in recorded else "is not in the manifest"
        raise ValueError(f"{root / name} {state}; build the data again")
    for name, entry in recorded.items():
        if file_sha256(root / name) != entry["sha256"]:
            raise ValueError(
                f"{root / name} differs from the manifest; restore the file or build the data again"
            )
