"""Rows of one's own shards -> what a suite asks: questions with answers, media with captions, sounds with words."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.data.reader import Reader
from sensorium.data.schema import MEDIA_LISTS, check_row
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image

Part = str | Image | Audio
Row = Mapping[str, Any]
# A list of texts in `metadata`, as JSON: the answers of several people, further captions of one medium.
ANSWERS, CAPTIONS = "answers", "captions"


@dataclass(frozen=True)
class Case:
    """One thing that is asked.

    Args:
        id: of the sample; unique in a suite.
        prompt: media and words in order. answers: those that are right.
        question: its words alone.
        media_key: hash of its media; cases with the same one are no independent samples.
    """

    id: str
    prompt: tuple[Part, ...]
    answers: tuple[str, ...]
    question: str
    media_key: str

    @property
    def media(self) -> tuple[Image | Audio, ...]:
        """Pictures and sounds of the prompt."""
        return tuple(part for part in self.prompt if not isinstance(part, str))

    @property
    def words(self) -> tuple[str, ...]:
        """The prompt without its media: what is left for a blind model."""
        return tuple(part for part in self.prompt if isinstance(part, str))


def read_rows(data: str, split: str, *, limit: int = 0) -> list[dict[str, Any]]:
    """Rows of a split of shards, checked.

    Args:
        data: a Parquet file, a folder of shards, "starter:NAME", or an address of an object store.
        limit: as in ``checked_rows``.

    Raises:
        FileNotFoundError, ValueError: there is no data, it is of another form, a row is broken, or an id twice.
    """
    rows = list(Reader(data, split).rows())
    if not rows:
        raise ValueError(f"{data}: no sample has the split {split!r}; name another with --split")
    return checked_rows(rows, limit=limit)


def checked_rows(rows: Sequence[Row], *, limit: int = 0) -> list[dict[str, Any]]:
    """Rows that are whole and have ids of their own; with a limit, that many, evenly spread.

    Raises:
        ValueError: a row is broken, an id occurs twice, or there is no row.
    """
    if not rows:
        raise ValueError("there are no rows to evaluate on; give at least one")
    chosen = [dict(row) for row in (rows[:: max(1, len(rows) // limit)][:limit] if limit else rows)]
    seen: set[str] = set()
    for row in chosen:
        if row.get("problems"):
            raise ValueError(f"sample {row['id']!r}: {row['problems'][0]}; `sensorium data check` tells more")
        check_row(row)
        if row["id"] in seen:
            raise ValueError(
                f"two samples have the id {row['id']!r}; answers are kept by id: make ids unique"
            )
        seen.add(row["id"])
    return chosen


def question_cases(rows: Iterable[Row]) -> list[Case]:
    """Questions: the messages before the first answer, and the answer (with those in ``metadata.answers``)."""
    return [_question(row) for row in rows]


def speech_cases(rows: Iterable[Row], prompt: str) -> list[Case]:
    """Speech: the sound, then ``prompt``; what was said is ``text``."""
    cases = []
    for row in rows:
        if not row.get("audio") or row.get("text") is None:
            raise ValueError(f"sample {row['id']!r} has no audio with text; the suite asr needs both")
        sound = _part("audio", row["audio"], row["id"])
        words = (prompt,) if prompt else ()
        cases.append(Case(row["id"], (sound, *words), (row["text"],), prompt, _key([row["audio"]])))
    return cases


@dataclass(frozen=True)
class Gallery:
    """Media and texts, each once, and which belong together.

    Args:
        media: key (hash) -> part. ids: key -> the first sample with it.
        texts: each once. pairs: (media key, text).
        concepts: media key -> concept, where there is one. text_concepts: text -> concepts of its samples.
    """

    media: dict[str, Image | Audio]
    ids: dict[str, str]
    texts: list[str]
    pairs: set[tuple[str, str]]
    concepts: dict[str, str]
    text_concepts: dict[str, set[str]]

    def belongs(self, key: str, text: str) -> bool:
        """Whether a text is right for a medium: its own, or one of the same concept."""
        concept = self.concepts.get(key)
        return (key, text) in self.pairs or (concept is not None and concept in self.text_concepts[text])


def gallery(rows: Iterable[Row]) -> Gallery:
    """Media with their texts, and with those in ``metadata.captions``; the same bytes are one medium."""
    found = Gallery({}, {}, [], set(), {}, {})
    for row in rows:
        kind = next((kind for kind in ("image", "audio") if row.get(kind)), None)
        texts = [row["text"]] if row.get("text") else []
        texts += _listed(row, CAPTIONS)
        if kind is None or not texts:
            raise ValueError(
                f"sample {row['id']!r} has no picture or sound with text; the suite retrieval needs both"
            )
        key = _key([row[kind]])
        found.media.setdefault(key, _part(kind, row[kind], row["id"]))
        found.ids.setdefault(key, row["id"])
        if row.get("concept"):
            found.concepts[key] = row["concept"]
        for text in texts:
            if text not in found.text_concepts:
                found.texts.append(text)
                found.text_concepts[text] = set()
            found.pairs.add((key, text))
            if row.get("concept"):
                found.text_concepts[text].add(row["concept"])
    return found


def fingerprint(rows: Iterable[Row]) -> str:
    """A hash of all that a suite reads of rows."""
    found = hashlib.sha256()
    for row in rows:
        media = [row.get(kind) for kind in MEDIA_LISTS] + [
            medium for column in MEDIA_LISTS.values() for medium in row.get(column) or ()
        ]
        texts = [row["id"], row.get("text"), row.get("concept"), row.get("messages"), row.get("metadata")]
        found.update(json.dumps([texts, _key([m for m in media if m])], sort_keys=True).encode())
    return found.hexdigest()[:16]


def _question(row: Row) -> Case:
    messages = row.get("messages") or []
    first = next((n for n, message in enumerate(messages) if message["role"] == "assistant"), 0)
    said = [p["text"] for p in messages[first]["content"] if p["type"] == "text"] if first else []
    if not said:
        raise ValueError(
            f"sample {row['id']!r} holds no question with a text answer; the suite vqa needs messages"
        )
    waiting = {kind: list(row.get(column) or ()) for kind, column in MEDIA_LISTS.items()}
    prompt: list[Part] = []
    used: list[Mapping[str, Any]] = []
    for part in (part for message in messages[:first] for part in message["content"]):
        if part["type"] == "text":
            prompt.append(part["text"])
        else:
            used.append(waiting[part["type"]].pop(0))
            prompt.append(_part(part["type"], used[-1], row["id"]))
    question = " ".join(part for part in prompt if isinstance(part, str))
    if not question.strip():
        raise ValueError(
            f"sample {row['id']!r} has no words before its answer; the suite vqa needs a question"
        )
    answers = _listed(row, ANSWERS) or ["".join(said)]
    return Case(row["id"], tuple(prompt), tuple(answers), question, _key(used))


def _listed(row: Row, name: str) -> list[str]:
    """A list of texts that ``metadata`` holds as JSON."""
    written = (row.get("metadata") or {}).get(name)
    if written is None:
        return []
    try:
        texts = json.loads(written)
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
    except ValueError:
        pass
    raise ValueError(
        f"sample {row['id']!r}: metadata.{name} is {written[:60]!r}; expected a JSON list of texts"
    )


def _part(kind: str, medium: Mapping[str, Any], sample_id: str) -> Any:
    if kind == "video":
        raise ValueError(f"sample {sample_id!r} holds a video; the suites take pictures and sounds")
    if not medium.get("bytes"):
        raise ValueError(f"sample {sample_id!r}: a medium has no bytes; import the data again")
    return get_modality(kind).part(medium["bytes"])


def _key(media: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(m["bytes"] or b"").digest() for m in media)).hexdigest()[
        :16
    ]
