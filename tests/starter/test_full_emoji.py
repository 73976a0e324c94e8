"""Emoji of the full starter data: their names, their concepts, and the drawing styles."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensorium import recipes
from sensorium.data.schema import check_row
from sensorium.data.splits import split_of
from sensorium.starter.builder.full import card, emoji, emoji_sets
from sensorium.starter.builder.pictures import listed_concepts


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("waving hand: medium-dark skin tone", "waving hand"),
        ("woman judge: light skin tone", "judge"),
        ("woman dancing", "woman dancing"),
        ("men wrestling", "people wrestling"),
        ("man: dark skin tone, red hair", "man"),
        ("man in manual wheelchair facing right", "person in manual wheelchair"),
        ("kiss: woman, man", "kiss"),
        ("flag: France", "flag: france"),
        ("keycap: 1", "keycap: 1"),
    ],
)
def test_variants_of_an_emoji_are_one_concept(name: str, concept: str) -> None:
    known = frozenset({"judge", "people wrestling", "person in manual wheelchair", "waving hand"})
    assert emoji.emoji_concept(name, known) == concept


def test_the_embedded_concepts_keep_their_split() -> None:
    known = frozenset(listed_concepts())
    assert [name for name in known if emoji.emoji_concept(name, known) != name] == []


def test_names_of_regional_variants_are_kept_where_they_differ() -> None:
    def annotations(name: str) -> bytes:
        return (
            b'{"annotations": {"annotations": {"\\ud83c\\udf4e": {"default": ["fruit"], "tts": ["%s"]}}}}'
            % name.encode()
        )

    names = emoji.cldr_names(
        [
            ("package/annotations/en-AU/annotations.json", annotations("apple")),
            ("package/annotations/en/annotations.json", annotations("apple")),
            ("package/annotations/en-CA/annotations.json", annotations("Apple")),
            ("package/annotations/de/annotations.json", annotations("Apfel")),
            ("package/annotations/fr/annotations.json", annotations("↑↑↑")),
        ]
    )
    assert names == {
        "1f34e": {"de": ["Apfel", "fruit"], "en": ["apple", "fruit"], "en-CA": ["Apple", "fruit"]}
    }


def test_drawings_of_a_set_are_found_by_the_names_of_emoji(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    red = '<path fill="red" d="M0 0h8v4H0z"/>'
    icon_set = {
        "width": 8,
        "height": 8,
        "icons": {
            "alarmclock": {"body": red},
            "cats-eye": {"body": red, "width": 16, "left": 2},
            "waving-hand-dark-skin-tone": {"body": red},
            "unknownthing": {"body": red},
            "redheart": {"body": red},
        },
        "aliases": {
            "alarm-clock": {"parent": "alarmclock"},
            "dog": {"parent": "cats-eye"},
            "right-arrow": {"parent": "alarmclock", "hFlip": True},
        },
    }
    drawn = dict(emoji_sets.icons(icon_set))
    assert set(drawn) == {*icon_set["icons"], "alarm-clock", "dog"}
    assert b'viewBox="0 0 8 8"' in drawn["alarm-clock"]
    assert b'viewBox="2 0 16 8"' in drawn["dog"] == drawn["cats-eye"]
    icon_set["icons"]["keycap"] = {"body": red}
    names = (
        "alarm clock",
        "cat\u2019s eye",
        "Dog",
        "right arrow",
        "red heart",
        "waving hand: dark skin tone",
    )
    names += ("keycap: *", "keycap: #")  # the same letters: neither is drawn
    known = {
        str(number): emoji.Emoji(names={"en": name, "de": "x"}, keywords="", metadata={})
        for number, name in enumerate(names)
    }
    # OpenMoji draws a dog of its own, which has no say here.
    extra = {"e123": emoji.Emoji(names={"en": "dog"}, keywords="", metadata={})}
    monkeypatch.setattr(emoji_sets, "cldr_emoji", lambda folder: known)
    monkeypatch.setattr(emoji, "emoji_names", lambda folder: known | extra)
    monkeypatch.setattr(emoji_sets, "fetch", lambda package, folder: folder)
    monkeypatch.setattr(emoji_sets, "read_texts", lambda path, name: (json.dumps(icon_set),))
    for style in emoji_sets.SETS:
        rows = list(emoji_sets.set_rows(tmp_path, style))
        # Where all is black, nothing is named by its colour.
        red_heart = set() if style.source in ("fluent-high-contrast", "emojitwo-monotone") else {"red heart"}
        assert {row["text"] for row in rows} == {"alarm clock", "cat\u2019s eye", "Dog"} | red_heart
        for row in rows:
            check_row(row)
            assert row["source"] == row["metadata"]["style"] == style.source
            assert row["license"] == style.license
            assert set(row["names"]) == {"en", "de"}
            assert row["license"] in card._LINKS
            assert row["split"] == split_of(row["concept"])
        pixels = np.asarray(Image.open(io.BytesIO(rows[0]["image"]["bytes"])).convert("RGB"), np.int16)
        assert pixels.shape == (128, 128, 3)
        assert np.abs(pixels[20, 64] - (255, 0, 0)).max() < 12
        assert np.abs(pixels[100, 64] - 255).max() < 12


def test_the_style_of_tests_is_in_no_recipe() -> None:
    for name in recipes.RECIPES:
        data = recipes.get(name).data
        assert not [s.path for s in (*data.sources, *data.clean_sources) if "openmoji" in s.path]
