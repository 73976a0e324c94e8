"""Tars of WebDataset, written by its own library, and the three outputs of img2dataset."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from tests.data.importers.conftest import Import, Row


def write_tar(path: Path, samples: list[dict[str, Any]]) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)


def samples_of(pictures: list[Row]) -> list[dict[str, Any]]:
    """As WebDataset's documentation has them; values that are not bytes are encoded by its writer."""
    return [
        {
            "__key__": f"part/{number:04d}",
            "webp": row["image"]["bytes"],
            "txt": row["text"],
            "json": {"concept": row["concept"], "score": number},
            "cls": number,
        }
        for number, row in enumerate(pictures)
    ]


@pytest.mark.parametrize("name", ["train-0000.tar", "train-0000.tar.gz", "train-0000.tar.xz"])
def test_webdataset(bring: Import, tmp_path: Path, pictures: list[Row], sounds: list[Row], name: str) -> None:
    ogg = {"__key__": "sound", "ogg": sounds[0]["audio"]["bytes"], "transcript.txt": "x", "npy": b"\0"}
    write_tar(tmp_path / name, [*samples_of(pictures), ogg])
    write_tar(tmp_path / "val-0000.tar", samples_of(pictures[:2]))  # the same keys once more
    done = bring(tmp_path)
    assert (done.summary["format"], len(done.rows), done.rejected) == ("webdataset", 15, {})
    for number, row in enumerate(pictures):
        found = done.rows[f"train-0000/part/{number:04d}"]
        assert found["image"] == {"bytes": row["image"]["bytes"], "path": f"{number:04d}.webp"}
        assert (found["text"], found["concept"], found["split"]) == (row["text"], row["concept"], "train")
        assert found["metadata"] == {"score": str(number), "cls": str(number)}
    assert done.rows["train-0000/sound"]["audio"]["bytes"] == sounds[0]["audio"]["bytes"]
    assert done.rows["val-0000/part/0000"]["split"] == "validation"


@pytest.mark.parametrize("keep", [0.5, 0.97])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_tar_gives_what_is_whole(
    bring: Import, tmp_path: Path, pictures: list[Row], keep: float, packed: bool
) -> None:
    write_tar(tmp_path / "a.tar", samples_of(pictures))
    data = (tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    if packed:
        (tmp_path / "a.tar").unlink()
        data = gzip.compress(data, mtime=0)
    (tmp_path / ("a.tar.gz" if packed else "a.tar")).write_bytes(data[: int(len(data) * keep)])
    write_tar(tmp_path / "b.tar", samples_of(pictures[:3]))
    done = bring(tmp_path)
    whole = [i for i in done.rows if i.startswith("a/")]
    assert 2 <= len(whole) < len(pictures)
    for number, name in enumerate(whole):
        assert done.rows[name]["image"]["bytes"] == pictures[number]["image"]["bytes"]
    (reason,) = done.rejected.values()
    assert "damaged or cut off" in reason
    assert sum(i.startswith("b/") for i in done.rows) == 3  # the next archive is read all the same


def test_odd_members(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    data = pictures[0]["image"]["bytes"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            tar.addfile(info, io.BytesIO(content))

        add("../../up.webp", data)
        add("/absolute.webp", data)
        add("link.webp", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add("pipe.webp", kind=tarfile.FIFOTYPE)
        add("folder", kind=tarfile.DIRTYPE)
        add("ü/猫.webp", data)
        add("two.webp", data)
        add("two.png", data)
        add("same.webp", data)
        add("same.webp", data)
        add("bad.json", b"{")
        add("html.jpg", b"<html></html>")
        add("alone.json", b'{"x": 1}')
        add("text.txt", b"words alone")
    done = bring(tmp_path / "a.tar")
    # Names are ids and nothing else: nothing is ever written under them.
    assert set(done.rows) == {"a/../../up", "a//absolute", "a/ü/猫", "a/text"}
    expected = {
        "a/two": "one image at most",
        "a/same": "two files end in .webp",
        "a/bad": "not JSON",
        "a/html": "a text file",
        "a/alone": "neither a medium nor text",
    }
    assert {name: expected[name] in reason for name, reason in done.rejected.items()} == dict.fromkeys(
        expected, True
    )
    assert not list(tmp_path.parent.parent.glob("up.webp"))


META = pa.schema([(n, pa.string()) for n in ("caption", "url", "key", "status", "error_message", "sha256")])


def meta(number: int, row: Row, failed: bool) -> dict[str, Any]:
    return {
        "caption": row["text"],
        "url": f"https://example.org/{number}.jpg",
        "key": f"{number:09d}",
        "status": "failed_to_download" if failed else "success",
        "error_message": "HTTP Error 404: Not Found" if failed else None,
        "sha256": None if failed else "ab" * 32,
    }


@pytest.fixture
def metas(pictures: list[Row]) -> list[dict[str, Any]]:
    return [meta(number, row, failed=number % 4 == 3) for number, row in enumerate(pictures)]


def check_img2dataset(done: Any, pictures: list[Row], prefix: str, key: str = "{:09d}") -> None:
    assert done.summary["format"] == "img2dataset"
    assert (len(done.rows), len(done.rejected)) == (9, 3)
    for number, row in enumerate(pictures):
        name = prefix + key.format(number)
        if number % 4 == 3:
            assert "HTTP Error 404" in done.rejected[name]
            assert f"https://example.org/{number}.jpg" in done.rejected[name]
        else:
            assert done.rows[name]["image"]["bytes"] == row["image"]["bytes"]
            assert done.rows[name]["text"] == row["text"]
            assert done.rows[name]["metadata"]["url"] == f"https://example.org/{number}.jpg"


def test_img2dataset_webdataset(
    bring: Import, tmp_path: Path, pictures: list[Row], metas: list[dict[str, Any]]
) -> None:
    samples = [
        {
            "__key__": m["key"],
            "jpg": row["image"]["bytes"],
            "txt": row["text"],
            "json": json.dumps(m, indent=4),
        }
        for m, row in zip(metas, pictures, strict=True)
        if m["status"] == "success"
    ]
    with webdataset.TarWriter(
        str(tmp_path / "00000.tar"),
        encoder=lambda s: {
            k: v.encode() if isinstance(v, str) and k != "__key__" else v for k, v in s.items()
        },
    ) as writer:
        for sample in samples:
            writer.write(sample)
    pq.write_table(pa.Table.from_pylist(metas, META), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text('{"count": 12, "successes": 9}')
    check_img2dataset(bring(tmp_path), pictures, "00000/")
    # An interrupted img2dataset leaves a tar without its table.
    (tmp_path / "00001.tar").write_bytes((tmp_path / "00000.tar").read_bytes())
    more = bring(tmp_path, out="more")
    assert (len(more.rows), len(more.rejected)) == (18, 3)


def test_img2dataset_files(
    bring: Import, tmp_path: Path, pictures: list[Row], metas: list[dict[str, Any]]
) -> None:
    (tmp_path / "00000").mkdir()
    for m, row in zip(metas, pictures, strict=True):
        if m["status"] == "success":
            (tmp_path / "00000" / f"{m['key']}.jpg").write_bytes(row["image"]["bytes"])
            (tmp_path / "00000" / f"{m['key']}.txt").write_text(row["text"])
            (tmp_path / "00000" / f"{m['key']}.json").write_text(json.dumps(m, indent=4))
    pq.write_table(pa.Table.from_pylist(metas, META), tmp_path / "00000.parquet")
    check_img2dataset(bring(tmp_path), pictures, "00000/")


def test_img2dataset_parquet(
    bring: Import, tmp_path: Path, pictures: list[Row], metas: list[dict[str, Any]]
) -> None:
    rows = [
        {**m, "jpg": None if m["status"] != "success" else row["image"]["bytes"], "txt": m["caption"]}
        for m, row in zip(metas, pictures, strict=True)
    ]
    schema = META.append(pa.field("jpg", pa.binary())).append(pa.field("txt", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "00000.parquet", row_group_size=5)
    check_img2dataset(bring(tmp_path), pictures, "00000-", "{:08d}")


def test_img2dataset_table_alone(bring: Import, tmp_path: Path, metas: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(metas, META), tmp_path / "00000.parquet")
    done = bring(tmp_path)
    assert (len(done.rows), len(done.rejected)) == (0, 12)
    assert all("no tar or folder" in reason for reason in done.rejected.values())
