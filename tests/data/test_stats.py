"""Counts, histograms and the tokens of an epoch, against what they are made from."""

import dataclasses

import numpy as np
import pytest

from sensorium import recipes
from sensorium.data.scan import Rows, documents_of_row, find_shards
from sensorium.data.schema import medium, row_from_table
from sensorium.data.stats import MEASURES, collect, histogram, pack_epoch
from sensorium.sequence.document import layout
from sensorium.sequence.packing import assign_rows
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import load_table
from tests.data.bad_samples import bad_rows, clip, good_row, picture, sound, write_raw

CONFIG = recipes.get("nano")


def tokens(row: dict, template: str) -> list[int]:
    tokenizer = Tokenizer.load(CONFIG.tokenizer)
    documents = documents_of_row(row, template, CONFIG, tokenizer, np.random.default_rng(0))
    return [len(layout(d.segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb)) for d in documents]


@pytest.fixture
def rows() -> list[dict]:
    table = load_table("noto")
    emoji = [row_from_table(table, index) for index in range(20)]
    return [
        *emoji,
        good_row("sound", text="meow", audio=medium(sound(), "a.ogg"), language="de"),
        good_row("words", text="a gloss", language=None),
        good_row("clip", text="a clip", video=medium(clip(), "a.mp4"), split="test"),
        good_row("long", text="a red car " * 1000),
        good_row("cut", text="x", image=medium(picture()[:100], "a.webp")),
        good_row("mute", image=medium(picture(), "a.webp")),
    ]


def test_counts_and_measures(tmp_path, rows):
    write_raw(tmp_path / "a.parquet", rows)
    values = collect(Rows(find_shards(str(tmp_path))), CONFIG).as_dict()
    assert values["num_rows"] == 26
    assert values["counts"]["source"] == {"noto": 20, "bad": 6}
    assert values["counts"]["split"]["test"] == sum(row["split"] == "test" for row in rows)
    assert values["counts"]["language"] == {"en": 24, "de": 1, "(none)": 1}
    histograms = values["histograms"]
    assert set(histograms) == set(MEASURES)
    for about in histograms.values():
        assert sum(about["counts"]) == about["count"]
        assert about["min"] <= about["median"] <= about["p95"] <= about["max"]
    # One of the 22 pictures does not decode.
    assert histograms["image_pixels"]["count"] == 21
    assert values["image_sizes"] == {"64 x 64": 21}
    assert histograms["medium_bytes"]["count"] == 23
    assert histograms["text_length"]["max"] == 10_000
    assert histograms["audio_duration"]["max"] == pytest.approx(0.5, abs=0.01)


def test_tokens_of_an_epoch(tmp_path, rows):
    write_raw(tmp_path / "a.parquet", rows)
    files = find_shards(str(tmp_path), {"pair": 1.0, "embed": 3.0})
    values = collect(Rows(files), CONFIG)
    emoji = [row for row in rows if row["source"] == "noto" and row["split"] == "train"]
    pair = [tokens(row, "pair") for row in emoji]
    embed = [tokens(row, "embed") for row in emoji]
    assert values.tokens["noto", "pair"] == sum(map(sum, pair))
    assert values.tokens["noto", "embed"] == sum(map(sum, embed))
    assert values.documents["noto", "pair"] == 2 * len(emoji)
    expected = 0.25 * sum(map(sum, pair)) + 0.75 * sum(map(sum, embed))
    assert values.epoch_tokens["noto"] == pytest.approx(expected)
    of_split = sum(row["split"] == "train" for row in rows)
    assert sum(values.left_out.values()) + values.packed["samples"] == of_split
    assert values.left_out["bad", "cannot be read"] == 1
    assert values.left_out["bad", "gives no document"] == 3  # words alone, and a picture without words


def test_the_form_of_a_row_decides_without_templates(tmp_path, rows):
    write_raw(tmp_path / "a.parquet", rows)
    values = collect(Rows(find_shards(str(tmp_path))), CONFIG)
    assert set(values.visited) == {("noto", "pair"), ("bad", "pair"), ("bad", "text")}
    assert values.left_out == {
        ("bad", "longer than a row"): 1,
        ("bad", "no template fits"): 1,
        ("bad", "cannot be read"): 1,
    }
    assert values.packed["samples"] == sum(values.visited.values())
    assert values.packed["tokens"] == sum(values.tokens.values())
    of_test = collect(Rows(find_shards(str(tmp_path))), CONFIG, split="test")
    assert set(of_test.visited) >= {("bad", "watch")}


def test_packing_of_an_epoch():
    lengths = [50, 50, 100, 20, 30, 40, 10, 60]
    per_row = [2, 1, 3, 1, 1]
    packed = pack_epoch(lengths, per_row, 128, 5)
    assert packed["rows"] == len(assign_rows(lengths, 128)) == 3
    assert packed["used"] == round(360 / (3 * 128), 4)
    assert packed["steps"] == 1
    assert packed["samples"] == 5
    alone = pack_epoch(lengths, per_row, 128, 1)
    assert alone["steps"] == 5
    assert alone["rows"] == 5
    assert pack_epoch([], [], 128, 96)["used"] == 0.0


def test_histograms():
    about = histogram("text_length", [1, 1, 2, 3, 4, 1000])
    assert about["edges"][:4] == [1, 2, 4, 8]
    assert about["counts"][:3] == [2, 2, 1]
    assert about["counts"][-1] == 1
    assert about["median"] == 2.5
    assert sum(histogram("audio_duration", [0.0, 0.001, 600.0])["counts"]) == 3
    aspect = histogram("image_aspect", [1.0, 0.1, 100.0])
    assert sum(aspect["counts"]) == 3
    assert aspect["counts"][0] == aspect["counts"][-1] == 1
    assert aspect["edges"][-1] is None


def test_bad_rows_are_left_out_and_counted(tmp_path):
    bad = {name: row for name, row in bad_rows().items() if name != "text_of_a_million"}
    write_raw(tmp_path / "a.parquet", bad.values())
    values = collect(Rows(find_shards(str(tmp_path))), dataclasses.replace(CONFIG))
    assert values.num_rows == len(bad)
    assert values.packed["samples"] < 20
    assert values.as_dict()["epoch"]["left_out"]
