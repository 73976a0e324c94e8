"""The licence file of each source: a plain notice, then the licence's own text as the package carries it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from sensorium.starter.builder import pinned
from sensorium.starter.builder.packages import Package, fetch, read_texts

_SHARE_ALIKE = (
    "SHARE-ALIKE: this folder is not under the licence of the code around it. Whoever passes on these\n"
    "files, changed or not, must name their authors, link this licence, say what was changed, and\n"
    "pass them on under the same licence.\n"
    "\n"
)
_COPYRIGHT = "usr/share/doc/{name}/copyright"
_MIT_HEADER = "MIT License\n\nCopyright (c) Microsoft Corporation.\nCopyright (c) 2023 LobeHub.\n\n"


def notice(source: str, cache: Path) -> str:
    """Return the text of a source's LICENSE.txt."""
    return _NOTICES[source].rstrip() + "\n\n" + "-" * 80 + "\n\n" + _license(source, cache).strip() + "\n"


def _license(source: str, cache: Path) -> str:
    def member(package: Package, name: str) -> str:
        return read_texts(fetch(package, cache), name)[0]

    def debian(package: Package, name: str, paragraph: str) -> str:
        return _paragraph(member(package, _COPYRIGHT.format(name=name)), paragraph)

    names = "\n\n" + "-" * 80 + "\nThe names, from Unicode CLDR:\n\n"
    if source in ("noto", "fluent", "openmoji"):
        names += member(pinned.CLDR, "package/LICENSE")
    if source == "noto":
        apache = files(__package__).joinpath("licenses/Apache-2.0.txt").read_text(encoding="utf-8")
        return apache.strip("\n") + names
    if source == "fluent":
        mit = member(pinned.EASY_VQA, "easy_vqa-1.0.dist-info/LICENSE")
        return _MIT_HEADER + mit[mit.index("Permission is hereby granted") :] + names
    if source == "openmoji":
        return member(pinned.OPENMOJI, "package/LICENSE.txt") + names
    if source == "openclipart":
        return member(pinned.OPENCLIPART, _COPYRIGHT.format(name="openclipart-svg"))
    if source == "scratch":
        return debian(pinned.SCRATCH, "scratch", "CC-BY-SA-3.0")
    if source == "sonic-pi":
        return debian(pinned.SONIC_PI, "sonic-pi-samples", "CC0")
    if source == "asterisk-en":
        return debian(pinned.ASTERISK_EN, "asterisk-core-sounds-en-g722", "CC-BY-SA-3.0")
    if source == "asterisk-fr":
        return debian(pinned.ASTERISK_FR, "asterisk-core-sounds-fr-g722", "CC-BY-SA-3.0")
    if source == "easy-vqa":
        return member(pinned.EASY_VQA, "easy_vqa-1.0.dist-info/LICENSE")
    assert source == "wordnet", source
    return member(pinned.WORDNET, "package/LICENSE")


def _paragraph(copyright_file: str, license_id: str) -> str:
    """Return the full text of one licence of a Debian copyright file."""
    paragraphs = re.split(r"\n(?=(?:License|Files): )|\n(?=Files:\n)", copyright_file)
    texts = [part for part in paragraphs if part.startswith(f"License: {license_id}\n")]
    text = max(texts, key=len).split("\n", 1)[1]
    return "\n".join("" if line.strip() == "." else line.removeprefix(" ") for line in text.split("\n"))


_NOTICES = {
    "noto": "Pictures: Noto Emoji, Copyright Google LLC, Apache License 2.0\n"
    "(https://github.com/googlefonts/noto-emoji); taken at 64 pixels from emoji-datasource-google by\n"
    "Cal Henderson. Changed: drawn over white and encoded as WebP.\n",
    "fluent": "Pictures: Fluent Emoji (3D), Copyright Microsoft Corporation, MIT License\n"
    "(https://github.com/microsoft/fluentui-emoji); packaged by LobeHub, MIT License. Changed: drawn\n"
    "over white, shrunk to 64 pixels and encoded as WebP.\n",
    "openmoji": _SHARE_ALIKE
    + "Pictures: OpenMoji (https://openmoji.org), the open-source emoji and icon project, by the\n"
    "OpenMoji contributors, Creative Commons Attribution-ShareAlike 4.0 International (CC-BY-SA-4.0,\n"
    "https://creativecommons.org/licenses/by-sa/4.0/). Changed: rendered over white at 64 pixels and\n"
    "encoded as WebP. These pictures are for tests only; no training recipe reads them.\n",
    "openclipart": "Drawings: the Open Clip Art Library (https://openclipart.org), "
    "each by the author that its\n"
    "row names, dedicated to the public domain. Changed: rendered over white at 64 pixels, cropped,\n"
    "encoded as WebP, titles made plain.\n",
    "scratch": _SHARE_ALIKE
    + "Sounds: Scratch 1.4 media library (https://scratch.mit.edu), Copyright (c) 2011 Massachusetts\n"
    "Institute of Technology, Creative Commons Attribution-ShareAlike 3.0 (CC-BY-SA-3.0,\n"
    "https://creativecommons.org/licenses/by-sa/3.0/). Changed: cut to 2.5 seconds at most, mixed to\n"
    "one channel, resampled to 24 kHz, levelled, encoded as Ogg Opus, named in plain words.\n",
    "sonic-pi": "Sounds: samples of Sonic Pi (https://sonic-pi.net), each by the author that its row names\n"
    "(https://freesound.org), dedicated to the public domain by CC0 1.0. Changed: cut to 2.5 seconds\n"
    "at most, mixed to one channel, resampled to 24 kHz, levelled, encoded as Ogg Opus, named in\n"
    "plain words.\n",
    "asterisk-en": _SHARE_ALIKE
    + "Voice prompts: Asterisk core sounds (https://www.asterisk.org), Copyright 2003-2010 Allison\n"
    "Smith; recorded by Allison Smith, financial contributions by Digium, Inc.; Creative Commons\n"
    "Attribution-ShareAlike 3.0 (CC-BY-SA-3.0). Changed: silence cut, levelled, encoded as Ogg Opus;\n"
    "transcripts tidied.\n",
    "asterisk-fr": _SHARE_ALIKE
    + "Voice prompts: Asterisk core sounds in French (https://www.asterisk.org), Copyright 2006-2008\n"
    "June Wallack; recorded by June Wallack, translated by Clod Patry, Kristopher Lalletti and June\n"
    "Wallack, financial contributions by Digium, Inc., Unlimitel and BGM Informatique; Creative\n"
    "Commons Attribution-ShareAlike 3.0 (CC-BY-SA-3.0). Changed: silence cut, levelled, encoded as\n"
    "Ogg Opus; transcripts tidied.\n",
    "easy-vqa": "Pictures and questions: easy-VQA, Copyright (c) 2019 Victor Zhou, MIT License\n"
    "(https://github.com/vzhou842/easy-VQA). Changed: a part of the questions; pictures encoded as\n"
    "WebP without loss.\n",
    "wordnet": "Glosses: WordNet 3.1, Princeton University (https://wordnet.princeton.edu), WordNet\n"
    "licence. Changed: a part of the nouns, one sense each, without the examples.\n",
}
