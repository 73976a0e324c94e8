"""Readers: what is opened, on the disk and in an object store, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.data.reader import Reader
from sensorium.starter import load_table, starter_sources
from tests.data.corpus import loader, mixture, write_pictures, write_texts


def test_a_folder_with_a_manifest_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "pictures", 200)
    monkeypatch.setattr(Reader, "_file", lambda *_: pytest.fail("a file was opened"))
    splits = {split: Reader(str(folder), split).num_rows for split in ("train", "validation", "test")}
    assert sum(splits.values()) == 200
    assert splits["train"] > 150 > splits["test"] > 0


def test_with_and_without_a_manifest_the_rows_are_the_same(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 150)
    listed = list(Reader(str(folder), "train").rows())
    (folder / "manifest.json").unlink()
    assert list(Reader(str(folder), "train").rows()) == listed
    assert [row["id"] for row in Reader("starter:noto", "train").rows()] == [
        row["id"] for row in load_table("noto").to_pylist() if row["split"] == "train"
    ]


def test_few_blocks_stay_in_memory(tmp_path: Path) -> None:
    reader = Reader(str(write_texts(tmp_path / "texts", 2000)), "train", max_blocks=3)
    assert sum(1 for _ in reader.rows()) == 2000
    assert len(reader._rows) == 3
    assert reader.block_sizes.tolist() == [64] * 31 + [16]


def damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def without_split(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), path)


def other_type(path: Path) -> None:
    table = pq.read_table(path)
    at = table.schema.names.index("text")
    pq.write_table(table.set_column(at, "text", pa.array([[1.5]] * table.num_rows)), path)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (damaged, "cannot be read as Parquet"),
        (without_split, "column 'split' is missing.*sensorium data import"),
        (other_type, "another type"),
    ],
)
def test_what_is_no_shard_is_named(tmp_path: Path, spoil: Any, match: str) -> None:
    path = tmp_path / "one.parquet"
    path.write_bytes(starter_sources()["noto"].read_bytes())
    spoil(path)
    with pytest.raises(ValueError, match=match):
        Reader(str(path), "train").block(0)


def test_a_file_that_the_manifest_lists_and_nobody_finds(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts", 100)
    next(folder.glob("*.parquet")).unlink()
    with pytest.raises(ValueError, match=r"train-00000\.parquet is missing"):
        Reader(str(folder), "train").block(0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A local server that speaks S3."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        patch.setenv(name, value)
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("shards")
    yield store
    patch.undo()
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_object_store_gives_the_same_batches(bucket: Any, tmp_path: Path, num_workers: int) -> None:
    folders = [write_pictures(tmp_path / "pictures", 120), write_texts(tmp_path / "texts", 300)]
    for folder in folders:
        bucket.put(str(folder), f"shards/{num_workers}/{folder.name}", recursive=True)
    here = loader(mixture(*map(str, folders)))
    remote = mixture(*(f"s3://shards/{num_workers}/{f.name}" for f in folders), num_workers=num_workers)
    there = loader(remote)
    assert there.sources[0].reader.is_remote
    # The order follows the path, so each source's rows are compared as sets of an epoch.
    batches = [batch for _, batch in there.stream(0, 4)]
    assert sum(len(set(batch.sample_ids)) for batch in batches) == 96
    ours = {row["id"]: row for row in here.sources[0].reader.rows()}
    theirs = {row["id"]: row for row in there.sources[0].reader.rows()}
    assert ours == theirs


def test_the_index_of_a_million_rows_is_small(tmp_path: Path) -> None:
    files = {
        f"train-{n:05d}.parquet": {"split": "train", "row_groups": [64] * 1024, "num_rows": 65536}
        for n in range(16)
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files}))
    for name in files:
        (tmp_path / name).touch()
    reader = Reader(str(tmp_path), "train")
    assert reader.num_rows == 1_048_576
    assert np.unique(reader.block_sizes).tolist() == [64]


def test_a_folder_that_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts", 100)
    shard = folder / "train-00000.parquet"
    (folder / "train-00001.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match=r"train-00001\.parquet is not in the manifest"):
        Reader(str(folder), "train")
    (folder / "train-00001.parquet").unlink()
    (folder / "progress.json").write_text("{}")
    with pytest.raises(ValueError, match="is unfinished"):
        Reader(str(folder), "train")
    (folder / "progress.json").unlink()
    other = write_texts(tmp_path / "other", 30)
    shard.write_bytes((other / "train-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match="has 30 rows, the manifest says 64"):
        Reader(str(folder), "train").block(0)
