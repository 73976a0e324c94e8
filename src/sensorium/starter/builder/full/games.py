"""Pictures of teaching games: pysiogame's words in 13 languages, GCompris's photos, Scratch's costumes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.rcc import read_resources
from sensorium.starter.builder.full.shared import (
    concept_of,
    effect_clip,
    held_out_names,
    language_tag,
    picture,
    read_waveform,
    tidy,
)
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.images import crop_to_ink, open_image, render_svg
from sensorium.starter.builder.packages import Package, fetch, read_members

PYSIOGAME = Package(
    client="apt",
    name="pysiogame",
    version="4.20.01-1",
    file_name="pysiogame_4.20.01-1_all.deb",
    sha256="6b22766dfd8ef3a046c2665fe2598ac8a1ecee3d331bda38accf53de65bc59bf",
)
GCOMPRIS = Package(
    client="apt",
    name="gcompris-qt-data",
    version="3.1-2",
    file_name="gcompris-qt-data_3.1-2_all.deb",
    sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
)
_WORDS = "usr/share/games/pysiogame/i18n/custom/a4a_words.py"
_TRANSLATIONS = re.compile(r"usr/share/games/pysiogame/i18n/custom/a4a_py/([a-z]{2,3})\.py")
_PICTURES = re.compile(r"usr/share/games/pysiogame/res/images/art4apps/(\w+)/([\w-]+)\.jpg")
_COSTUMES = re.compile(r"usr/share/scratch/Media/(Costumes|Backgrounds)/(?!Letters)(.+)\.(?:png|gif|jpg)")
# Costumes that are called after people or things that nobody can guess.
_UNNAMED = re.compile(
    r"^(anjuli|anna|avery|calvrett|cassy|chamak|dan|ed|nathan|jay|jodi|kai|fantasy|amon|gobo|lee|mako|marissa|nina|"
    r"paul|sam|roundman|wild|route|cub|mural faro|lego)\b"
)
_RENAMED = {
    "boycurly": "boy with curly hair",
    "boyshorts": "boy in shorts",
    "magiccarpet": "magic carpet",
    "mic": "microphone",
    "monkeyking": "monkey king",
    "palmtree": "palm tree",
    "partyhat": "party hat",
    "royalperson": "royal person",
    "squaregirl": "square girl",
    "squareguy": "square man",
    "sunglass f": "sunglasses",
    "tennisball": "tennis ball",
    "wizardhat": "wizard hat",
    "womanbun": "woman with a bun",
    "womanwaving": "woman waving",
}
_RCC = "usr/share/gcompris-qt/rcc/{}.rcc"
_BOARDS = ("explore_farm_animals", "explore_world_animals", "explore_monuments", "explore_world_music")
_ENTRY = re.compile(r"\{[^{}]*\}")
_FIELD = re.compile(r'"(\w+)":\s*(?:qsTr|[\w.]*getAudioFilePath)?\(?\s*"((?:[^"\\]|\\.)*)"')
_NOTICE_FIELD = re.compile(r"^(Copyright|License|Source|Files|Comment):", re.MULTILINE)
_LICENSES = {
    "Public Domain": "CC-PDDC",
    "CC-BY-SA 4.0": "CC-BY-SA-4.0",
    "CC-BY-SA 3.0": "CC-BY-SA-3.0",
    "CC-BY-SA 2.5": "CC-BY-SA-2.5",
    "CC-BY-SA 2.0": "CC-BY-SA-2.0",
    "CC-BY 4.0": "CC-BY-4.0",
    "CC-BY 3.0": "CC-BY-3.0",
    "CC-BY 2.0": "CC-BY-2.0",
    "CC0-1.0": "CC0-1.0",
    "CC0 1.0": "CC0-1.0",
}
# Under a licence that forbids some uses (Sampling Plus).
_UNFREE = "drum_kit.ogg"
_GPL = ("GPL-3.0-or-later", "the GCompris developers")
_GCOMPRIS = "through GCompris (https://gcompris.net)"


def pysiogame_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per picture of a word, with the word in the languages that translate it."""
    package = fetch(PYSIOGAME, folder)
    held_out = held_out_names(folder)
    lists = dict(
        read_members(package, lambda name: name == _WORDS or _TRANSLATIONS.fullmatch(name) is not None)
    )
    english = word_lists(lists.pop(_WORDS).decode("utf-8"))
    others = {
        language_tag(match[1]): word_lists(data.decode("utf-8"))
        for path, data in sorted(lists.items())
        if (match := _TRANSLATIONS.fullmatch(path))
    }
    for path, data in read_members(package, lambda name: _PICTURES.fullmatch(name) is not None):
        match = _PICTURES.fullmatch(path)
        assert match is not None
        topic, word = f"a4a_{match[1]}", match[2].replace("_", " ")
        place = english[topic].index(word) if word in english[topic] else None
        names = {"en": word}
        for language, words in others.items():
            # Lists of another length are of another version; "<word>" waits for its translation.
            if place is not None and len(words.get(topic, ())) == len(english[topic]):
                name = tidy(words[topic][place])
                names |= {} if not name or name.startswith("<") else {language: name}
        concept = concept_of(word, held_out)
        yield {
            "id": f"pysiogame/{match[1]}/{match[2]}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en",
            "source": "pysiogame",
            # The package does not say which version of the licence.
            "license": "CC-BY-SA",
            "attribution": "Art4Apps, Smart4Kids (http://www.art4apps.org), through pysiogame; "
            "words: Ireneusz Imiolek and its translators (GPL-3.0-or-later); shrunk",
            "text": word,
            "names": names,
            "image": picture(open_image(data), match[2]),
            "metadata": {"category": match[1]},
        }


def word_lists(code: str) -> dict[str, list[str]]:
    """Return {topic: words} of a module of assignments `d["topic"] = [...]`, which is read and never run."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            found[ast.literal_eval(node.targets[0].slice)] = ast.literal_eval(node.value)
    return found


def costume_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per costume or background of Scratch that is named after what it shows."""
    held_out = held_out_names(folder)
    for path, data in read_members(
        fetch(pinned.SCRATCH, folder), lambda name: _COSTUMES.fullmatch(name) is not None
    ):
        match = _COSTUMES.fullmatch(path)
        assert match is not None
        stem = PurePosixPath(match[2]).name
        name = costume_name(stem)
        if not name:
            continue
        concept = concept_of(name, held_out)
        image = open_image(data)
        yield {
            "id": f"scratch-pictures/{match[1]}/{match[2]}{PurePosixPath(path).suffix}",
            "split": split_of(concept),
            "concept": concept,
            "language": "en",
            "source": "scratch-pictures",
            "license": "CC-BY-SA-3.0",
            "attribution": "Scratch 1.4, Massachusetts Institute of Technology (https://scratch.mit.edu); "
            "drawn over white and shrunk",
            "text": name,
            "image": picture(crop_to_ink(image) if image.getchannel("A").getbbox() else image, stem),
            "metadata": {"category": f"{match[1]}/{match[2]}".rpartition("/")[0].lower()},
        }


def costume_name(stem: str) -> str:
    """Return what a costume shows: "dog2-b" is "dog"; empty where its name is a person's or a number."""
    words = re.sub(r"[-_]|(?<=[a-z])(?=[A-Z])", " ", stem)
    words = re.sub(r"(?<=[A-Za-z])\d+|\b[a-z]\b|\b\d+\b", " ", words)
    name = tidy(words).lower()
    name = _RENAMED.get(name, name)
    return "" if _UNNAMED.match(name) or len(name) < 3 else name


def gcompris_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per photo of GCompris: with a paragraph about it, or with what it is called."""
    held_out = held_out_names(folder)
    for board in _BOARDS:
        files = _resources(folder, board)
        notices = _notices(files)
        for entry in board_entries(files):
            file = _file(entry.get("image2") or entry.get("image", ""))
            if file not in files or "text" not in entry or file.endswith("svg") or "title" not in entry:
                continue
            # The title alone is the concept: the paragraph speaks of much else.
            concept = concept_of(entry["title"].lower(), held_out)
            text = f"{entry['title']}: {entry['text']}"
            yield _picture_row(file, files[file], text, concept, board, notices)
    files = _resources(folder, "categorization")
    notices = _notices(files)
    for file, data in files.items():
        topic, _, stem = file.partition("/images/")[2].rpartition(".")[0].rpartition("/")
        if file.endswith(".webp") and topic:
            name = costume_name(stem)
            if topic in ("fishes", "renewable") or name.startswith("monument"):
                name = {"fishes": "fish", "renewable": _RENEWABLE.get(name, name)}.get(topic, "monument")
            yield _picture_row(file, data, name, concept_of(name, held_out), topic, notices)


_RENEWABLE = {"solar": "solar panels", "geothermal": "geothermal power station"}


def instrument_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per instrument and farm animal of GCompris: its picture, its sound, its name."""
    held_out = held_out_names(folder)
    for board in ("instruments", "explore_farm_animals"):
        files = _resources(folder, board)
        notices = _notices(files)
        seen: set[str] = set()
        for entry in board_entries(files):
            sound = _file(entry.get("audio", "")).replace("$CA", "ogg")
            shown = _file(entry.get("image2") or entry.get("image", ""))
            waveform = read_waveform(files[sound]) if sound in files else None
            # Later levels ask for the same instruments again.
            if waveform is None or shown not in files or sound in seen or sound.endswith(_UNFREE):
                continue
            seen.add(sound)
            name = entry.get("title") or entry.get("text", "").removeprefix("Find the ")
            license_id, author = notices.get(PurePosixPath(sound).name, _GPL)
            concept = concept_of(name.lower(), held_out)
            yield {
                **_picture_row(shown, files[shown], name.lower(), concept, board, notices),
                "id": f"gcompris-sounds/{board}/{PurePosixPath(sound).stem}",
                "source": "gcompris-sounds",
                "license": license_id,
                "attribution": f"sound: {author}; picture: {notices.get(PurePosixPath(shown).name, _GPL)[1]} "
                f"({notices.get(PurePosixPath(shown).name, _GPL)[0]}); {_GCOMPRIS}; cut, levelled and shrunk",
                "audio": effect_clip(waveform, PurePosixPath(sound).stem),
            }


def board_entries(files: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Yield the fields of the entries of an activity's boards: `{"title": qsTr("Cow"), ...}`."""
    for path, data in files.items():
        if re.search(r"/board\d+\.qml$|/instruments\.js$", path):
            for block in _ENTRY.findall(data.decode("utf-8")):
                yield {key: tidy(re.sub(r"\\(.)", r"\1", value)) for key, value in _FIELD.findall(block)}


def parse_notices(text: str) -> dict[str, tuple[str, str]]:
    """Return {file: (licence, author and address)} of a README that lists copyrights.

    Files under a licence that we do not know by name are left to the package's own.
    """
    found = {}
    for paragraph in re.split(r"\n\s*\n(?=Copyright:)", text):
        parts = _NOTICE_FIELD.split(paragraph)
        fields = {key: tidy(value) for key, value in zip(parts[1::2], parts[2::2], strict=True)}
        license_id = _LICENSES.get(fields.get("License", ""))
        if license_id is not None:
            author = fields.get("Copyright", "")
            source = f" ({fields['Source']})" if "Source" in fields else ""
            for file in fields.get("Files", "").split():
                found[PurePosixPath(file).name] = (license_id, author + source)
    return found


def _picture_row(
    file: str, data: bytes, text: str, concept: str, category: str, notices: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    image = crop_to_ink(render_svg(data)) if file.endswith(".svg") else open_image(data)
    license_id, author = notices.get(PurePosixPath(file).name, _GPL)
    return {
        "id": f"gcompris/{category}/{PurePosixPath(file).stem}",
        "split": split_of(concept),
        "concept": concept,
        "language": "en",
        "source": "gcompris",
        "license": license_id,
        "attribution": f"{author}, {_GCOMPRIS}; shrunk",
        "text": text,
        "image": picture(image, PurePosixPath(file).stem),
        "metadata": {"category": category},
    }


def _resources(folder: Path, activity: str) -> dict[str, bytes]:
    member = _RCC.format(activity)
    ((_, data),) = read_members(fetch(GCOMPRIS, folder), lambda name: name == member)
    return dict(read_resources(data, member))


def _notices(files: dict[str, bytes]) -> dict[str, tuple[str, str]]:
    readmes = (data for path, data in files.items() if path.endswith("/README"))
    return {file: entry for data in readmes for file, entry in parse_notices(data.decode("utf-8")).items()}


def _file(address: str) -> str:
    return address.removeprefix("qrc:")


SOURCES: tuple[FullSource, ...] = (
    FullSource(name="pysiogame", task="picture-text", packages=(PYSIOGAME, pinned.CLDR), rows=pysiogame_rows),
    FullSource(
        name="scratch-pictures",
        task="picture-text",
        packages=(pinned.SCRATCH, pinned.CLDR),
        rows=costume_rows,
    ),
    FullSource(name="gcompris", task="picture-text", packages=(GCOMPRIS, pinned.CLDR), rows=gcompris_rows),
    FullSource(name="gcompris-sounds", task="sound", packages=(GCOMPRIS, pinned.CLDR), rows=instrument_rows),
)
