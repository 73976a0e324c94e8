import io
import struct
import tarfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sensorium.data.schema import check_row
from sensorium.data.splits import split_of
from sensorium.media.audio import decode_audio
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full import (
    clipart,
    emoji,
    emoji_sets,
    games,
    load_sources,
    shared,
    sounds,
    speech,
    spoken,
    stamps,
    words,
)
from sensorium.starter.builder.full.rcc import read_resources
from sensorium.starter.builder.packages import BuildError, Package
from sensorium.starter.builder.pictures import listed_concepts
from sensorium.starter.builder.waveforms import encode_opus, encode_opus_quick

RATE = shared.SAMPLE_RATE


def tone(duration_s: float, *, level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Noise that swells, so that no two clips are alike."""
    count = round(duration_s * RATE)
    noise = np.random.default_rng(seed).normal(0, level / 3, count)
    return (noise * np.linspace(0.5, 1, count)).astype(np.float32)


def ogg(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


@cache
def recording(duration_s: float, seed: int) -> bytes:
    """The same bytes for the same recording: the encoder draws a random number for every stream."""
    return ogg(tone(duration_s, seed=seed))


def png(color: str, size: tuple[int, int] = (40, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def hand_in(monkeypatch: pytest.MonkeyPatch, module: object, members: dict[str, bytes]) -> None:
    """Let a module read its package from memory, in the order given."""

    def read(path: object, wanted):  # type: ignore[no-untyped-def]
        return ((name, data) for name, data in members.items() if wanted(name))

    monkeypatch.setattr(module, "fetch", lambda package, folder: Path(package.file_name))
    monkeypatch.setattr(module, "read_members", read)
    monkeypatch.setattr(module, "held_out_names", lambda folder: frozenset({"bear"}), raising=False)


@pytest.fixture
def stamp_rows(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    root = "usr/share/tuxpaint/stamps/"
    long_text = "A brown bear that looks for honey in the woods."
    members = {
        f"{root}animals/bear.ogg": recording(0.8, 1),
        f"{root}animals/bear.png": png("brown"),
        f"{root}animals/bear.txt": f"{long_text}\nfr.utf8=Un ours brun.\nde.utf8=\nca@valencia.utf8=Un os.\n".encode(),
        f"{root}animals/bear_desc.ogg": recording(0.4, 2),
        f"{root}animals/bear_desc_fr.ogg": recording(1.1, 3),
        f"{root}animals/cat.png": png("black"),
        f"{root}animals/cat.txt": b"A cat.\nfr.utf8=Un chat.\nro.utf8=O pisica.\n",
        f"{root}animals/cat_desc_fr.ogg": recording(1.1, 3),
        f"{root}animals/cat_desc_ro.ogg": ogg(np.zeros(RATE, np.float32)),
        f"{root}animals/cat_mirror.png": png("red"),
        f"{root}symbols/math/2.ogg": recording(0.5, 4),
        f"{root}symbols/math/2.png": png("navy"),
        f"{root}symbols/math/2.txt": b"Two.\nfr.utf8=Deux.\n",
        f"{root}symbols/math/2_fr.ogg": recording(0.6, 5),
    }
    hand_in(monkeypatch, stamps, members)
    stamps._stamps.cache_clear()
    yield lambda rows: list(rows(Path("packages")))
    stamps._stamps.cache_clear()


def test_stamps_are_described_in_every_language_and_follow_held_out_names(stamp_rows) -> None:  # type: ignore[no-untyped-def]
    rows = stamp_rows(stamps.picture_rows)
    assert [row["id"] for row in rows] == [
        "tuxpaint/animals/bear",
        "tuxpaint/animals/cat",
        "tuxpaint/symbols/math/2",
    ]
    bear = rows[0]
    check_row(bear)
    assert (bear["concept"], bear["split"]) == ("bear", split_of("bear"))
    assert bear["names"]["fr"] == "Un ours brun."
    assert bear["names"]["ca-valencia"] == "Un os."
    assert "de" not in bear["names"]
    assert bear["metadata"] == {"category": "animals", "kind": "thing"}
    assert rows[2]["metadata"]["kind"] == "symbol"
    with Image.open(io.BytesIO(bear["image"]["bytes"])) as image:
        assert image.size == (128, 128)


def test_spoken_descriptions_are_dropped_where_they_cannot_be_what_the_text_says(stamp_rows) -> None:  # type: ignore[no-untyped-def]
    rows = stamp_rows(stamps.speech_rows)
    # Left out: the English one (too short for its text), the same recording under another text, the silent one.
    assert [(row["id"], row["language"], row["text"]) for row in rows] == [
        ("tuxpaint-speech/animals/bear_desc_fr", "fr", "Un ours brun."),
        ("tuxpaint-speech/symbols/math/2", "en", "Two."),
        ("tuxpaint-speech/symbols/math/2_fr", "fr", "Deux."),
    ]
    for row in rows:
        check_row(row)
        assert float(np.abs(decode_audio(row["audio"]["bytes"], name=row["id"])).max()) > 0.3


def test_a_stamps_sound_is_an_effect_unless_it_reads_a_symbol_aloud(stamp_rows) -> None:  # type: ignore[no-untyped-def]
    rows = stamp_rows(stamps.effect_rows)
    assert [row["id"] for row in rows] == ["tuxpaint-sounds/animals/bear"]
    assert rows[0]["image"]
    assert rows[0]["audio"]


@pytest.mark.parametrize(
    ("path", "description", "concept"),
    [
        ("animals/frog-1", "A frog.", "frog"),
        ("household/tools/wrench", "A pair of wrenches!", "wrenches"),
        ("household/toilet", "Remember to flush the toilet and wash your hands!", "toilet"),
        ("food/granny", "A “Granny Smith” apple.", "granny smith apple"),
        (
            "symbols/asl/asl_k",
            "The sign for the letter K in American Sign Language.",
            "sign for the letter k",
        ),
        ("space/saturn", "Saturn—the second largest planet.", "saturn"),
    ],
)
def test_a_stamp_is_named_by_its_description_or_its_file(path: str, description: str, concept: str) -> None:
    assert stamps.stamp_concept(path, description) == concept


def test_speech_that_does_not_fit_its_text_is_found() -> None:
    text = "The sign for the letter U in American Sign Language."
    assert shared.says(tone(3.0), text, (0.5, 2.0))
    assert not shared.says(tone(0.3), text, (0.5, 2.0))
    assert not shared.says(tone(9.0), text, (0.5, 2.0))
    # "The letter k." where only "k" is said.
    assert not shared.says(tone(0.45), "La lettre k.", (0.75, 1.35))


def test_the_noise_of_the_room_is_cut_and_speech_without_pauses_is_kept() -> None:
    room = np.random.default_rng(1).normal(0, 0.01, 3 * RATE).astype(np.float32)
    room[RATE : 2 * RATE] += tone(1.0)
    assert len(shared.trim_speech(room)) / RATE == pytest.approx(1.16, abs=0.06)
    swell = tone(1.0) * np.linspace(0.02, 1, RATE, dtype=np.float32)
    assert len(shared.trim_speech(swell)) > 0.95 * RATE


def drawing(path: str, title: str, creator: str = "") -> clipart.Drawing:
    return clipart.Drawing(path=path, title=title, creator=creator, description="", keywords=())


@pytest.mark.parametrize(
    ("path", "title", "num_shared", "expected"),
    [
        ("animals/bears/x_01", "Brown Bear", 1, ("brown bear", True)),
        ("animals/cavallo_01", "cavallo", 1, ("cavallo", False)),
        ("signs/aiga_exit1", "AIGA_Symbol_Signs", 200, ("exit", True)),
        ("tools/scissors_03", "scissors", 9, ("scissors", True)),
        ("computer/icons/ksnapshot", "Lemon SVG theme", 400, None),
        ("recreation/games/cards/white_s_10", "card", 200, ("ten of spades", True)),
        ("recreation/games/cards/white_d_q", "card", 200, ("queen of diamonds", True)),
        ("signs_and_symbols/flags/africa/benin", "benin", 1, ("flag of benin", True)),
        (
            "shapes/stars/star_07pt03step",
            "gramastar",
            1375,
            ("star with 7 points, joined in steps of 3", True),
        ),
        ("shapes/stars/star_97pt30step", "gramastar", 1375, None),
        ("special/gradients/gradient-red", "red", 1, None),
        ("people/x", "Naked man", 1, None),
        ("people/y", "", 60, None),
    ],
)
def test_a_drawing_is_titled_or_left_out(
    path: str, title: str, num_shared: int, expected: tuple[str, bool] | None
) -> None:
    known = frozenset(["brown", "bear", "exit", "scissor", "naked", "man", "red"])
    assert clipart.drawing_title(drawing(path, title), num_shared, known) == expected


def test_a_drawing_that_is_not_in_the_public_domain_is_not_read() -> None:
    work = "<cc:Work><dc:title>A cat</dc:title><dc:creator><cc:Agent><dc:title>Ann &amp; Co</dc:title></cc:Agent>"
    work += "</dc:creator><dc:subject><rdf:li>Pet</rdf:li><rdf:li>hash(0x8)</rdf:li></dc:subject>{}</cc:Work>"
    found = clipart.parse_drawing(
        "a", work.format('<license rdf:resource="http://web.resource.org/cc/PublicDomain"/>')
    )
    assert found == clipart.Drawing(
        path="a", title="A cat", creator="Ann & Co", description="", keywords=("pet",)
    )
    assert clipart.parse_drawing("a", work.format('<license rdf:resource="http://example.org/gpl"/>')) is None


def voice(language: str) -> speech.Voice:
    return next(found for found in speech.VOICES if found.language == language)


@pytest.mark.parametrize(
    ("language", "transcript", "text"),
    [
        (
            "en",
            "Press 1 to accept this call, or 2 to reject it.",
            "Press one to accept this call, or two to reject it.",
        ),
        ("en", "at [@]", "at"),
        ("en", "  ... is on the phone", "is on the phone"),
        ("en", "162 people", None),
        ("en", "[ascending tones]", None),
        ("es", "Por favor ingrese su contrasena", "Por favor ingrese su contraseña"),
        ("es", "Numero", "Número"),
        ("it", "premere i tasti", "premere i tasti"),
        ("ru", "Нажмите 1.", "Нажмите один."),
        ("it", "Voce disattivata. (You are now muted.)", None),
    ],
)
def test_transcripts_say_what_is_said(language: str, transcript: str, text: str | None) -> None:
    assert speech.spoken_text(transcript, voice(language)) == text


@pytest.mark.parametrize(
    ("read", "path", "name"),
    [
        (sounds.wesnoth_name, "orc-small-die-2", "small orc dying"),
        (sounds.wesnoth_name, "horn-signals/horn-3", "horn signal"),
        (sounds.scratch_name, "Human/Cough-female", "cough female"),
        (sounds.scratch_name, "Music Loops/Xylo2", "xylo music loop"),
        (sounds.sonic_pi_name, "bd_fat", "bass drum fat"),
        (sounds.sonic_pi_name, "misc_crow", "crow"),
        (spoken.thing_name, "egypt_palmtree", "palm tree"),
        (games.costume_name, "boy4-walking-b", "boy walking"),
        (games.costume_name, "fantasy12", ""),
    ],
)
def test_files_are_named_in_plain_words(read, path: str, name: str) -> None:  # type: ignore[no-untyped-def]
    assert read(path) == name


def test_a_library_of_sounds_becomes_named_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    root = "usr/share/games/wesnoth/1.16/data/core/sounds/"
    members = {
        f"{root}bear-die-1.ogg": ogg(tone(30.0)),
        f"{root}silence.ogg": ogg(np.zeros(RATE, np.float32)),
        f"{root}readme.txt": b"",
    }
    hand_in(monkeypatch, sounds, members)
    library = next(found for found in sounds.LIBRARIES if found.source == "wesnoth")
    (row,) = sounds.sound_rows(Path("packages"), library)
    check_row(row)
    assert (row["text"], row["concept"], row["license"]) == ("bear dying", "bear", "GPL-2.0-or-later")
    assert len(decode_audio(row["audio"]["bytes"], name="bear", sample_rate=RATE)) == 20 * RATE


def test_commented_out_sounds_are_not_listed_and_repeats_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    root = "usr/share/klettres/"
    listed = '<sound name="A" file="fr/alpha/a.ogg"/><sound name="B" file="fr/alpha/b.ogg" />'
    listed += '<!-- <sound name="C" file="fr/alpha/c.ogg"/> --><sound name="&#201;" file="fr/alpha/e.ogg"/>'
    members = {
        f"{root}fr/alpha/a.ogg": recording(0.5, 1),
        f"{root}fr/alpha/b.ogg": recording(0.5, 1),
        f"{root}fr/alpha/c.ogg": recording(0.5, 2),
        f"{root}fr/alpha/e.ogg": recording(0.5, 3),
        f"{root}fr/sounds.xml": listed.encode(),
    }
    hand_in(monkeypatch, spoken, members)
    rows = list(spoken.letter_rows(Path("packages")))
    assert [(row["text"], row["language"]) for row in rows] == [("A", "fr"), ("É", "fr")]
    for row in rows:
        check_row(row)


def resources(files: dict[str, bytes]) -> bytes:
    """A Qt resource file of version 3 with one folder; every second file is compressed."""
    names, contents, nodes = b"", b"", [struct.pack(">IHIIQ", 0, 2, 1, 1, 0)]
    nodes.append(struct.pack(">IHIIQ", 0, 2, len(files), 2, 0))
    for text in ("folder", *files):
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
    offset = 6 + 12
    for number, (text, data) in enumerate(files.items()):
        packed = struct.pack(">I", len(data)) + zlib.compress(data) if number % 2 else data
        nodes.append(struct.pack(">IHIIQ", offset, number % 2, 0, len(contents), 0))
        contents += struct.pack(">I", len(packed)) + packed
        offset += 6 + 2 * len(text)
    tree = b"".join(nodes)
    header = struct.pack(">4sIIIII", b"qres", 3, 24, 24 + len(tree), 24 + len(tree) + len(contents), 0)
    return header + tree + contents + names


def test_qt_resources_are_read_with_names_and_contents() -> None:
    files = {"cow.txt": b"moo" * 100, "pig.txt": b"oink" * 100, "Ünï.txt": b""}
    found = dict(read_resources(resources(files), "farm.rcc"))
    assert found == {f"/folder/{name}": data for name, data in files.items()}


@pytest.mark.parametrize("cut", [3, 20, 60, 150])
def test_damaged_qt_resources_are_refused_in_one_sentence(cut: int) -> None:
    data = resources({"cow.txt": b"moo" * 100, "pig.txt": b"oink" * 100})
    with pytest.raises(BuildError, match=r"farm\.rcc"):
        list(read_resources(data[:cut], "farm.rcc"))
    with pytest.raises(BuildError, match="expected a Qt resource file"):
        list(read_resources(b"PK\3\4" + data, "farm.rcc"))


def test_a_qt_resource_that_inflates_without_end_is_refused() -> None:
    bomb = resources({"a": b"", "bomb": bytes(40 << 20)})
    with pytest.raises(BuildError, match="inflates to more than"):
        list(read_resources(bomb, "farm.rcc"))


def test_a_folder_of_qt_resources_that_holds_itself_is_refused() -> None:
    nodes = struct.pack(">IHIIQ", 0, 2, 1, 0, 0)
    header = struct.pack(">4sIIIII", b"qres", 3, 24, 24 + len(nodes), 24 + len(nodes), 0)
    with pytest.raises(BuildError, match="levels"):
        list(read_resources(header + nodes + bytes(8), "farm.rcc"))


def test_word_lists_are_read_and_never_run() -> None:
    assert games.word_lists('d = dict()\nd["a4a_food"] = ["egg", "ham"]\n') == {"a4a_food": ["egg", "ham"]}
    with pytest.raises(ValueError, match="malformed"):
        games.word_lists('d["a4a_food"] = __import__("os").listdir(".")')


def test_notices_give_each_file_its_licence() -> None:
    notices = games.parse_notices(
        "Copyright: Ann\nLicense: CC-BY 2.0\nSource: https://example.org/a.jpg\nFiles:\ncow.webp\n\n"
        "Copyright: Bob\nLicense: Secret\nFiles: pig.webp\n\nCopyright: NASA\nLicense: Public Domain\nFiles: a/sun.webp b.webp\n"
    )
    assert notices == {
        "cow.webp": ("CC-BY-2.0", "Ann (https://example.org/a.jpg)"),
        "sun.webp": ("CC-PDDC", "NASA"),
        "b.webp": ("CC-PDDC", "NASA"),
    }


def test_meanings_are_read_with_examples_and_kinds() -> None:
    line = '02084071 05 n 02 dog 0 Canis_familiaris 0 002 @ 02083346 n 0000 ~ 01322604 n 0000 | a pet; "the dog barked"; "a dog"  \n'
    (dog,) = words.parse_meanings("  1 licence\n" + line)
    assert dog.words == ("dog", "Canis familiaris")
    assert dog.definition == "a pet"
    assert dog.examples == ("the dog barked", "a dog")
    assert dog.kinds == ("02083346",)


def test_quick_opus_decodes_like_the_slow_one_at_any_length() -> None:
    for count in (12_000, 12_299, 20_400, 24_001, 60_000):
        waveform = tone(count / RATE)
        quick = encode_opus_quick(waveform, RATE)
        assert quick == encode_opus_quick(waveform, RATE)
        decoded, rate = soundfile.read(io.BytesIO(quick), dtype="float32")
        assert (len(decoded), rate) == (count, RATE)
        slow, _ = soundfile.read(io.BytesIO(encode_opus(waveform, RATE)), dtype="float32")
        assert np.corrcoef(decoded, waveform)[0, 1] > np.corrcoef(slow, waveform)[0, 1] - 0.02


def test_sources_are_named_once_and_pin_their_packages() -> None:
    sources = load_sources()
    for module in (clipart, emoji, emoji_sets, games, sounds, speech, spoken, stamps, words):
        for source in module.SOURCES:
            assert sources[source.name] is source
            assert all(
                isinstance(package, Package) and len(package.sha256) == 64 for package in source.packages
            )


def test_held_out_names_split_titles_that_speak_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = next(name for name in listed_concepts() if split_of(name) == "test" and name.isalpha())
    entries = f'{{"annotations": {{"annotations": {{"a": {{"tts": ["{held}"]}}, "b": {{"tts": ["zz9"]}}}}}}}}'.encode()
    with tarfile.open(tmp_path / "cldr.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/annotations/en/annotations.json")
        member.size = len(entries)
        archive.addfile(member, io.BytesIO(entries))
    monkeypatch.setattr(shared, "fetch", lambda package, folder: folder / "cldr.tgz")
    names = shared.held_out_names(tmp_path)
    assert names == {held}
    assert shared.concept_of(f"two {held}s at night", names) == held
    assert shared.concept_of("something else", names) == "something else"
    assert pinned.CLDR in stamps.SOURCES[0].packages
