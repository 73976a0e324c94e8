"""The generated half of the full starter data: icons, clips, slices, voices, edits; and the driver that builds."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sensorium.data.shards import verify_manifest
from sensorium.data.splits import split_of
from sensorium.starter.builder.full import (
    brain,
    clips,
    driver,
    icons,
    load_sources,
    synthetic,
)
from sensorium.starter.builder.full.card import license_text
from sensorium.starter.builder.full.source import FullSource

LANGUAGES = ("en", "de", "es", "fr")


# Icons


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 20 3 v 10 a 8 8 0 1 1 -16 0 v -10", "M20 3v10a8 8 0 1 1-16 0v-10"),
        ("M0.500,-0.25L+3.0 10", "M.5-.25L3 10"),
        ("m1 2a1 1 0 01.5.25", "m1 2a1 1 0 0 1 .5 .25"),
        ("M1e-2 100", "M1e-2 100"),
    ],
)
def test_a_path_is_short_and_its_numbers_are_the_same(path: str, short: str) -> None:
    assert icons.short_path(path) == short


def test_a_path_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="a command or a number"):
        icons.short_path("M1 2 # 3")


def test_a_drawing_has_one_short_form() -> None:
    icon = (
        '<!-- licence --><svg class="lucide" xmlns="http://www.w3.org/2000/svg" width="24" height="24"\n'
        ' viewBox="0 0 24 24" stroke="currentColor" fill="none"><path stroke="none" d="M0 0h24v24H0z" fill="none"/>'
        '<path d="M 4 4 L 20 20" /></svg>'
    )
    assert icons.canonical_svg(icon) == (
        '<svg xmlns="http://www.w3.org/2000/svg" fill="none" stroke="currentColor" viewBox="0 0 24 24">'
        '<path d="M4 4L20 20"/></svg>'
    )
    assert icons.canonical_svg(icons.canonical_svg(icon)) == icons.canonical_svg(icon)


def test_the_short_form_draws_the_same() -> None:
    pytest.importorskip("resvg_py")
    from sensorium.starter.builder.images import render_svg

    head = '<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24" viewBox="0 0 24 24" fill="none" stroke="#000">'
    icon = (
        f'{head}<path d="M 3 12 a 9 9 0 10 18 0 a 9 9 0 1 0 -18 0"/><circle r="2.50" cx="12" cy="12"/></svg>'
    )
    same = render_svg(icons.canonical_svg(icon).encode())
    assert icons.difference(render_svg(icon.encode()), same) <= icons.MAX_DIFFERENCE
    moved = render_svg(icon.replace('cx="12"', 'cx="9"').encode())
    assert icons.difference(moved, same) > icons.MAX_DIFFERENCE


# Clips


def animation(durations_ms: list[int]) -> Image.Image:
    frames = []
    for index in range(len(durations_ms)):
        frame = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        ImageDraw.Draw(frame).rectangle((index, 0, index + 8, 60), fill=(255, 10 * index % 256, 0, 255))
        frames.append(frame)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations_ms,
        lossless=True,
        minimize_size=False,
    )
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_frames_are_spread_over_time_and_keep_their_times() -> None:
    durations = [20] * 40 + [200] * 2
    frames, duration_ms = clips.pick_frames(animation(durations))
    starts = [start for _, start in frames]
    begun = np.cumsum([0, *durations[:-1]]).tolist()
    assert duration_ms == 1200
    assert len(frames) <= clips.MAX_FRAMES
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert set(starts) <= set(begun)
    # Frames that last long are not asked for twice.
    assert starts[-1] == 1000


def test_a_clip_says_when_each_frame_is_seen() -> None:
    frames, duration_ms = clips.pick_frames(animation([30, 50, 400, 20]))
    data = clips.encode_clip(frames, duration_ms)
    assert data == clips.encode_clip(frames, duration_ms)
    with Image.open(io.BytesIO(data)) as clip:
        assert clip.size == (clips.CLIP_SIZE, clips.CLIP_SIZE)
        seen = []
        for index in range(clip.n_frames):  # type: ignore[attr-defined]
            clip.seek(index)
            clip.load()
            seen.append(clip.info["duration"])
    assert sum(seen) == 500
    assert seen[: len(frames) - 1] == [b[1] - a[1] for a, b in pairwise(frames)]


# Slices


def test_a_region_is_told_in_words() -> None:
    assert brain.parse_region("37 Hippocampus_L 4101") == brain.Region(
        label=37, name="hippocampus", side="left"
    )
    assert brain.parse_region("102 Cerebelum_7b_R 9052").name == "lobule VIIb of the cerebellum"
    assert brain.parse_region("111 Vermis_4_5 9120") == brain.Region(
        label=111, name="lobules IV and V of the vermis", side=""
    )


def test_pictures_of_slices_have_the_right_side_on_the_left() -> None:
    volume = np.zeros((20, 24, 18), np.uint8)
    volume[15:, 20:, 14:] = 255  # right, in front, above
    axial, coronal, sagittal = (
        brain.slice_of(volume, plane, 16) for plane in ("axial", "coronal", "sagittal")
    )
    assert axial[:4, :5].all()
    assert not axial[4:].any()
    assert not coronal.any()
    assert brain.slice_of(volume, "coronal", 21)[:4, :5].all()
    assert sagittal[:4, -4:].all()


def test_slices_of_held_out_regions_are_theirs_alone() -> None:
    mask = np.zeros((60, 60, 60), bool)
    mask[10:50, 10:50, 10:50] = True
    chosen = {
        split: set(brain.chosen_slices(mask, "axial", split)) for split in ("train", "validation", "test")
    }
    assert all(chosen.values())
    assert not chosen["train"] & (chosen["test"] | chosen["validation"])
    assert not chosen["test"] & chosen["validation"]
    assert max(map(len, chosen.values())) <= 9


def test_the_outline_surrounds_the_region_and_the_words_say_where() -> None:
    mask = np.zeros((100, 100), bool)
    mask[70:90, 10:30] = True
    picture = Image.new("RGB", (256, 256), (90, 90, 90))
    changed = np.asarray(brain.outlined(picture, mask)) != np.asarray(picture)
    ys, xs = np.nonzero(changed.any(axis=2))
    assert abs(xs.min() / 2.56 - 10) < 2.5
    assert abs(ys.max() / 2.56 - 90) < 2.5
    assert not changed[192:218, 40:62].any(), "the region itself stays as it is"
    assert brain.place_words(mask).startswith(
        "In the lower left of the picture: 10 to 30 % of the width, 70 to 90 %"
    )


# Voices


def test_two_voices_are_held_out_and_never_picked_for_training() -> None:
    held_out = [voice for voice in synthetic.VOICES if voice.is_held_out]
    assert len(held_out) == 2
    assert len({voice.name for voice in synthetic.VOICES}) == len(synthetic.VOICES) >= 8
    for number in range(200):
        for language in {voice.language for voice in synthetic.VOICES}:
            assert not synthetic.pick_voice(f"text {number}", language).is_held_out
    rates = {synthetic.variation(f"text {number}") for number in range(100)}
    assert len(rates) > 50
    assert all(0.88 <= factor <= 1.12 for pair in rates for factor in pair)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_voice_says_the_same_twice(tmp_path: Path) -> None:
    voice = next(voice for voice in synthetic.VOICES if voice.engine == "espeak-ng")
    pico: Any = None
    one, two = (synthetic.say(voice, "a red apple", 1.0, 1.0, tmp_path, pico) for _ in range(2))
    other = synthetic.say(voice, "a red apple", 0.9, 1.0, tmp_path, pico)
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one, two)
    assert 12_000 < len(one) < len(other) < 60_000


# The driver


def made_rows(cache: Path) -> Iterator[dict[str, Any]]:
    """Rows of a source that needs no package."""
    for number in range(150):
        yield {
            "id": f"made/{number}",
            "split": split_of(f"word {number}"),
            "concept": f"word {number}",
            "language": "en",
            "source": "made",
            "license": "CC0-1.0",
            "attribution": "written by a test",
            "text": f"the word with number {number}",
        }


def failing_rows(cache: Path) -> Iterator[dict[str, Any]]:
    """Rows of a source that breaks."""
    yield {**next(made_rows(cache)), "source": "failing"}
    raise ValueError("the tenth page is missing; fetch it again")


SOURCES = (FullSource(name="made", task="text", packages=(), rows=made_rows),)
BROKEN = (FullSource(name="failing", task="text", packages=(), rows=failing_rows),)
HERE = (__name__,)


def test_a_build_is_the_same_twice_and_a_finished_source_is_kept(tmp_path: Path) -> None:
    events: list[driver.Event] = []
    first = driver.build_full(tmp_path / "a", tmp_path / "cache", modules=HERE, report=events.append)
    driver.build_full(tmp_path / "b", tmp_path / "cache", modules=HERE)
    files = {
        p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()
    }
    assert files == {
        p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()
    }
    assert {"README.md", "manifest.json", "made/LICENSE.txt", "made/source.json"} <= {
        str(path) for path in files
    }
    assert first["totals"]["num_rows"] == 150
    assert first["totals"]["tasks"] == {"text": 150}
    assert events[-1].is_done
    assert events[-1].seconds > 0
    verify_manifest(tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text()
    assert first["totals"]["fingerprint"] in card
    assert "| made | text | 150 |" in card
    assert "CC0-1.0: 150 rows" in (tmp_path / "a" / "made" / "LICENSE.txt").read_text()

    shard = tmp_path / "a" / "made" / "train-00000.parquet"
    before = shard.stat().st_mtime_ns
    again = driver.build_full(tmp_path / "a", tmp_path / "cache", modules=HERE)
    assert shard.stat().st_mtime_ns == before
    assert again["totals"] == first["totals"]


def test_a_source_whose_code_has_changed_is_built_again(tmp_path: Path) -> None:
    driver.build_source(SOURCES[0], tmp_path, tmp_path, lambda event: None)
    noted = tmp_path / "made" / driver.SOURCE_NAME
    entry = json.loads(noted.read_text())
    noted.write_text(json.dumps({**entry, "asked": {**entry["asked"], "code": "of yesterday"}}))
    before = (tmp_path / "made" / "train-00000.parquet").stat().st_mtime_ns
    driver.build_full(tmp_path, tmp_path, modules=HERE)
    assert (tmp_path / "made" / "train-00000.parquet").stat().st_mtime_ns != before
    assert json.loads(noted.read_text()) == entry


def test_an_interrupted_source_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def stop_at_100(event: driver.Event) -> None:
        if event.num_rows == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driver.build_source(SOURCES[0], tmp_path / "a", tmp_path, stop_at_100)
    assert not (tmp_path / "a" / "made" / driver.SOURCE_NAME).exists()
    assert (tmp_path / "a" / "made" / "progress.json").exists()
    for folder in ("a", "b"):
        driver.build_source(SOURCES[0], tmp_path / folder, tmp_path, lambda event: None)
    shards = [p.name for p in (tmp_path / "b" / "made").iterdir()]
    assert "train-00000.parquet" in shards
    for name in shards:
        assert (tmp_path / "a" / "made" / name).read_bytes() == (tmp_path / "b" / "made" / name).read_bytes()


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.tex").write_text("years of work")
    with pytest.raises(RuntimeError, match=r"thesis\.tex"):
        driver.build_source(SOURCES[0], tmp_path, tmp_path, lambda event: None)
    assert (tmp_path / "made" / "thesis.tex").exists()


def test_a_row_of_another_source_or_with_a_known_id_is_refused(tmp_path: Path) -> None:
    for wrong in ({"source": "other"}, {"id": "made/0"}):
        rows = [row | wrong for row in list(made_rows(tmp_path))[:2]]
        source = replace(SOURCES[0], rows=lambda cache, rows=rows: rows)
        with pytest.raises(RuntimeError, match="correct the source's module"):
            driver.build_source(source, tmp_path / str(wrong), tmp_path, lambda event: None)


def test_all_sources_are_found_and_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = load_sources()
    expected = {"lucide", "tabler", "fluent-animated", "brain", "synthetic-speech", "edits", "edits-openmoji"}
    assert expected <= sources.keys()
    tasks = {source.task for source in sources.values()}
    assert {"drawing-code", "clip", "region", "synthetic-speech", "edit"} <= tasks
    # Everything at once, each with what installs it.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="espeak-ng") as error:
        driver.build_full(tmp_path / "out", tmp_path, ["synthetic-speech", "lucide"])
    for said in ("apt-get install espeak-ng", "apt-get install flite", "apt-get install npm", "dpkg-deb"):
        assert said in str(error.value)


def test_the_licence_file_has_the_texts_of_all_that_is_combined(tmp_path: Path) -> None:
    licenses = Counter({"Apache-2.0 AND CC-BY-SA-3.0": 2, "MIT": 1})
    text = license_text(SOURCES[0], licenses, {"drawn by a test": 3}, tmp_path)
    assert text.startswith("SHARE-ALIKE")
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION" in text
    assert "drawn by a test [3 rows]" in text
    alone = license_text(SOURCES[0], Counter({"CC0-1.0": 1}), {"drawn by a test": 1}, tmp_path)
    assert "SHARE-ALIKE" not in alone
    assert "TERMS AND CONDITIONS" not in alone


# A package of the registries, where there is one.


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("SENSORIUM_PACKAGES"), reason="SENSORIUM_PACKAGES names no folder of packages"
)
def test_a_real_package_gives_real_rows(tmp_path: Path) -> None:

    cache = Path(os.environ["SENSORIUM_PACKAGES"])
    source = load_sources()["brain"]
    short = replace(source, rows=lambda folder: islice(source.rows(folder), 60))
    entry = driver.build_source(short, tmp_path, cache, lambda event: None)
    assert entry["num_rows"] == 60
    assert "never for diagnosis" in (tmp_path / "brain" / "LICENSE.txt").read_text()
