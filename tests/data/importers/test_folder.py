"""A folder of media with sidecar files, through the command line."""

import json
import os
from pathlib import Path

import pytest

from tests.data.importers.conftest import Import, Row


def test_media_come_with_their_words_byte_for_byte(
    bring: Import, tmp_path: Path, pictures: list[Row], sounds: list[Row]
) -> None:
    for row in pictures[:3]:
        (tmp_path / row["image"]["path"]).write_bytes(row["image"]["bytes"])
    stem = tmp_path / pictures[0]["image"]["path"]
    stem.with_suffix(".txt").write_text("ein Müll-Auto\n", encoding="utf-8")
    fields = {"caption": "not this", "concept": "lorry", "language": "de", "license": "MIT", "score": 0.5}
    stem.with_suffix(".json").write_text(json.dumps({**fields, "names": {"en": "lorry"}}))
    (tmp_path / pictures[1]["image"]["path"]).with_suffix(".ogg").write_bytes(sounds[0]["audio"]["bytes"])
    done = bring(tmp_path, "--attribution", "Ann", "--license", "CC0-1.0", "--source", "mine")
    assert (done.code, len(done.rows), done.rejected) == (0, 3, {})
    first, second, third = (done.rows[Path(row["image"]["path"]).stem] for row in pictures[:3])
    for row, original in zip((first, second, third), pictures, strict=False):
        assert row["image"] == original["image"]
        assert (row["source"], row["attribution"]) == ("mine", "Ann")
    assert (first["text"], first["concept"], first["language"]) == ("ein Müll-Auto", "lorry", "de")
    assert (first["license"], first["names"]) == ("MIT", {"en": "lorry"})
    assert first["metadata"] == {"caption": "not this", "score": "0.5"}
    assert second["audio"]["bytes"] == sounds[0]["audio"]["bytes"]
    assert (third["text"], third["license"], third["metadata"]) == (None, "CC0-1.0", None)


def test_folders_state_splits_and_concepts(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    for row, place in zip(
        pictures, ("train/cat", "val/cat", "test2017/dog", "dog", "latest/dog"), strict=False
    ):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "x.webp").write_bytes(row["image"]["bytes"])
    done = bring(tmp_path, "--concept-folders")
    assert {i: (r["split"], r["concept"]) for i, r in done.rows.items()} == {
        "train/cat/x": ("train", "cat"),
        "val/cat/x": ("validation", "cat"),
        "test2017/dog/x": ("test", "dog"),
        "dog/x": ("train", "dog"),  # split_of("dog"), as the other one that states nothing
        "latest/dog/x": ("train", "dog"),
    }
    forced = bring(tmp_path, "--split", "validation", out="forced")
    assert {row["split"] for row in forced.rows.values()} == {"validation"}


def test_bad_files_are_rejected_and_the_rest_comes(
    bring: Import, tmp_path: Path, pictures: list[Row]
) -> None:
    data = pictures[0]["image"]["bytes"]
    root = tmp_path / "photos"
    root.mkdir()
    (tmp_path / "secret.webp").write_bytes(data)
    (root / "empty.png").write_bytes(b"")
    (root / "page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    (root / "scan.tif").write_bytes(b"II*\x00" + bytes(60))
    (root / "link.webp").symlink_to(tmp_path / "secret.webp")
    (root / "broken.webp").write_bytes(data)
    (root / "broken.json").write_text('{"caption": "cut of')
    (root / "good.webp").write_bytes(data)
    (root / "inner.webp").symlink_to(root / "good.webp")
    (root / ".hidden.webp").write_bytes(data)
    (root / "lost.txt").write_text("my picture is gone")
    done = bring(root, max_bad="0.5")
    assert set(done.rows) == {"good", "inner"}
    expected = {
        "empty": "is empty (0 bytes)",
        "page": "is a text file",
        "scan": "is a TIFF picture; expected a picture in PNG, JPEG, WEBP, GIF, BMP;",
        "link": "outside the media root",
        "broken": "is not JSON",
    }
    assert set(done.rejected) == set(expected)
    for name, fragment in expected.items():
        assert fragment in done.rejected[name]
        assert str(tmp_path) not in done.rejected[name]
    assert done.code == 1  # five of seven
    assert any("lost.txt" in notice for notice in done.summary["notices"])
    allowed = bring(root, "--allow-outside", out="allowed")
    assert allowed.rows["link"]["image"]["bytes"] == data


@pytest.mark.parametrize("name", ["Füße 猫.webp", "a'b;$(c) d.webp", "wide name\u3000x.webp"])
def test_names_in_any_script(bring: Import, tmp_path: Path, pictures: list[Row], name: str) -> None:
    (tmp_path / name).write_bytes(pictures[0]["image"]["bytes"])
    row = bring(tmp_path).one()
    assert (row["id"], row["image"]["path"]) == (name.removesuffix(".webp"), name)


def test_a_name_that_is_not_utf8(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.webp")).write_bytes(pictures[0]["image"]["bytes"])
    except OSError:
        pytest.skip("this file system holds names in UTF-8 alone")
    row = bring(tmp_path).one()
    assert (row["id"], row["image"]["bytes"]) == ("caf\\udce9", pictures[0]["image"]["bytes"])


def test_the_same_folder_gives_the_same_bytes(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    for row in reversed(pictures):
        (tmp_path / row["image"]["path"]).write_bytes(row["image"]["bytes"])
    (tmp_path / "bad.png").write_bytes(b"")
    one, two = bring(tmp_path, out="one").out, bring(tmp_path, out="two").out
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert {"manifest.json", "rejected.jsonl", "train-00000.parquet"} <= set(names)
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_notes_beside_media_are_no_table(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    (tmp_path / "cat.webp").write_bytes(pictures[0]["image"]["bytes"])
    (tmp_path / "notes.json").write_text('{"made": "yesterday"}')
    assert bring(tmp_path).summary["format"] == "folder"


def test_of_several_tables_metadata_is_taken_and_others_are_named(
    bring: Import, tmp_path: Path, pictures: list[Row]
) -> None:
    for name in ("a.webp", "b.webp"):
        (tmp_path / name).write_bytes(pictures[0]["image"]["bytes"])
    (tmp_path / "old.csv").write_text("file_name,text\na.webp,no\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.jsonl").write_text('{"file_name": "../b.webp"}\n')
    (tmp_path / "older.tsv").write_text("file_name\ttext\n")
    folder = bring(tmp_path)
    assert (folder.summary["format"], len(folder.rows)) == ("folder", 2)
    (notice,) = [notice for notice in folder.summary["notices"] if "tables" in notice]
    assert "3 tables were not read, old.csv for one" in notice
    # As the `datasets` library lays folders out.
    (tmp_path / "metadata.csv").write_text("file_name,text\na.webp,a lorry\n")
    table = bring(tmp_path, out="table")
    assert (table.summary["format"], table.one()["text"]) == ("table", "a lorry")


@pytest.mark.parametrize(
    "fields",
    [
        {"segments": [{"start_s": 0}]},
        {"segments": ["x"]},
        {"segments": [{"start_s": 3, "end_s": 1, "text": "x"}]},
        {"names": {"en": 3}},
        [1],
    ],
)
def test_odd_sidecars_reject_their_sample_alone(
    bring: Import, tmp_path: Path, pictures: list[Row], fields: object
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.webp").write_bytes(pictures[0]["image"]["bytes"])
    (tmp_path / "a.json").write_text(json.dumps(fields))
    done = bring(tmp_path)
    assert (set(done.rows), set(done.rejected)) == ({"b"}, {"a"})


def test_options_of_other_formats_are_refused(
    tmp_path: Path, pictures: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    from sensorium.cli import main

    (tmp_path / "a.webp").write_bytes(pictures[0]["image"]["bytes"])
    assert (
        main(["data", "import", str(tmp_path), "--out", str(tmp_path.parent / "o"), "--columns", "image=x"])
        == 2
    )
    assert "--columns is for tables" in capsys.readouterr().err
