"""Parquet and Arrow as the `datasets` library writes them."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.importers.conftest import Import, Row

FEATURES = datasets.Features(
    {
        "mask": datasets.Image(),
        "image": datasets.Image(),
        "audio": datasets.Audio(),
        "label": datasets.ClassLabel(names=["truck", "Füße"]),
        "caption": datasets.Value("string"),
        "score": datasets.Value("float32"),
    }
)


def table(pictures: list[Row], sounds: list[Row]) -> datasets.Dataset:
    rows: list[dict[str, Any]] = [
        {
            "mask": pictures[-1]["image"],
            "image": picture["image"],
            "audio": sounds[0]["audio"] if number == 1 else None,
            "label": number % 2,
            "caption": picture["text"],
            "score": 0.5,
        }
        for number, picture in enumerate(pictures)
    ]
    # Sounds are encoded already; the library would ask for torchcodec to see that for itself.
    return datasets.Dataset.from_list(rows).cast(FEATURES)


@pytest.mark.parametrize("form", ["parquet", "save_to_disk"])
def test_features(bring: Import, tmp_path: Path, pictures: list[Row], sounds: list[Row], form: str) -> None:
    made = table(pictures, sounds)
    if form == "parquet":
        made.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    else:
        datasets.DatasetDict({"train": made, "test": made.select(range(2))}).save_to_disk(str(tmp_path))
    done = bring(tmp_path)
    assert (done.summary["format"], done.rejected) == ("datasets", {})
    found = [row for row in done.rows.values() if row["split"] == "train"]
    assert [row["image"] for row in found] == [row["image"] for row in pictures]
    assert [row["text"] for row in found] == [row["text"] for row in pictures]
    assert [row["concept"] for row in found[:3]] == ["truck", "Füße", "truck"]
    assert [row["audio"] for row in found[:3]] == [None, sounds[0]["audio"], None]
    assert found[0]["metadata"] == {"score": "0.5"}
    assert sum(row["split"] == "test" for row in done.rows.values()) == (form != "parquet") * 2
    other = bring(tmp_path, "--columns", "image=mask", out="other")
    assert next(iter(other.rows.values()))["image"]["bytes"] == pictures[-1]["image"]["bytes"]


def test_media_beside_the_table(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    """The library may store a path alone; without features the structs are recognised."""
    (tmp_path / "a.webp").write_bytes(pictures[0]["image"]["bytes"])
    media = [
        {"bytes": None, "path": "a.webp"},
        {"bytes": None, "path": "../a.webp"},
        {"bytes": b"", "path": None},
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(media, kind)}), tmp_path / "x.parquet")
    done = bring(tmp_path / "x.parquet")
    assert done.one()["image"] == pictures[0]["image"] | {"path": "a.webp"}
    assert ["outside" in reason or "is empty" in reason for reason in done.rejected.values()] == [True] * 2


def test_a_damaged_file_is_one_bad_sample(
    bring: Import, tmp_path: Path, pictures: list[Row], sounds: list[Row]
) -> None:
    table(pictures, sounds).to_parquet(str(tmp_path / "a.parquet"))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    holed = whole[:4] + bytes(len(whole) - footer - 4) + whole[-footer:]
    (tmp_path / "c.parquet").write_bytes(holed)
    done = bring(tmp_path)
    assert sum(name.startswith("a-") for name in done.rows) == len(pictures)
    assert any("cannot be read" in reason for name, reason in done.rejected.items() if name.startswith("b-"))
    assert any(name.startswith("c-") for name in done.rejected)


def test_one_data_set_on_disk(bring: Import, tmp_path: Path, pictures: list[Row], sounds: list[Row]) -> None:
    table(pictures, sounds).save_to_disk(str(tmp_path / "data"))  # with a dataset_info.json of its own
    done = bring(tmp_path / "data")
    assert (done.summary["format"], len(done.rows)) == ("datasets", len(pictures))
