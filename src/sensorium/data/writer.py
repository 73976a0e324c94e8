"""Writing shards as a stream: memory does not grow with the data, and an interrupted writer goes on.

Every split has files of its own, named as the public hubs expect (`train-00000.parquet`), so that a reader takes
what it needs by name. The manifest states rows and row groups of every file: opening millions of rows costs one
small read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.data.schema import SAMPLE_SCHEMA, SCHEMA_VERSION, table_from_rows
from sensorium.data.shards import MANIFEST_NAME, REJECTED_NAME, ROW_GROUP_SIZE
from sensorium.data.splits import SPLITS

PROGRESS_NAME = "progress.json"
SHARD_BYTES = 256 * 2**20
# Every row group costs some kilobytes in the file's footer, which is read whole: rows without media reach this first.
SHARD_ROWS = 65_536
# A reader holds a window of row groups: this bounds its memory where media are large.
ROW_GROUP_BYTES = 8 * 2**20


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """Paths of the Parquet columns of a field."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{name}.{field.name}", field.type)]
    if pa.types.is_map(kind):
        return [f"{name}.key_value.key", f"{name}.key_value.value"]
    if pa.types.is_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    return [name]


LEAVES = [leaf for field in SAMPLE_SCHEMA for leaf in _leaves(field.name, field.type)]


class ShardWriter:
    """Writes samples to `{split}-{number:05d}.parquet` in a folder.

    A row is written with its ordinal: its number in the stream it comes from. A writer that is opened on the
    folder of an interrupted one knows by `is_done` which ordinals lie in finished shards; the same stream then
    gives the same files, byte for byte, as one that was never interrupted.

    Args:
        root: the folder; made where it is missing.
        asked: what the stream depends on (JSON values). Going on with anything else is an error.
        shard_bytes: a file is closed once it holds this much, or 65,536 rows.

    Raises:
        FileExistsError: the folder holds finished shards already.
        ValueError: an interrupted writer was asked for something else.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        asked: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.root, self.shard_bytes = Path(root), shard_bytes
        self.asked = json.loads(json.dumps({**(asked or {}), "shard_bytes": shard_bytes}))
        self.shards: list[dict[str, Any]] = []
        self.num_rejected = 0
        self._open: dict[str, _Shard] = {}
        if (self.root / MANIFEST_NAME).exists():
            raise FileExistsError(
                f"{self.root} holds finished shards already; choose another folder, or delete this one first"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        progress = self.root / PROGRESS_NAME
        if progress.is_file():
            saved = json.loads(progress.read_text(encoding="utf-8"))
            if saved["asked"] != self.asked:
                raise ValueError(
                    f"{self.root} holds the beginning of something else: {saved['asked']}, now asked is "
                    f"{self.asked}; choose another folder, or delete this one"
                )
            self.shards = saved["shards"]
        elif any(self.root.glob("*.parquet")):
            raise FileExistsError(f"{self.root} holds Parquet files already; choose another folder")
        else:
            self._save_progress()
        self._done: dict[str, int] = dict.fromkeys(SPLITS, -1)
        for shard in self.shards:
            self._done[shard["split"]] = max(self._done[shard["split"]], shard["last"])
        for partial in self.root.glob("*.partial"):
            partial.unlink()
        # What was rejected after the last finished shard will be met again.
        self._rewrite_rejected(lambda line: self.is_done(line["split"], line["ordinal"]))

    def is_done(self, split: str, ordinal: int) -> bool:
        """Whether a finished shard lies at or after this ordinal, so that the row needs not even be read."""
        return ordinal <= self._done[split]

    @property
    def num_rows(self) -> int:
        """Rows in finished and in open shards."""
        return sum(s["num_rows"] for s in self.shards) + sum(s.num_rows for s in self._open.values())

    def write(self, row: Mapping[str, Any], ordinal: int) -> None:
        """Add a sample.

        Raises:
            ValueError: the row breaks the schema; nothing is written of it.
        """
        table_from_rows([row])  # the row's own error, before it can spoil a group
        split = row["split"]
        if self.is_done(split, ordinal):
            return
        shard = self._open.get(split)
        if shard is None:
            number = sum(s["split"] == split for s in self.shards)
            shard = self._open[split] = _Shard(self.root / f"{split}-{number:05d}.parquet", split)
        shard.add(row, ordinal)
        if shard.num_bytes >= self.shard_bytes or shard.num_rows >= SHARD_ROWS:
            self._finish(split)

    def reject(self, split: str, ordinal: int, sample_id: str, reason: str) -> None:
        """Note a sample that could not be used, with its reason, in `rejected.jsonl`."""
        if self.is_done(split, ordinal):
            return
        self.num_rejected += 1
        line = {"id": sample_id, "reason": reason, "split": split, "ordinal": ordinal}
        with open(self.root / REJECTED_NAME, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> dict[str, Any]:
        """Finish the open shards, write the manifest and return it."""
        for split in sorted(self._open):
            self._finish(split)
        self._rewrite_rejected(lambda line: True)
        counts: dict[str, Counter[str]] = {}
        for shard in self.shards:
            for source, count in shard["sources"].items():
                counts.setdefault(source, Counter())[shard["split"]] += count
        kept = ("num_bytes", "sha256", "split", "num_rows", "row_groups")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "num_rows": self.num_rows,
            "counts": {s: {split: counts[s][split] for split in SPLITS} for s in sorted(counts)},
            "files": {
                s["name"]: {k: s[k] for k in kept} for s in sorted(self.shards, key=lambda s: s["name"])
            },
        }
        _write_json(self.root / MANIFEST_NAME, manifest)
        (self.root / PROGRESS_NAME).unlink(missing_ok=True)
        return manifest

    def abandon(self) -> None:
        """Leave the finished shards and the note of progress; drop what is open."""
        for shard in self._open.values():
            shard.discard()
        self._open = {}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _finish(self, split: str) -> None:
        self.shards.append(self._open.pop(split).finish())
        self._save_progress()

    def _save_progress(self) -> None:
        _write_json(self.root / PROGRESS_NAME, {"asked": self.asked, "shards": self.shards})

    def _rewrite_rejected(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """In order of the stream, however often it was interrupted."""
        path = self.root / REJECTED_NAME
        if path.is_file():
            # Only whole lines: the last one may have been torn by a power cut.
            whole = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
            lines = sorted(filter(keep, map(json.loads, whole)), key=lambda line: line["ordinal"])
            self.num_rejected = len(lines)
            _replace(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


class _Shard:
    """One file being written, under another name until it is whole."""

    def __init__(self, path: Path, split: str) -> None:
        self.path, self.partial, self.split = path, path.with_name(path.name + ".partial"), split
        self.rows: list[Mapping[str, Any]] = []
        self.num_rows, self.last = 0, -1
        self.sources: Counter[str] = Counter()
        self.row_groups: list[int] = []
        self._buffered = 0
        self._file = open(self.partial, "wb")  # noqa: SIM115  (closed by finish or discard)
        self._writer = pq.ParquetWriter(
            self._file,
            SAMPLE_SCHEMA,
            # Media are compressed already.
            compression={leaf: "none" if leaf.endswith(".bytes") else "zstd" for leaf in LEAVES},
            use_dictionary=[f.name for f in SAMPLE_SCHEMA if f.type == pa.string() and f.name != "id"],
            # The number of nulls lets a reader pass over what a row group does not use.
            write_statistics=[leaf for leaf in LEAVES if not leaf.endswith(".bytes")],
        )

    @property
    def num_bytes(self) -> int:
        return int(self._file.tell()) + self._buffered

    def add(self, row: Mapping[str, Any], ordinal: int) -> None:
        self.rows.append(row)
        self.num_rows += 1
        self.last = ordinal
        self.sources[row["source"]] += 1
        self._buffered += _media_bytes(row)
        if len(self.rows) == ROW_GROUP_SIZE or self._buffered >= ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> dict[str, Any]:
        self._flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        digest = sha256()
        with open(self.partial, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        os.replace(self.partial, self.path)
        return {
            "name": self.path.name,
            "split": self.split,
            "num_rows": self.num_rows,
            "row_groups": self.row_groups,
            "num_bytes": self.path.stat().st_size,
            "sha256": digest.hexdigest(),
            "sources": dict(sorted(self.sources.items())),
            "last": self.last,
        }

    def discard(self) -> None:
        self._writer.close()
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self.rows:
            self._writer.write_table(table_from_rows(self.rows), row_group_size=ROW_GROUP_SIZE)
            self.row_groups.append(len(self.rows))
            self.rows, self._buffered = [], 0


def _media_bytes(row: Mapping[str, Any]) -> int:
    media = [row.get(column) for column in ("image", "audio", "video")]
    for column in ("images", "audios", "videos"):
        media += row.get(column) or []
    return sum(len(m["bytes"] or b"") for m in media if m)


def _write_json(path: Path, value: Any) -> None:
    _replace(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, through a power cut too."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
