"""Shards written as a stream: whole or not at all, and the same bytes however often the writer is killed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sensorium.data.schema import medium
from sensorium.data.shards import read_shard, verify_manifest
from sensorium.data.writer import ROW_GROUP_BYTES, ShardWriter

SHARD_BYTES = 60_000


def row(number: int, num_bytes: int = 1000) -> dict[str, Any]:
    data = np.random.default_rng(number).bytes(num_bytes)
    return {
        "id": f"row-{number}",
        "split": "test" if number % 5 == 0 else "train",
        "source": "noise",
        "license": "CC0-1.0",
        "attribution": "nobody",
        "text": f"number {number}",
        "image": medium(data, "a.png"),
    }


def write(folder: Path, stop: int | None = None, num_rows: int = 400) -> list[int]:
    """All rows, those that 97 divides rejected; ``stop`` interrupts before that row. Returns the rows loaded."""
    loaded = []
    with ShardWriter(folder, asked={"what": "noise"}, shard_bytes=SHARD_BYTES) as writer:
        for number in range(num_rows):
            if number == stop:
                raise KeyboardInterrupt
            split = "test" if number % 5 == 0 else "train"
            if writer.is_done(split, number):
                continue
            loaded.append(number)
            if number % 97 == 0:
                writer.reject(split, number, f"row-{number}", "divisible")
            else:
                writer.write(row(number), number)
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_and_continued_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "whole") == list(range(400))
    for stop in (3, 170, 171, 390):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "broken", stop)
        assert not list((tmp_path / "broken").glob("*.partial"))
        assert not (tmp_path / "broken" / "manifest.json").exists()
    again = write(tmp_path / "broken")
    assert len(again) < 150  # what lies in finished shards is not loaded again
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    verify_manifest(tmp_path / "whole")
    rejected = [json.loads(line) for line in (tmp_path / "whole" / "rejected.jsonl").read_text().splitlines()]
    assert [line["id"] for line in rejected] == [f"row-{n}" for n in range(0, 400, 97)]


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["counts"] == {"noise": {"train": 316, "validation": 0, "test": 79}}
    assert manifest["num_rows"] == 395
    for name, entry in manifest["files"].items():
        parquet = pq.ParquetFile(tmp_path / "data" / name)
        groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        assert groups == entry["row_groups"]
        assert set(read_shard(tmp_path / "data" / name)["split"].to_pylist()) == {entry["split"]}
        assert entry["num_bytes"] < 1.4 * SHARD_BYTES


def test_large_media_make_small_row_groups(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data") as writer:
        for number in range(1, 5):
            writer.write(row(number, ROW_GROUP_BYTES // 2 + 1), number)
    entry = json.loads((tmp_path / "data" / "manifest.json").read_text())["files"]["train-00000.parquet"]
    assert entry["row_groups"] == [2, 2]


def test_a_bad_row_spoils_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data") as writer:
        writer.write(row(1), 1)
        with pytest.raises(ValueError, match="column 'license' is empty"):
            writer.write({**row(2), "license": ""}, 2)
        writer.write(row(3), 3)
    assert read_shard(tmp_path / "data" / "train-00000.parquet")["id"].to_pylist() == ["row-1", "row-3"]


def test_no_folder_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    with pytest.raises(FileExistsError, match="finished shards already"):
        ShardWriter(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "begun", 100)
    with pytest.raises(ValueError, match="the beginning of something else"):
        ShardWriter(tmp_path / "begun", asked={"what": "music"}, shard_bytes=SHARD_BYTES)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.parquet").touch()
    with pytest.raises(FileExistsError, match="Parquet files already"):
        ShardWriter(tmp_path / "foreign")
