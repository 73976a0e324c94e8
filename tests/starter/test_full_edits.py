"""Edit pairs: what changes, what stays, how it is told, and which split it belongs to."""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sensorium.data.schema import check_row, table_from_rows
from sensorium.data.splits import split_of
from sensorium.starter.builder.full import edits
from sensorium.starter.builder.full.cutouts import Cutout
from sensorium.starter.builder.full.edit_ops import OPERATIONS
from sensorium.starter.builder.full.edit_world import Pair, World, compose, place
from sensorium.starter.builder.full.recolour import main_colour, with_colour
from sensorium.starter.builder.full.scenes import SCENES, scene

LANGUAGES = ("en", "de", "es", "fr")


def cutout(name: str, colour: tuple[int, int, int], *, tones: bool = False) -> Cutout:
    """A thing that looks different from all sides: an L with a dot."""

    def drawn(fill: tuple[int, int, int]) -> bytes:
        image = Image.new("RGBA", (96, 96))
        draw = ImageDraw.Draw(image)
        draw.rectangle((8, 8, 36, 90), fill=(*fill, 255))
        draw.rectangle((8, 64, 88, 90), fill=(*fill, 255))
        draw.ellipse((60, 20, 80, 40), fill=(60, 60, 60, 255))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    return Cutout(
        key=f"made/{name}",
        concept=name,
        names=dict.fromkeys(LANGUAGES, name),
        license="CC0-1.0",
        attribution="drawn by a test",
        data=drawn(colour),
        tones={"light": drawn((250, 220, 190)), "dark": drawn((90, 60, 40))} if tones else {},
    )


CAT, DOG, OWL = cutout("cat", (220, 40, 40)), cutout("dog", (50, 90, 210)), cutout("owl", (70, 170, 80))
TWIN = replace(CAT, key="fluent/cat", data=cutout("cat", (240, 120, 120)).data)
WORLD = World(
    things=(CAT, DOG, OWL),
    twins=((replace(CAT, key="noto/cat"), TWIN),),
    toned=(cutout("judge", (240, 200, 60), tones=True),),
    photos={
        "forest": scene("forest", np.random.default_rng(0)),
        "lake": scene("beach", np.random.default_rng(0)),
    },
)
SOURCE = edits.EditSource(
    name="edits-made", num_pairs=4, operations=dict.fromkeys(OPERATIONS, 1), styles=(), packages=()
)


def pairs(operation: str, count: int = 12) -> Iterator[Pair]:
    for number in range(count):
        pair = OPERATIONS[operation](np.random.default_rng(number), WORLD)
        if pair is not None:
            yield pair


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.int16)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_edit_can_be_seen_and_leaves_the_rest(operation: str) -> None:
    found = list(pairs(operation))
    assert any(pair.is_visible for pair in found)
    for pair in found:
        assert pair.before.size == pair.after.size == (128, 128)
        assert pair.before.mode == pair.after.mode == "RGB"
        if pair.box is not None:
            left, top, right, bottom = (max(0, at) for at in pair.box)
            changed = (pixels(pair.before) != pixels(pair.after)).any(axis=2)
            assert changed.any()
            changed[top:bottom, left:right] = False
            assert not changed.any(), "outside of the box nothing changes"


def test_mirrored_is_the_mirror() -> None:
    for pair in pairs("mirror"):
        axis = 1 if pair.wording == "mirror-left-right" else 0
        np.testing.assert_array_equal(pixels(pair.after), np.flip(pixels(pair.before), axis=axis))


def test_removed_is_the_picture_without_the_thing() -> None:
    """What is added and what is removed are the same pixels: the background shows again."""
    for pair in pairs("remove"):
        assert pair.names["name"] is pair.things[0]
        left, top, right, bottom = pair.box or (0, 0, 0, 0)
        hole = pixels(pair.after)[top:bottom, left:right]
        dark = pixels(pair.before)[top:bottom, left:right]
        assert (np.abs(hole - dark).max(axis=2) > 24).mean() > 0.15
    rng = np.random.default_rng(5)
    behind = scene("meadow", rng)
    one, two = place(CAT.image, 50, (35, 66)), place(DOG.image, 50, (93, 66))
    without = pixels(compose(behind, two))
    left, top, right, bottom = one.box
    np.testing.assert_array_equal(without[top:bottom, left:right], pixels(behind)[top:bottom, left:right])


def test_grey_has_no_colour_and_keeps_lightness() -> None:
    for pair in pairs("grey", 4):
        after = pixels(pair.after)
        assert (after.max(axis=2) == after.min(axis=2)).all()
        assert abs(after.mean() - pixels(pair.before.convert("L")).mean()) < 1


def test_a_colour_is_recognised_and_changed() -> None:
    assert main_colour(CAT.image) == "red"
    assert main_colour(DOG.image) == "blue"
    blue = with_colour(CAT.image, "red", "blue")
    assert main_colour(blue) == "blue"
    # The grey dot and the transparent surroundings stay.
    before, after = np.asarray(CAT.image), np.asarray(blue)
    np.testing.assert_array_equal(before[..., 3], after[..., 3])
    grey = (before[..., 3] == 255) & (before[..., :3] == 60).all(axis=2)
    assert grey.sum() > 50
    np.testing.assert_array_equal(before[grey], after[grey])


def test_a_grey_thing_has_no_main_colour() -> None:
    assert main_colour(cutout("stone", (120, 120, 120)).image) is None


def test_a_pair_is_a_function_of_its_number() -> None:
    for number in range(len(OPERATIONS)):
        first, second = (edits.edit_row(SOURCE, WORLD, number) for _ in range(2))
        assert first == second
        check_row(first)
        table_from_rows([first])
        roles = [turn["role"] for turn in first["messages"]]
        assert roles == ["user", "assistant"]
        assert [part["type"] for part in first["messages"][0]["content"]] == ["image", "text"]
        assert [part["type"] for part in first["messages"][1]["content"]] == ["image"]
        assert first["metadata"]["operation"] == sorted(OPERATIONS)[number]
    one, other = (edits.edit_row(SOURCE, WORLD, number) for number in (0, len(OPERATIONS)))
    assert one["images"] != other["images"]


def test_a_pair_belongs_to_the_split_of_the_thing_that_is_kept_away_most() -> None:
    by_split: dict[str, Cutout] = {}
    for name in (f"thing {i}" for i in range(200)):
        by_split.setdefault(split_of(name), replace(CAT, concept=name))
    train, validation, test = (by_split[split] for split in ("train", "validation", "test"))
    assert edits.deciding((train, test, validation)) == (test.concept, "test")
    assert edits.deciding((train, validation)) == (validation.concept, "validation")
    assert edits.deciding((train,)) == (train.concept, "train")


def test_a_style_that_is_held_out_is_only_in_test() -> None:
    source = replace(SOURCE, name="edits-style", operations={"style": 1}, split="test")
    row = edits.edit_row(source, WORLD, 0)
    assert row["split"] == "test"
    assert row["concept"] is None or split_of(row["concept"]) == "test"


def test_pairs_of_a_held_out_style_share_no_picture_with_the_others() -> None:
    apart = replace(WORLD, is_held_out=True)
    pictures = [
        {
            pair.before.tobytes()
            for number in range(80)
            if (pair := OPERATIONS["style"](np.random.default_rng(number), w))
        }
        for w in (WORLD, WORLD, apart)
    ]
    assert pictures[0] & pictures[1]
    assert not pictures[0] & pictures[2]


def test_every_edit_has_many_wordings_in_four_languages() -> None:
    wordings = {pair.wording for operation in OPERATIONS for pair in pairs(operation, 40)}
    assert {"bigger", "smaller", "mirror-left-right", "mirror-up-down"} <= wordings
    for wording in wordings:
        assert len(set(edits.words(wording, "en"))) >= 6, wording
        if wording != "background-photo":
            for language in LANGUAGES[1:]:
                assert len(set(edits.words(wording, language))) >= 2, (wording, language)


def test_every_slot_of_every_wording_can_be_filled() -> None:
    for operation in OPERATIONS:
        for number, pair in enumerate(pairs(operation, 60)):
            for language in LANGUAGES if operation != "background-photo" else ("en",):
                text = edits.instruct(pair, language, np.random.default_rng(number))
                assert "{" not in text
                assert text[0].isupper()
                assert text.endswith((".", ","))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cat", "a cat"),
        ("owl", "an owl"),
        ("glasses", "glasses"),
        ("unicorn", "a unicorn"),
        ("glass", "a glass"),
    ],
)
def test_articles(name: str, said: str) -> None:
    assert edits.with_article(name) == said


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_drawn_the_same_twice_and_differ_by_their_generator(name: str) -> None:
    first, again, other = (scene(name, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.size == (128, 128)
    np.testing.assert_array_equal(pixels(first), pixels(again))
    assert (pixels(first) != pixels(other)).any()
