"""What is learned from, what is held out, how rows become documents, what is replayed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sensorium import mixtures, recipes
from sensorium.config import SourceConfig
from sensorium.data.reader import Reader
from sensorium.data.writer import ShardWriter
from sensorium.finetuning.plan import Options, choose_templates, make_config, replay
from sensorium.finetuning.rows import Rows, content_of, open_rows
from tests.finetune.conftest import COLOURS, write_photos

FIXED = {"source": "mine", "license": "CC0-1.0", "attribution": "me"}


def split_rows(rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return list(Reader(rows.path, "train").rows()), list(Reader(rows.path, "validation").rows())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("held_out", [0.1, 0.3, 0.9])
def test_what_is_held_out_is_nowhere_to_learn_and_every_thing_is(
    photos: Path, tmp_path: Path, held_out: float, seed: int
) -> None:
    rows = open_rows(str(photos), tmp_path, held_out=held_out, seed=seed)
    train, held = split_rows(rows)
    assert (len(train), len(held)) == (rows.num_rows, rows.num_held_out)
    assert len(train) + len(held) == 12
    assert len(held) == max(1, round(held_out * 12))
    assert not {content_of(row) for row in train} & {content_of(row) for row in held}
    if held_out < 0.75:  # of each of three things one of four is left
        assert {row["text"] for row in train} == set(COLOURS)


def test_the_same_picture_is_on_one_side_only(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for name in COLOURS:  # every picture twice, under other names
        for file in sorted((photos / name).iterdir()):
            (photos / name / f"again-{file.name}").write_bytes(file.read_bytes())
    rows = open_rows(str(photos), tmp_path / "out", held_out=0.25, seed=0)
    train, held = split_rows(rows)
    assert (len(train), len(held)) == (18, 6)
    assert not {content_of(row) for row in train} & {content_of(row) for row in held}


def test_another_seed_holds_out_others(photos: Path, tmp_path: Path) -> None:
    held = [
        frozenset(
            r["id"] for r in split_rows(open_rows(str(photos), tmp_path / str(n), held_out=0.3, seed=seed))[1]
        )
        for n, seed in enumerate((0, 0, 1))
    ]
    assert held[0] == held[1] != held[2]


def test_stated_splits_are_kept(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    with ShardWriter(shards) as writer:
        for number, split in enumerate(["train"] * 5 + ["validation"] * 2 + ["test"] * 3):
            writer.write({**FIXED, "id": str(number), "split": split, "text": f"text {number}"}, number)
    rows = open_rows(str(shards), tmp_path / "out", held_out=0.9, seed=0)
    assert (rows.path, rows.num_rows, rows.num_held_out) == (str(shards), 5, 2)
    assert rows.notices == ("3 rows of the split test are left alone",)
    assert not (tmp_path / "out").exists()  # nothing is copied
    # Of a table, too.
    table = tmp_path / "mine.jsonl"
    lines = [{"text": f"text {n}", "split": "val" if n < 2 else "train"} for n in range(5)]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = open_rows(str(table), tmp_path / "out", held_out=0.9, seed=0)
    assert (rows.num_rows, rows.num_held_out, rows.how) == (3, 2, "the data's split validation")


def test_words_beside_pictures_come_before_the_names_of_folders(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", num=2)
    for file in photos.rglob("*.png"):
        file.with_suffix(".txt").write_text(f"caption of {file.parent.name} {file.stem}")
    train, held = split_rows(open_rows(str(photos), tmp_path / "out", held_out=0.3, seed=0))
    assert all(row["text"].startswith("caption of ") and not row["concept"] for row in [*train, *held])


def test_a_picture_that_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", num=2)
    (photos / "ocean" / "broken.png").write_bytes(b"no picture")
    rows = open_rows(str(photos), tmp_path / "out", held_out=0.3, seed=0)
    assert rows.num_rows + rows.num_held_out == 6
    (notice,) = rows.notices
    assert "1 samples cannot be used" in notice
    assert "broken" in notice


def row(**columns: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("text", "messages", "names", "image", "audio", "video", "segments"))
    return {**empty, "id": "x", **columns}


def test_templates_follow_the_form_of_the_rows_and_what_the_model_knows() -> None:
    everything = {"pair", "embed", "caption", "translate"}
    picture = row(image={"bytes": b"x"}, text="a", names={"en": "a", "de": "b"})
    assert set(choose_templates([picture], everything)) == everything
    assert set(choose_templates([picture], {"pair", "embed"})) == {"pair", "embed"}
    assert choose_templates([picture], set()) == {"pair": 1.0}
    assert "translate" not in choose_templates([row(image={"bytes": b"x"}, text="a")], everything)
    assert choose_templates([row(messages=[1])], everything) == {"chat": 1.0}
    assert choose_templates([row(text="a")], everything) == {"text": 1.0}
    with pytest.raises(ValueError, match=r"several forms \(pair for x and text for x\)"):
        choose_templates([picture, row(text="a")], everything)
    with pytest.raises(ValueError, match="no row has words to learn"):
        choose_templates([row(image={"bytes": b"x"})], everything)


def test_replay_takes_what_is_here_and_says_so(tmp_path: Path) -> None:
    config = recipes.nano()
    sources, what = replay(config, 0.5, "starter:noto")
    assert sum(source.weight for source in sources) == pytest.approx(0.5)
    assert not any(source.evaluated for source in sources)
    assert "starter:noto" not in {source.path for source in sources}
    assert what == "50% 8 of the 9 sources that the model was trained on"
    gone = dataclasses.replace(
        config, data=dataclasses.replace(config.data, sources=(SourceConfig(path=str(tmp_path), weight=1),))
    )
    sources, what = replay(gone, 0.2, "mine")
    assert {source.path for source in sources} == {source.path for source in mixtures.STARTER_SOURCES}
    assert "the model's own are not here" in what
    assert replay(config, 0.0, "mine")[0] == ()


def test_a_model_without_sound_is_not_given_sounds_again() -> None:
    config = recipes.nano()
    image = {"image": config.model.modalities["image"]}
    deaf = dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=image))
    sources, _ = replay(deaf, 0.5, "mine")
    assert {source.path for source in sources} == {
        f"starter:{name}" for name in ("noto", "fluent", "openclipart", "easy-vqa", "wordnet")
    }
    sounds = Rows(path="starter:scratch", num_rows=94, num_held_out=8, how="")
    with pytest.raises(ValueError, match="has audio, and the model nano knows text, image"):
        make_config(deaf, sounds, Options())


@pytest.mark.parametrize(
    ("option", "value"),
    [("replay", 1.0), ("replay", -0.1), ("held_out", 0.0), ("num_steps", 0), ("patience", -1), ("lr", -1.0)],
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; expected"):
        Options(**{option: value})
