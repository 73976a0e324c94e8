import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.data.schema import SAMPLE_SCHEMA, check_row, medium, message, row_from_table, table_from_rows
from sensorium.data.shards import (
    MANIFEST_NAME,
    ROW_GROUP_SIZE,
    read_manifest,
    read_shard,
    verify_manifest,
    write_manifest,
    write_shard,
)
from sensorium.data.splits import split_of

BASE = {"id": "a", "split": "train", "source": "s", "license": "MIT", "attribution": "someone"}
SHORT: dict[str, Any] = {
    **BASE,
    "text": "a cat",
    "names": {"en": "cat", "fr": "chat"},
    "image": medium(b"x", "a.png"),
}
LONG: dict[str, Any] = {
    **BASE,
    "id": "b",
    "messages": [message("user", {"type": "image"}, "what is it?"), message("assistant", "a cat")],
    "images": [medium(b"y", "b.png")],
}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("rainbow", "test"),
        ("broccoli", "test"),
        ("banana", "validation"),
        ("coin", "validation"),
        ("cat", "train"),
    ],
)
def test_split_rule_has_the_published_values(name: str, split: str) -> None:
    assert split_of(name) == split
    assert split_of(name.upper()) == split


def test_split_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty name"):
        split_of(" ")


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    assert write_shard(path, [SHORT, LONG]) == 2
    table = read_shard(path)
    assert table.schema == SAMPLE_SCHEMA
    assert {k: v for k, v in row_from_table(table, 0).items() if v is not None} == SHORT
    back = row_from_table(table, 1)
    assert back["images"] == LONG["images"]
    assert [part["type"] for part in back["messages"][0]["content"]] == ["image", "text"]
    assert back["image"] is None


def test_shards_are_cut_into_row_groups_and_are_reproducible(tmp_path: Path) -> None:
    rows = [{**SHORT, "id": str(i)} for i in range(ROW_GROUP_SIZE + 1)]
    for name in ("a.parquet", "b.parquet"):
        write_shard(tmp_path / name, rows)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("change", "message_part"),
    [
        ({"split": "training"}, "'training' is not one of"),
        ({"license": ""}, "'license' is empty"),
        ({"colour": "red"}, "unknown column 'colour'"),
        ({"image": medium(b"", "")}, "neither bytes nor path"),
        ({"messages": LONG["messages"]}, "both forms"),
        ({"text": None, "image": None}, "neither form"),
    ],
)
def test_a_bad_short_row_is_named(change: dict[str, Any], message_part: str) -> None:
    with pytest.raises(ValueError, match=message_part):
        check_row({**SHORT, **change})


def test_media_must_equal_placeholders() -> None:
    with pytest.raises(ValueError, match=r"1 image placeholder\(s\) but 2 in images"):
        check_row({**LONG, "images": LONG["images"] * 2})
    with pytest.raises(ValueError, match=r"1 image placeholder\(s\) but 0 in images"):
        check_row({**LONG, "images": None})


def test_repeated_ids_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        write_shard(tmp_path / "data.parquet", [SHORT, SHORT])
    assert list(tmp_path.iterdir()) == []


def test_an_old_shard_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    write_shard(path, [SHORT])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="split"):
        write_shard(path, [{**SHORT, "split": "no"}])
    assert path.read_bytes() == before


def test_reading_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such shard"):
        read_shard(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_shard(tmp_path / "text.parquet")
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}), sink)
    (tmp_path / "other.parquet").write_bytes(sink.getvalue())
    with pytest.raises(ValueError, match="'split' is missing"):
        read_shard(tmp_path / "other.parquet")


def test_manifest_counts_and_guards_the_files(tmp_path: Path) -> None:
    write_shard(tmp_path / "s" / "data.parquet", [SHORT, LONG])
    manifest = write_manifest(tmp_path)
    assert manifest == read_manifest(tmp_path)
    assert manifest["counts"] == {"s": {"train": 2, "validation": 0, "test": 0}}
    verify_manifest(tmp_path)
    (tmp_path / "s" / "more.txt").write_text("x")
    with pytest.raises(ValueError, match="not in the manifest"):
        verify_manifest(tmp_path)
    (tmp_path / "s" / "more.txt").unlink()
    write_shard(tmp_path / "s" / "data.parquet", [SHORT])
    with pytest.raises(ValueError, match="differs from the manifest"):
        verify_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 0}')
    with pytest.raises(ValueError, match="schema version 0"):
        read_manifest(tmp_path)


def test_table_from_rows_fills_what_is_left_out() -> None:
    assert table_from_rows([SHORT])["audio"].null_count == 1
