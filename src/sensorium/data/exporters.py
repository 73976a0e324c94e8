"""Sending samples out: tars that `webdataset` opens, Parquet that `datasets` opens. Row group by row group.

Finished files are kept when an export is interrupted, and the same export goes on after them. The same shards give
the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sensorium.data.importers.base import suffix_of
from sensorium.data.importers.media import KIND_OF_SUFFIX, Files, sniff
from sensorium.data.schema import MEDIA_LISTS, MEDIUM, SAMPLE_SCHEMA, SCHEMA_VERSION
from sensorium.data.shards import ROW_GROUP_SIZE, conform
from sensorium.data.splits import SPLITS

PROGRESS_NAME = "export-progress.json"
# Types that `datasets` has no feature for travel as JSON.
_AS_JSON = ("names", "metadata")
_MEDIA_COLUMNS = (*MEDIA_LISTS, *MEDIA_LISTS.values())


@dataclass(frozen=True)
class Piece:
    """One file to write: the rows of one split of one shard."""

    name: str
    shard: Path
    split: str


def export_data(
    shards: Path,
    out: Path,
    *,
    to: str,
    on_progress: Callable[[float, int], None] = lambda at, num_rows: None,
) -> dict[str, Any]:
    """Write samples in another format.

    Args:
        shards: a folder of Parquet files of samples, or one such file.
        out: folder for the files; what an interrupted export of the same left there is kept.
        to: "webdataset" or "datasets".
        on_progress: called with the share of the rows and their number.

    Returns:
        The number of rows, and the names of the files.

    Raises:
        FileNotFoundError: there are no shards.
        FileExistsError: the folder holds other files.
        ValueError: a shard is not one of ours, or a medium cannot be read.
    """
    if to not in ("webdataset", "datasets"):
        raise ValueError(f"cannot export to {to!r}; choose webdataset or datasets")
    files = _shard_files(shards)
    if out.resolve() == (shards if shards.is_dir() else shards.parent).resolve():
        raise ValueError(f"{out} holds the shards themselves; choose another folder")
    pieces, total = _plan(files, ".tar" if to == "webdataset" else ".parquet")
    columns = _used_columns(files)
    _begin(out, {"to": to, "shards": _fingerprint(files, shards)})
    num_rows = 0
    for piece in pieces:
        target = out / piece.name
        if target.exists():
            num_rows += _num_rows(piece)
        else:
            partial = target.with_name(f"{target.name}.partial")
            rows = _rows(piece)
            writer = _write_tar if to == "webdataset" else _write_parquet
            for count in writer(partial, rows, piece, columns):
                num_rows += count
                on_progress(num_rows / max(1, total), num_rows)
            os.replace(partial, target)
    (out / PROGRESS_NAME).unlink()
    return {"num_rows": num_rows, "files": [piece.name for piece in pieces]}


def _shard_files(shards: Path) -> list[Path]:
    files = sorted(shards.rglob("*.parquet")) if shards.is_dir() else [shards]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{shards}: no shards; give a folder that `sensorium data import` made")
    for file in files:
        try:
            names = pq.read_schema(file).names
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file}: cannot be read as Parquet ({error}); write it again") from error
        missing = [f.name for f in SAMPLE_SCHEMA if not f.nullable and f.name not in names]
        if missing:
            raise ValueError(
                f"{file}: has no column {missing[0]!r}; make shards with `sensorium data import`"
            )
    return files


def _plan(files: list[Path], suffix: str) -> tuple[list[Piece], int]:
    """A file for every split of every shard, named so that readers know the split; and the number of rows."""
    pieces, numbers, total = [], dict.fromkeys(SPLITS, 0), 0
    for file in files:
        column = pq.read_table(file, columns=["split"], partitioning=None)["split"]
        total += len(column)
        found = set(pc.unique(column).to_pylist())
        for split in SPLITS:
            if split in found:
                pieces.append(Piece(f"{split}-{numbers[split]:05d}{suffix}", file, split))
                numbers[split] += 1
    return pieces, total


def _num_rows(piece: Piece) -> int:
    column = pq.read_table(piece.shard, columns=["split"], partitioning=None)["split"]
    return int(pc.sum(pc.equal(column, piece.split)).as_py() or 0)


def _begin(out: Path, asked: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    progress = out / PROGRESS_NAME
    if progress.is_file():
        if json.loads(progress.read_text(encoding="utf-8")) != asked:
            raise ValueError(
                f"{out} holds the beginning of another export; choose another folder, or delete it"
            )
        for partial in out.glob("*.partial"):
            partial.unlink()
    elif any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; choose another folder")
    else:
        progress.write_text(json.dumps(asked), encoding="utf-8")


def _fingerprint(files: list[Path], root: Path) -> str:
    sizes = [
        (str(file.relative_to(root) if root.is_dir() else file.name), file.stat().st_size) for file in files
    ]
    return sha256(json.dumps([str(root.resolve()), sizes]).encode()).hexdigest()[:16]


def _used_columns(files: list[Path]) -> list[str]:
    """The columns that any row uses: pictures do not travel with empty columns of sound. No bytes are read."""
    # A struct or a list is there or not whichever of its leaves is read.
    leaf = {name: f"{name}.path" for name in MEDIA_LISTS}
    leaf |= {name: f"{name}.list.element.path" for name in MEDIA_LISTS.values()}
    used = {field.name for field in SAMPLE_SCHEMA if not field.nullable}
    for path in files:
        with pq.ParquetFile(path) as file:
            for name in file.schema_arrow.names:
                if name in used or name not in SAMPLE_SCHEMA.names:
                    continue
                for batch in file.iter_batches(batch_size=4096, columns=[leaf.get(name, name)]):
                    if batch.num_columns and batch.column(0).null_count < batch.num_rows:
                        used.add(name)
                        break
    return [name for name in SAMPLE_SCHEMA.names if name in used]


def _rows(piece: Piece) -> Iterator[list[dict[str, Any]]]:
    """Samples of a split, a few at a time, media as bytes."""
    media = Files(piece.shard.parent)
    with pq.ParquetFile(piece.shard, pre_buffer=False, buffer_size=2**20) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP_SIZE):
            table = conform(pa.Table.from_batches([batch]), SAMPLE_SCHEMA, str(piece.shard))
            rows = table.filter(pc.equal(table["split"], piece.split)).to_pylist(maps_as_pydicts="strict")
            for row in rows:
                try:
                    _fill(row, media)
                except (ValueError, OSError) as error:
                    raise ValueError(f"{piece.shard}: sample {row['id']!r}: {error}") from error
            yield rows


def _fill(row: dict[str, Any], media: Files) -> None:
    """Read media that are files beside the shard; a medium with bytes stays as it is."""

    def whole(kind: str, value: Any) -> Any:
        return value if value is None or value["bytes"] else media.read(kind, value)

    for kind, column in MEDIA_LISTS.items():
        row[kind] = whole(kind, row[kind])
        row[column] = None if row[column] is None else [whole(kind, value) for value in row[column]]


def _write_tar(
    path: Path, batches: Iterator[list[dict[str, Any]]], piece: Piece, columns: list[str]
) -> Iterator[int]:
    """Members `{key}.jpg`, `{key}.txt` and `{key}.json`; media of messages are `{key}.images.0.png` and so on."""
    stem = piece.name.removesuffix(".tar")
    number = 0
    with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for rows in batches:
            for row in rows:
                for ending, data in _members(row):
                    info = tarfile.TarInfo(f"{stem}-{number:06d}.{ending}")
                    info.size, info.mode = len(data), 0o644
                    tar.addfile(info, io.BytesIO(data))
                tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
                number += 1
            yield len(rows)


def _members(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for kind, column in MEDIA_LISTS.items():
        if row[kind] is not None:
            suffix = _suffix(row[kind])
            # A .gif is taken for a picture unless it says that it is a video.
            yield (
                (suffix if KIND_OF_SUFFIX.get(f".{suffix}") == kind else f"{kind}.{suffix}"),
                row[kind]["bytes"],
            )
        for index, value in enumerate(row[column] or []):
            yield f"{column}.{index}.{_suffix(value)}", value["bytes"]
    if row["text"] is not None:
        yield "txt", row["text"].encode()
    rest = {name: value for name, value in row.items() if value is not None and name not in _MEDIA_COLUMNS}
    paths = {kind: row[kind]["path"] for kind in MEDIA_LISTS if row[kind] is not None and row[kind]["path"]}
    paths |= {c: [value["path"] for value in row[c]] for c in MEDIA_LISTS.values() if row[c]}
    rest |= {"paths": paths, "sensorium_schema_version": SCHEMA_VERSION}
    yield "json", json.dumps(rest, ensure_ascii=False, sort_keys=True).encode()


def _suffix(value: Mapping[str, Any]) -> str:
    suffix = suffix_of(value["path"] or "") or sniff(value["bytes"])[0]
    return suffix.rpartition(".")[2] or "bin"


def _write_parquet(
    path: Path, batches: Iterator[list[dict[str, Any]]], piece: Piece, columns: list[str]
) -> Iterator[int]:
    """Columns with the features of `datasets` in the schema's metadata."""
    schema = _hub_schema(columns)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in batches:
            for row in rows:
                for name in _AS_JSON:
                    if row[name] is not None:
                        row[name] = json.dumps(row[name], ensure_ascii=False, sort_keys=True)
            table = pa.Table.from_pylist(
                [{name: row[name] for name in columns} for row in rows], schema=schema
            )
            writer.write_table(table, row_group_size=ROW_GROUP_SIZE)
            yield len(rows)


def _hub_schema(columns: list[str]) -> pa.Schema:
    fields = [
        pa.field(name, pa.string() if name in _AS_JSON else SAMPLE_SCHEMA.field(name).type)
        for name in columns
    ]
    kinds = {column: kind for kind, names in MEDIA_LISTS.items() for column in (kind, names)}
    features = {field.name: _feature(field.type, kinds.get(field.name, "")) for field in fields}
    noted = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(fields, metadata={"huggingface": noted})


def _feature(kind: pa.DataType, medium: str) -> Any:
    """The feature of a type, as `datasets` writes it down."""
    if kind == MEDIUM:
        return {"_type": medium.capitalize()}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type, medium), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type, medium) for field in kind}
    return {"dtype": "float64" if pa.types.is_floating(kind) else "string", "_type": "Value"}
