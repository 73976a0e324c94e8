"""Rows of one split of one source by block, from local disks and object stores.

Bytes travel, arrays are made last: a block is read whole, its media stay encoded until a sample is drawn.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.schema import SAMPLE_SCHEMA
from sensorium.data.shards import MANIFEST_NAME, check_folder, conform, no_parquet, rows_of_table
from sensorium.starter import starter_sources

_MAX_OPEN_FILES = 8


@dataclass(frozen=True)
class Block:
    """A row group. ``rows`` are those of the split, None where all of them are."""

    file: str
    row_group: int
    num_rows: int
    rows: tuple[int, ...] | None = None


def _used_columns(group: pq.RowGroupMetaData) -> list[str]:
    """Names of the columns of a row group that hold anything: most samples use few of the schema's."""
    used: dict[str, None] = {}
    for number in range(group.num_columns):
        column = group.column(number)
        counts = column.statistics
        if counts is None or not counts.has_null_count or counts.null_count < column.num_values:
            used[column.path_in_schema.partition(".")[0]] = None
    return list(used)


class Reader:
    """Blocks of rows of one split.

    Args:
        path: a Parquet file, a folder of them, "starter:NAME", or an address of an object store
            ("s3://bucket/folder", through fsspec and the package it names; keys and endpoints come from the
            environment, as that package documents).
        split: rows of this split are read.
        max_blocks: blocks that stay in memory.

    Raises:
        FileNotFoundError: there is no Parquet data.
        ValueError: a file is damaged, or is not made of samples.
    """

    def __init__(self, path: str, split: str, *, max_blocks: int = 24) -> None:
        self.path, self.split, self.max_blocks = path, split, max_blocks
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._rows: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._fs: Any = None
        self._lock = threading.RLock()  # batches are made in threads while a run shows samples
        self.blocks = self._find_blocks()
        self.block_sizes = np.array([block.num_rows for block in self.blocks], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return int(self.block_sizes.sum())

    @property
    def is_remote(self) -> bool:
        """Whether the data lie in an object store."""
        return "://" in self.path and not self.path.startswith("file://")

    def block(self, number: int) -> list[dict[str, Any]]:
        """All rows of a block as plain values; media are encoded files.

        A row of which a cell cannot be read has a key more, ``problems``, with the reasons.
        """
        with self._lock:
            if number not in self._rows:
                self._rows[number] = self._read(number)
                while len(self._rows) > self.max_blocks:
                    self._rows.popitem(last=False)
            self._rows.move_to_end(number)
            return self._rows[number]

    def _read(self, number: int) -> list[dict[str, Any]]:
        block = self.blocks[number]
        try:
            parquet = self._file(block.file)
            used = _used_columns(parquet.metadata.row_group(block.row_group))
            table = parquet.read_row_group(block.row_group, columns=used, use_threads=False)
            # Not every leaf has statistics; turning nulls into Python's costs as much as turning values.
            table = table.select([c for c in used if table[c].null_count < table.num_rows])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{block.file}: row group {block.row_group} cannot be read ({error})") from error
        if block.rows is None and table.num_rows != block.num_rows:
            raise ValueError(
                f"{block.file}: row group {block.row_group} has {table.num_rows} rows, the manifest says "
                f"{block.num_rows}; the file was changed after the manifest was written: import the data again"
            )
        if block.rows is not None:
            table = table.take(list(block.rows))
        # A null id is a problem of one row, not of the file.
        present = pa.schema(
            [
                SAMPLE_SCHEMA.field(name).with_nullable(True)
                for name in table.column_names
                if name in SAMPLE_SCHEMA.names
            ]
        )
        table = conform(table, present, block.file)
        empty: dict[str, Any] = dict.fromkeys(SAMPLE_SCHEMA.names)
        rows = []
        for number, (row, problems) in enumerate(rows_of_table(table)):
            row = {**empty, **row}
            if problems:
                row["problems"] = problems
            rows.append(row)
            if not isinstance(row["id"], str):  # a name for what cannot be used
                row["id"] = f"{block.file}: row {number} of row group {block.row_group}"
        del table
        pa.default_memory_pool().release_unused()  # rows are Python's values; Arrow would keep this for more tables
        return rows

    def row(self, block: int, index: int) -> dict[str, Any]:
        """One row."""
        return self.block(block)[index]

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in the order of the files."""
        for number in range(len(self.blocks)):
            yield from self.block(number)

    def forget(self) -> None:
        """Drop what a process must not inherit: open files and connections. Rows are read again."""
        self._files, self._rows, self._fs = OrderedDict(), OrderedDict(), None
        self._lock = threading.RLock()  # another process's may be held for good

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "split", "max_blocks", "blocks", "block_sizes")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def _find_blocks(self) -> list[Block]:
        if self.path.startswith("starter:"):
            known, name = starter_sources(), self.path.partition(":")[2]
            if name not in known:
                raise ValueError(f"unknown starter source {name!r}; known are {', '.join(sorted(known))}")
            return self._blocks_of_file(str(known[name]))
        root = self._filesystem()[1]
        listed = self._listed(root)
        if listed is not None:
            return listed
        fs = self._filesystem()[0]
        files = sorted(f for f in fs.find(root) if f.endswith(".parquet")) if fs.isdir(root) else [root]
        if not files or not fs.isfile(files[0]):
            raise no_parquet(self.path)
        return [block for file in files for block in self._blocks_of_file(file)]

    def _listed(self, root: str) -> list[Block] | None:
        """The blocks by the manifest, where it knows every file's split: no other file is touched."""
        fs, manifest = self._filesystem()[0], f"{root}/{MANIFEST_NAME}"
        if not fs.isdir(root):
            return None
        names = [str(path).rpartition("/")[2] for path in fs.ls(root, detail=False)]
        entries = None
        if MANIFEST_NAME in names:
            try:
                entries = dict(json.loads(fs.cat_file(manifest))["files"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{manifest} is not a manifest of shards; delete it to take what is there"
                ) from None
        check_folder(names, entries, self.path)
        if entries is None:
            return None
        shards = {name: entry for name, entry in entries.items() if name.endswith(".parquet")}
        if not all("row_groups" in entry and "split" in entry for entry in shards.values()):
            return None
        return [
            Block(f"{root}/{name}", number, num_rows)
            for name, entry in sorted(shards.items())
            if entry["split"] == self.split
            for number, num_rows in enumerate(entry["row_groups"])
        ]

    def _blocks_of_file(self, file: str) -> list[Block]:
        parquet = self._file(file)
        if "split" not in parquet.schema_arrow.names:
            raise ValueError(
                f"{file}: column 'split' is missing; make shards of other tables with `sensorium data import`"
            )
        blocks = []
        for number in range(parquet.num_row_groups):
            splits = parquet.read_row_group(number, columns=["split"])["split"].to_pylist()
            rows = tuple(i for i, split in enumerate(splits) if split == self.split)
            if rows:
                blocks.append(Block(file, number, len(rows), None if len(rows) == len(splits) else rows))
        return blocks

    def _filesystem(self) -> tuple[Any, str]:
        if self._fs is None:
            try:
                self._fs = fsspec.core.url_to_fs(self.path)
            except ImportError as error:
                raise ValueError(f"{self.path}: {error}; install the package it names") from error
        return self._fs

    def _file(self, file: str) -> pq.ParquetFile:
        if file not in self._files:
            fs = fsspec.filesystem("file") if self.path.startswith("starter:") else self._filesystem()[0]
            is_local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
            try:
                # Arrow's own files are quicker than Python's; pre_buffer joins the requests of a row group.
                self._files[file] = pq.ParquetFile(
                    file if is_local else fs.open(file, "rb"), pre_buffer=not is_local
                )
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: cannot be read as Parquet ({error}); write it again") from error
            while len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(file)
        return self._files[file]
