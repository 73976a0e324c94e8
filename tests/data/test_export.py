"""Samples sent out, opened by the libraries that own the formats, and brought back."""

import hashlib
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import trl
import webdataset
from PIL import Image

from sensorium.cli import main
from sensorium.data.exporters import export_data
from sensorium.data.importers import import_data
from sensorium.data.importers.base import Options
from sensorium.data.schema import medium, message
from sensorium.data.shards import read_shard
from sensorium.data.writer import ShardWriter
from sensorium.media.image import decode_image
from sensorium.starter import load_table
from tests.data.importers.conftest import Row


def starter_rows(source: str, count: int) -> list[Row]:
    return load_table(source).slice(0, count).to_pylist(maps_as_pydicts="strict")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    pictures, sounds, questions = (starter_rows(s, 8) for s in ("noto", "scratch", "easy-vqa"))
    media = [row["image"] for row in pictures]
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 200)]
    animation = io.BytesIO()
    frames[0].save(animation, format="GIF", save_all=True, append_images=frames[1:])
    common = {"source": "made", "license": "MIT", "attribution": "Ann", "split": "train"}
    edit = {
        **common,
        "id": "edit/1",
        "messages": [
            message("system", "Edit."),
            message("user", {"type": "image"}, "and", {"type": "image"}, "make one; say <image>"),
            message("assistant", {"type": "image"}, "Done."),
        ],
        "images": [*media[:2], media[0]],
        "metadata": {"ü": "1", "a": "{}"},
    }
    film = {
        **common,
        "id": "film/1",
        "text": "a bright film",
        "image": media[0],
        "audio": sounds[0]["audio"],
        "video": medium(animation.getvalue(), "film.gif"),
        "segments": [{"start_s": 0.0, "end_s": 0.5, "text": "dark"}],
        "names": {"de": "Füße", "ja": "足"},
    }
    talk = {
        **common,
        "id": "talk/1",
        "split": "test",
        "messages": [message("user", {"type": "audio"}, "?"), message("assistant", "rain")],
        "audios": [sounds[0]["audio"]],
    }
    return [*pictures, *sounds, *questions, edit, film, talk]


@pytest.fixture(scope="module")
def shards(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards") / "mine"
    with ShardWriter(root, shard_bytes=12_000) as writer:
        for ordinal, row in enumerate(rows):
            writer.write(row, ordinal)
    assert len(list(root.glob("train-*.parquet"))) > 2
    return root


def by_id(root: Path) -> dict[str, Row]:
    tables = [read_shard(path) for path in sorted(root.glob("*.parquet"))]
    return {row["id"]: row for table in tables for row in table.to_pylist(maps_as_pydicts="strict")}


def run(*line: str | Path) -> None:
    assert main(["data", *map(str, line)]) == 0


@pytest.mark.parametrize("to", ["webdataset", "datasets"])
def test_there_and_back_nothing_changes(shards: Path, tmp_path: Path, to: str) -> None:
    run("export", shards, "--to", to, "--out", tmp_path / "out")
    run("import", tmp_path / "out", "--out", tmp_path / "back")
    assert by_id(tmp_path / "back") == by_id(shards)


def test_webdataset_opens_the_tars(shards: Path, rows: list[Row], tmp_path: Path) -> None:
    run("export", shards, "--to", "webdataset", "--out", tmp_path / "out")
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    raw = {
        json.loads(sample["json"])["id"]: sample
        for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    }
    assert set(raw) == {row["id"] for row in rows}
    picture, sound = rows[0], rows[8]
    assert raw[picture["id"]]["webp"] == picture["image"]["bytes"]
    assert raw[picture["id"]]["txt"].decode() == picture["text"]
    fields = json.loads(raw[picture["id"]]["json"])
    assert (fields["license"], fields["names"]) == (picture["license"], picture["names"])
    assert raw[sound["id"]]["ogg"] == sound["audio"]["bytes"]
    assert {"images.0.webp", "images.1.webp", "images.2.webp"} <= set(raw["edit/1"])
    assert {"webp", "ogg", "video.gif", "txt"} <= set(raw["film/1"])
    train = [tar for tar in tars if "train-" in tar]
    decoded = next(iter(webdataset.WebDataset(train[0], shardshuffle=False).decode("rgb8")))
    assert np.array_equal(decoded["webp"], Image.open(io.BytesIO(picture["image"]["bytes"])).convert("RGB"))
    assert decoded["json"]["id"] == picture["id"]


def test_datasets_opens_the_parquet(shards: Path, rows: list[Row], tmp_path: Path) -> None:
    run("export", shards, "--to", "datasets", "--out", tmp_path / "out")
    opened = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    want: dict[str, int] = {}
    for row in rows:
        want[row["split"]] = want.get(row["split"], 0) + 1
    assert {split: part.num_rows for split, part in opened.items()} == want
    train = opened["train"]
    features = train.features
    assert features["image"] == datasets.Image()
    assert features["audio"] == datasets.Audio()
    assert features["video"] == datasets.Video()
    assert features["images"] == datasets.List(datasets.Image())
    assert list(train["id"]) == [row["id"] for row in rows if row["split"] == "train"]
    # Pictures come decoded; sounds would too with torchcodec, and are read from their bytes without.
    pictures = train.select_columns(["image"])
    assert pictures[0]["image"].convert("RGB").size == decode_image(rows[0]["image"]["bytes"]).shape[1::-1]
    sounds = train.cast_column("audio", datasets.Audio(decode=False)).select_columns(["audio"])
    place = list(train["id"]).index(rows[8]["id"])
    samples, _ = soundfile.read(io.BytesIO(sounds[place]["audio"]["bytes"]))
    assert len(samples) > 1000
    edit = train.select_columns(["images", "messages"])[list(train["id"]).index("edit/1")]
    assert [image.size for image in edit["images"]] == [
        decode_image(m["bytes"]).shape[1::-1] for m in rows[-3]["images"]
    ]


def test_trl_takes_the_messages(tmp_path: Path) -> None:
    questions = starter_rows("easy-vqa", 8)
    with ShardWriter(tmp_path / "shards") as writer:
        for ordinal, row in enumerate(questions):
            writer.write({**row, "split": "train"}, ordinal)
    run("export", tmp_path / "shards", "--to", "datasets", "--out", tmp_path / "out")
    opened = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    # Columns that no sample uses do not travel: TRL would take a column of empty texts for the data.
    assert set(opened["train"].column_names) == {
        *("id", "split", "language", "source", "license", "attribution", "messages", "images")
    }
    example = opened["train"][0]
    assert trl.is_conversational(example)
    assert trl.maybe_convert_to_chatml(example)["messages"] == example["messages"]
    prepared = trl.prepare_multimodal_messages(example["messages"], images=example["images"])
    assert prepared[0]["content"][0]["image"].size == example["images"][0].size
    assert prepared[0]["content"][1]["text"] == questions[0]["messages"][0]["content"][1]["text"]
    text = trl.is_conversational({"text": "x"})
    assert not text


def digests(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.iterdir())}


@pytest.mark.parametrize("to", ["webdataset", "datasets"])
def test_interrupted_and_continued_gives_the_same_bytes(shards: Path, tmp_path: Path, to: str) -> None:
    whole = export_data(shards, tmp_path / "whole", to=to)
    for stop in (1, 9, 20):

        def interrupt(at: float, num_rows: int, stop: int = stop) -> None:
            if num_rows >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_data(shards, tmp_path / "parts", to=to, on_progress=interrupt)
    times = {
        p.name: p.stat().st_mtime_ns
        for p in (tmp_path / "parts").glob(f"*.{'tar' if to == 'webdataset' else 'parquet'}")
    }
    assert times
    assert export_data(shards, tmp_path / "parts", to=to) == whole
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    for name, time in times.items():
        assert (tmp_path / "parts" / name).stat().st_mtime_ns == time  # finished files were kept


def test_a_file_with_several_splits_becomes_several_files(tmp_path: Path) -> None:
    from sensorium.starter import starter_sources

    done = export_data(starter_sources()["noto"], tmp_path / "out", to="datasets")
    assert done["files"] == ["train-00000.parquet", "validation-00000.parquet", "test-00000.parquet"]
    import_data(tmp_path / "out", tmp_path / "back", format="datasets", options=Options())
    want = {row["id"]: row for row in load_table("noto").to_pylist(maps_as_pydicts="strict")}
    assert by_id(tmp_path / "back") == want


def test_mistakes(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.parquet").write_bytes(b"PAR1")
    for line, fragment in (
        ([shards, "--to", "zip", "--out", tmp_path / "o"], "webdataset or datasets"),
        ([shards, "--to", "datasets", "--out", tmp_path / "full"], "not empty"),
        ([tmp_path / "gone", "--to", "datasets", "--out", tmp_path / "o"], "no shards"),
        ([tmp_path / "other", "--to", "datasets", "--out", tmp_path / "o"], "cannot be read as Parquet"),
        ([shards, "--to", "datasets", "--out", shards], "another folder"),
        ([shards, "--to", "datasets"], "--out is missing"),
    ):
        assert main(["data", "export", *map(str, line)]) == 2
        assert fragment in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
