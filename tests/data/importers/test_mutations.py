"""Damaged input of every kind: samples are rejected, or one sentence says what is wrong; nothing else happens."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from sensorium.data.importers import Options, import_data
from sensorium.data.schema import MEDIUM
from tests.data.importers.conftest import Row

FORMATS = {
    "x.csv": "table",
    "x.jsonl": "table",
    "x.json": "llava",
    "x.tar": "webdataset",
    "x.tar.gz": "webdataset",
    "x.tar.xz": "webdataset",
    "x.parquet": "datasets",
}


def write(path: Path, pictures: list[Row]) -> None:
    rows = [(row["image"], row["text"]) for row in pictures[:6]]
    if path.suffix == ".csv":
        path.write_text("image,text\n" + "".join(f'{m["path"]},"{text}"\n' for m, text in rows))
    elif path.suffix == ".jsonl":
        lines = [{"image": m["path"], "text": text, "names": {"en": text}} for m, text in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif path.suffix == ".json":
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
        path.write_text(json.dumps([{"image": m["path"], "conversations": turns} for m, _ in rows], indent=1))
    elif path.suffix == ".parquet":
        media = pa.array([m for m, _ in rows], MEDIUM)
        pq.write_table(pa.table({"image": media, "text": [text for _, text in rows]}), path, row_group_size=2)
    else:
        plain = path.with_name("plain.tar")
        with webdataset.TarWriter(str(plain)) as writer:
            for number, (m, text) in enumerate(rows):
                writer.write({"__key__": str(number), "webp": m["bytes"], "txt": text, "json": {"a": 1}})
        data = plain.read_bytes()
        if path.suffix == ".gz":
            import gzip

            data = gzip.compress(data, mtime=0)
        elif path.suffix == ".xz":
            import lzma

            data = lzma.compress(data)
        path.write_bytes(data)


def mutate(data: bytes, rng: random.Random) -> bytes:
    at, to = sorted(rng.randrange(len(data)) for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at + rng.randrange(1, 20) :]
    if kind == 2:
        return data[:at] + b"\xff" * min(200, to - at) + data[min(at + 200, to) :]
    return data[:at] + data[to : to + 300] + data[at:]


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_input(tmp_path: Path, pictures: list[Row], name: str) -> None:
    for row in pictures[:6]:
        (tmp_path / row["image"]["path"]).write_bytes(row["image"]["bytes"])
    write(tmp_path / name, pictures)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    num_rejected = num_mistakes = 0
    for number in range(30):
        (tmp_path / name).write_bytes(mutate(whole, rng))
        out = tmp_path / f"out{number}"
        try:
            done = import_data(tmp_path / name, out, format=FORMATS[name], options=Options())
        except ValueError:
            num_mistakes += 1
            continue
        num_rejected += done.num_rejected
        assert done.num_rows <= 12  # a mutation may repeat some
        assert (out / "manifest.json").exists()
    assert num_rejected + num_mistakes >= 10
    assert num_mistakes < 25
