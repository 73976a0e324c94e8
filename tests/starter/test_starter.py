import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from sensorium import starter
from sensorium.data.schema import SAMPLE_SCHEMA, check_row
from sensorium.data.shards import read_manifest, read_shard, verify_manifest
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.clipart import named_concept
from sensorium.starter.builder.packages import BuildError, Package, fetch
from sensorium.starter.builder.questions import choose_questions
from sensorium.starter.builder.speech import clean_transcript
from sensorium.starter.builder.waveforms import encode_opus, loudest_part, trim_silence

MAX_BYTES = 10_000_000
SHARE_ALIKE = {"openmoji", "scratch", "asterisk-en", "asterisk-fr"}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return starter.load_table()


@pytest.fixture(scope="module")
def rows(table: pa.Table) -> list[dict]:
    return table.to_pylist(maps_as_pydicts="strict")


def test_every_row_is_valid_and_unique(table: pa.Table, rows: list[dict]) -> None:
    assert table.schema == SAMPLE_SCHEMA
    for row in rows:
        check_row(row)
    assert len({row["id"] for row in rows}) == len(rows)
    for source, path in starter.starter_sources().items():
        assert set(read_shard(path)["source"].to_pylist()) == {source}


def test_the_sample_is_as_large_as_promised(table: pa.Table) -> None:
    count = Counter(table["source"].to_pylist())
    concepts = [set(starter.load_table(source)["concept"].to_pylist()) for source in starter.PICTURE_SOURCES]
    assert len(set.intersection(*concepts)) >= 480
    assert len({c for c in concepts[0] if split_of(c) == "train"}) >= 420
    assert count["openclipart"] >= 300
    assert count["scratch"] + count["sonic-pi"] >= 120
    assert count["asterisk-en"] >= 100
    assert count["asterisk-fr"] >= 100
    assert count["asterisk-en"] + count["asterisk-fr"] >= 300
    assert count["easy-vqa"] >= 1500
    assert count["wordnet"] >= 3000


def test_the_sample_fits_in_the_repository() -> None:
    size = sum(path.stat().st_size for path in starter.DATA_DIR.rglob("*") if path.is_file())
    assert size < MAX_BYTES


def test_pictures_are_named_in_five_languages(rows: list[dict]) -> None:
    for row in rows:
        if row["source"] in starter.PICTURE_SOURCES:
            assert set(row["names"]) == {"en", "de", "es", "fr", "ru"}
            assert all(row["names"].values())
            assert row["names"]["en"] == row["text"] == row["concept"]


def test_every_medium_decodes(rows: list[dict]) -> None:
    for row in rows:
        for picture in [row["image"], *(row["images"] or [])]:
            if picture is not None:
                with Image.open(io.BytesIO(picture["bytes"])) as image:
                    assert image.convert("RGB").size == (64, 64), row["id"]
        if row["audio"] is not None:
            waveform, sample_rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            is_sound = row["source"] in starter.SOUND_SOURCES
            assert sample_rate == (24_000 if is_sound else 16_000)
            assert waveform.ndim == 1
            assert 0.49 <= len(waveform) / sample_rate <= (2.5 if is_sound else 4.01), row["id"]
            assert 0.3 < float(np.abs(waveform).max()) <= 1.0, row["id"]


def test_sounds_and_drawings_have_distinct_names(rows: list[dict]) -> None:
    for sources in (starter.SOUND_SOURCES, ("openclipart",), starter.TRAIN_STYLES[:1]):
        names = [row["text"] for row in rows if row["source"] in sources]
        assert len(set(names)) == len(names)


def test_the_split_follows_the_concept(rows: list[dict]) -> None:
    for row in rows:
        if row["source"] != "easy-vqa":
            assert row["split"] == split_of(row["concept"] or row["text"]), row["id"]


def test_training_sees_no_test_concept_and_no_test_style(table: pa.Table) -> None:
    training = starter.training_rows(table)
    assert starter.TEST_STYLE not in starter.TRAIN_SOURCES
    assert starter.TEST_STYLE not in training["source"].to_pylist()
    assert set(training["split"].to_pylist()) == {"train"}
    held_out = set(starter.concept_test_rows(table)["concept"].to_pylist())
    assert len(held_out) >= 20
    # By name and not by column: no training row, of any kind, may be called what a test picture is called.
    seen = {
        str(text).lower() for column in ("concept", "text") for text in training[column].to_pylist() if text
    }
    glossed = {text.partition(":")[0] for text in seen}
    assert not held_out & (seen | glossed)
    assert not any(named_concept(text, held_out) in held_out for text in _titles(training))


def _titles(table: pa.Table) -> list[str]:
    titled = ("openclipart", *starter.SOUND_SOURCES, *starter.TRAIN_STYLES)
    sources = table["source"].to_pylist()
    return [t for t, source in zip(table["text"].to_pylist(), sources, strict=True) if source in titled]


def test_the_two_tests_are_kept_apart(table: pa.Table) -> None:
    style, concept = starter.style_test_rows(table), starter.concept_test_rows(table)
    assert set(style["source"].to_pylist()) == {starter.TEST_STYLE}
    assert set(concept["source"].to_pylist()) == set(starter.PICTURE_SOURCES)
    known = set(starter.training_rows(table)["concept"].to_pylist())
    assert set(style["concept"].to_pylist()) <= known
    assert not set(concept["concept"].to_pylist()) & known
    assert style.num_rows >= 420


def test_no_question_of_the_test_is_on_a_training_picture(rows: list[dict]) -> None:
    pictures: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    media: dict[str, set[bytes]] = {"train": set(), "validation": set(), "test": set()}
    for row in rows:
        if row["source"] == "easy-vqa":
            pictures[row["split"]].add(row["id"].rpartition("/")[0])
            media[row["split"]].add(row["images"][0]["bytes"])
    assert not pictures["train"] & (pictures["test"] | pictures["validation"])
    assert not media["train"] & media["test"]
    assert len(pictures["train"]) >= 3500


def test_every_row_is_licensed_and_every_folder_has_its_licence(rows: list[dict]) -> None:
    by_source: dict[str, set[str]] = {}
    for row in rows:
        by_source.setdefault(row["source"], set()).add(row["license"])
        assert len(row["attribution"]) > 10
    assert set(by_source) == set(starter.SOURCES)
    assert all(len(licenses) == 1 for licenses in by_source.values()), by_source
    for source, path in starter.starter_sources().items():
        text = (path.parent / "LICENSE.txt").read_text(encoding="utf-8")
        assert len(text) > 1000, source
        assert text.startswith("SHARE-ALIKE") == (source in SHARE_ALIKE)
        assert ("-SA-" in next(iter(by_source[source]))) == (source in SHARE_ALIKE)


def test_the_manifest_is_true(table: pa.Table) -> None:
    verify_manifest(starter.DATA_DIR)
    manifest = read_manifest(starter.DATA_DIR)
    counted = Counter(zip(table["source"].to_pylist(), table["split"].to_pylist(), strict=True))
    recorded = {(s, split): n for s, splits in manifest["counts"].items() for split, n in splits.items() if n}
    assert recorded == dict(counted)


def test_importing_the_starter_needs_no_heavy_library() -> None:
    code = "import sys, sensorium.starter; print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_missing_or_unknown_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="sample of 'fluent' is missing"):
        starter.starter_sources(tmp_path)
    with pytest.raises(ValueError, match="unknown source 'emoji'"):
        starter.load_table("emoji")


def test_opus_bytes_do_not_depend_on_the_clock() -> None:
    tone = np.sin(np.linspace(0, 2000, 24_000, dtype=np.float32))
    first = encode_opus(tone, 24_000)
    assert first == encode_opus(tone, 24_000)
    decoded, sample_rate = soundfile.read(io.BytesIO(first), dtype="float32")
    assert (len(decoded), sample_rate) == (24_000, 24_000)
    assert np.corrcoef(decoded, tone)[0, 1] > 0.95


def test_the_loudest_part_is_found_and_silence_is_cut() -> None:
    waveform = np.zeros(24_000, dtype=np.float32)
    waveform[12_000:15_000] = 0.5
    assert len(trim_silence(waveform, 24_000)) == pytest.approx(3000, abs=480)
    part = loudest_part(waveform, 24_000, 0.25)
    assert len(part) == 6000
    assert (part == 0.5).sum() >= 2300


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        (" ... callers waiting.", "callers waiting."),
        (" [sound of monkeys]", None),
        (" press 1", None),
        (" a", None),
        (" Pour quitter la conférence...", "Pour quitter la conférence"),
    ],
)
def test_transcripts_hold_what_is_said(said: str, clean: str | None) -> None:
    assert clean_transcript(said) == clean


def test_a_title_that_names_a_test_concept_is_that_concept() -> None:
    held_out = {"camel", "star"}
    assert named_concept("camel head", held_out) == "camel"
    assert named_concept("two stars", held_out) == "star"
    assert named_concept("starfish", held_out) == "starfish"


def test_questions_cover_every_picture_before_any_twice() -> None:
    pool = [(f"question {i}?", "yes", i % 10) for i in range(100)]
    assert sorted(picture for *_, picture in choose_questions(pool, 10)) == list(range(10))
    assert choose_questions(pool, 25) == choose_questions(pool[::-1], 25)


def test_a_changed_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / pinned.CLDR.file_name).write_bytes(b"not it")
    with pytest.raises(BuildError, match="SHA-256"):
        fetch(pinned.CLDR, tmp_path)


def test_a_missing_client_is_named_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    package = Package(client="npm", name="x", version="1", file_name="x.tgz", sha256="0")
    with pytest.raises(BuildError, match="'npm' is missing; install it: apt-get install npm"):
        fetch(package, tmp_path)
