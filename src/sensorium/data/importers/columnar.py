"""Rows of Parquet and Arrow files: plain columns are read at once, columns with bytes when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.importers.base import suffix_of
from sensorium.data.importers.records import Record

COLUMNAR_SUFFIXES = (".parquet", ".arrow")
_LATE_ROWS = 8  # rows whose media are in memory together


def schema_of(path: Path) -> pa.Schema:
    """The columns of a Parquet file, or of an Arrow stream as `save_to_disk` writes it.

    Raises:
        ValueError: the file is neither.
    """
    try:
        if suffix_of(path.name) == ".parquet":
            return pq.read_schema(path)
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_stream(file).schema
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); download or write it again") from error


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The features that the `datasets` library notes in a schema, {} where there are none."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted.get("info", {}).get("features")
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def columnar_records(path: Path) -> Iterator[Record]:
    """Rows of a file; columns that hold bytes anywhere are functions. A damaged file ends in one bad record."""
    number = 0
    try:
        rows = _parquet_rows(path) if suffix_of(path.name) == ".parquet" else _arrow_rows(path)
        for values, at in rows:
            yield Record(number, values, at)
            number += 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = f"{path.name}: cannot be read from row {number} on ({error}); download or write it again"
        yield Record(number, {}, 1.0, reason)


def _parquet_rows(path: Path) -> Iterator[tuple[dict[str, Any], float]]:
    # Buffered, not read ahead: a row group of the hubs holds hundreds of media.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        light, late_names = _by_weight(file.schema_arrow)
        total, number = max(1, file.metadata.num_rows), 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            late = _Late(file, group, late_names)
            plain = _plain_rows(file, group, light) if light else iter([{}] * num_rows)
            for index, values in enumerate(plain):
                yield values | {name: late.column(name, index) for name in late_names}, number / total
                number += 1


def _plain_rows(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=columns):
        yield from batch.to_pylist(maps_as_pydicts="lossy")


class _Late:
    """The columns with bytes of a row group, a few rows at a time, in the order in which they are asked for."""

    def __init__(self, file: pq.ParquetFile, group: int, columns: list[str]) -> None:
        self.file, self.group, self.columns = file, group, columns
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first, self._rows = 0, 0
        self._batch: pa.RecordBatch | None = None

    def column(self, name: str, index: int) -> Any:
        return lambda: self._value(name, index)

    def _value(self, name: str, index: int) -> Any:
        if self._batch is None or index < self._first:
            self._batches = self.file.iter_batches(
                batch_size=_LATE_ROWS, row_groups=[self.group], columns=self.columns
            )
            self._first, self._rows = 0, 0
        while index >= self._first + self._rows:
            self._first += self._rows
            self._batch = next(self._batches)
            self._rows = self._batch.num_rows
        assert self._batch is not None
        return self._batch.column(name)[index - self._first].as_py()


def _arrow_rows(path: Path) -> Iterator[tuple[dict[str, Any], float]]:
    with pa.memory_map(str(path)) as file:
        size = max(1, file.size())
        stream = pa.ipc.open_stream(file)
        light, late_names = _by_weight(stream.schema)
        for batch in stream:
            at = file.tell() / size
            plain = batch.select(light).to_pylist(maps_as_pydicts="lossy") if light else [{}] * batch.num_rows
            for index, values in enumerate(plain):
                late = {name: _cell(batch.column(name), index) for name in late_names}
                yield values | late, at


def _cell(column: pa.Array, index: int) -> Any:
    return lambda: column[index].as_py()


def _by_weight(schema: pa.Schema) -> tuple[list[str], list[str]]:
    heavy = [field.name for field in schema if holds_bytes(field.type)]
    return [name for name in schema.names if name not in heavy], heavy


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type hold bytes, however deep."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
