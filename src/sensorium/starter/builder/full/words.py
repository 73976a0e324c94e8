"""WordNet: every meaning with the words for it, its definition, examples and what it is a kind of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import concept_of, held_out_names, tidy
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import fetch, read_texts
from sensorium.starter.builder.words import UNFIT

_PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_EXAMPLE = re.compile(r'"([^"]+)"')
_MARKER = re.compile(r"\((?:a|p|ip)\)$")


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """One synset: its place in the file, words, definition, examples and the places of what it is a kind of."""

    offset: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    kinds: tuple[str, ...]


def meaning_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per meaning: "word, other word: definition", then its examples."""
    held_out = held_out_names(folder)
    texts = read_texts(fetch(pinned.WORDNET, folder), *(f"package/dict/data.{part}" for part in _PARTS))
    for (part, letter), text in zip(_PARTS.items(), texts, strict=True):
        meanings = {meaning.offset: meaning for meaning in parse_meanings(text)}
        for meaning in meanings.values():
            words = ", ".join(meaning.words)
            if UNFIT.search(f"{words} {meaning.definition}"):
                continue
            named = concept_of(words.lower(), held_out)
            concept = named if named in held_out else meaning.words[0].lower()
            kinds = [meanings[offset].words[0] for offset in meaning.kinds if offset in meanings]
            yield {
                "id": f"wordnet/{letter}{meaning.offset}",
                "split": split_of(concept),
                "concept": concept,
                "language": "en",
                "source": "wordnet",
                "license": "LicenseRef-WordNet",
                "attribution": "WordNet 3.1, Princeton University (https://wordnet.princeton.edu)",
                "text": f"{words}: {meaning.definition}"
                + "".join(f"\n“{example}”" for example in meaning.examples),
                "metadata": {"category": part, **({"kind_of": ", ".join(kinds)} if kinds else {})},
            }


def parse_meanings(data: str) -> Iterator[Meaning]:
    """Yield the meanings of one of WordNet's data files (see its manual page wndb)."""
    for line in data.splitlines():
        if line.startswith(" "):
            continue
        head, _, text = line.partition(" | ")
        fields = head.split()
        words_end = 4 + 2 * int(fields[3], 16)
        pointers = [
            fields[i : i + 4] for i in range(words_end + 1, words_end + 1 + 4 * int(fields[words_end]), 4)
        ]
        words = (_MARKER.sub("", word).replace("_", " ") for word in fields[4:words_end:2])
        yield Meaning(
            offset=fields[0],
            words=tuple(dict.fromkeys(words)),
            definition=tidy(re.split(r';\s*"', text)[0].split('"')[0]).rstrip(";: ") or tidy(text).strip('"'),
            examples=tuple(tidy(example) for example in _EXAMPLE.findall(text)),
            kinds=tuple(pointer[1] for pointer in pointers if pointer[0] in ("@", "@i")),
        )


SOURCES: tuple[FullSource, ...] = (
    FullSource(name="wordnet", task="text", packages=(pinned.WORDNET, pinned.CLDR), rows=meaning_rows),
)
