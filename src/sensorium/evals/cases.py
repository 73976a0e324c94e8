"""Rows of one's own shards -> what a suite asks: questions with answers, media with captions, sounds with words."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sensorium.data.reader import Reader
from sensorium.data.schema import MEDIA_LISTS, check_row
from sensorium.evals.baselines import Example
from sensorium.media.audio import log_mel
from sensorium.media.errors import MediaError
from sensorium.media.image import resize_image
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image, Video

Medium = Image | Audio | Video
Part = str | Medium
Row = Mapping[str, Any]
T = TypeVar("T")
# A list of texts in `metadata`, as JSON: the answers of several people, further captions of one medium.
ANSWERS, CAPTIONS = "answers", "captions"
MEDIA_KINDS = ("image", "audio")
_NAMES = {"image": "picture", "audio": "sound", "video": "video"}
_NEIGHBOUR_PIXELS, _WHOLE_PIXELS = 64, 256
_MAX_KNOWN = 4000


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
    def media(self) -> tuple[Medium, ...]:
        """Pictures, sounds and videos of the prompt."""
        return tuple(part for part in self.prompt if not isinstance(part, str))

    @property
    def words(self) -> tuple[str, ...]:
        """The prompt without its media: what is left for a blind model."""
        return tuple(part for part in self.prompt if isinstance(part, str))


def stream_rows(data: str, split: str, *, limit: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of a split of shards; with a limit, that many, evenly spread, and no block is read without one of them.

    Args:
        data: a Parquet file, a folder of shards, "starter:NAME", or an address of an object store.

    Raises:
        FileNotFoundError, ValueError: there is no data, it is of another form, or has no such split.
    """
    reader = Reader(data, split)
    if not reader.num_rows:
        raise ValueError(f"{data}: no sample has the split {split!r}; name another with --split")
    return _spread_rows(reader, limit)


def _spread_rows(reader: Reader, limit: int) -> Iterator[dict[str, Any]]:
    ends = np.cumsum(reader.block_sizes)
    for place in _spread(reader.num_rows, limit):
        block = int(np.searchsorted(ends, place, side="right"))
        yield reader.row(block, place - int(ends[block] - reader.block_sizes[block]))


def _spread(num_rows: int, limit: int) -> Iterator[int]:
    """Places of ``limit`` rows (0: all), evenly spread."""
    num = min(limit or num_rows, num_rows)
    return (number * num_rows // num for number in range(num))


def checked_rows(rows: Sequence[Row], *, limit: int = 0) -> list[dict[str, Any]]:
    """Rows that are whole and have ids of their own; with a limit, that many, evenly spread.

    Raises:
        ValueError: a row is broken, an id occurs twice, or there is no row.
    """
    if not rows:
        raise ValueError("there are no rows to evaluate on; give at least one")
    chosen = [dict(rows[place]) for place in _spread(len(rows), limit)]
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
            raise ValueError(f"sample {row['id']!r} has no audio with text; this suite needs both")
        sound = _part("audio", row["audio"], row["id"])
        words = (prompt,) if prompt else ()
        cases.append(Case(row["id"], (sound, *words), (row["text"],), prompt, _key([row["audio"]])))
    return cases


@dataclass(frozen=True)
class EditCase:
    """A picture, what is to be done to it, and what should come out; ``media_key`` as in ``Case``."""

    id: str
    prompt: tuple[Part, ...]
    source: Image
    wanted: Image
    instruction: str
    kind: str
    media_key: str


def edit_cases(rows: Iterable[Row]) -> list[EditCase]:
    """Rows of a picture and an instruction whose answer is a picture; ``metadata.operation`` is the kind.

    Raises:
        ValueError: a row is none of these.
    """
    found = []
    for row in rows:
        prompt, answer, used = _first_turn(row)
        sources = [part for part in prompt if isinstance(part, Image)]
        wanted = [part for part in answer if isinstance(part, Image)]
        words = " ".join(part for part in prompt if isinstance(part, str) and part.strip())
        if not (sources and wanted and words):
            raise ValueError(
                f"sample {row['id']!r} is no picture with an instruction and a picture as the answer; the suite edit "
                "needs these as messages"
            )
        kind = (row.get("metadata") or {}).get("operation", "")
        found.append(EditCase(row["id"], prompt, sources[-1], wanted[0], words, kind, _key(used)))
    return found


@dataclass(frozen=True)
class Gallery:
    """Media and texts, each once, and which belong together.

    Args:
        media: key (hash) -> part. ids: key -> the first sample with it.
        texts: each once, with its place.
        pairs: (media key, text). concepts: concept -> media keys and texts of its samples.
    """

    media: dict[str, Medium]
    ids: dict[str, str]
    texts: dict[str, int]
    pairs: set[tuple[str, str]]
    concepts: dict[str, tuple[set[str], set[str]]]

    def matches(self) -> np.ndarray:
        """Bool ``[media, texts]``: a text is right for its own medium and for one of the same concept."""
        place = {key: number for number, key in enumerate(self.media)}
        found = np.zeros((len(self.media), len(self.texts)), bool)
        for key, text in self.pairs:
            found[place[key], self.texts[text]] = True
        for keys, texts in self.concepts.values():
            found[np.ix_([place[key] for key in keys], [self.texts[text] for text in texts])] = True
        return found


def gallery(rows: Iterable[Row], kinds: Sequence[str] = MEDIA_KINDS) -> Gallery:
    """Media with their texts, and with those in ``metadata.captions``; the same bytes are one medium."""
    found = Gallery({}, {}, {}, set(), {})
    for row in rows:
        kind, texts = _kind(row, kinds), [row["text"]] if row.get("text") else []
        texts += _listed(row, CAPTIONS)
        if kind is None or not texts:
            raise ValueError(
                f"sample {row['id']!r} has no {' or '.join(_NAMES[kind] for kind in kinds)} with text; this suite needs "
                "both"
            )
        key = _key([row[kind]])
        found.media.setdefault(key, _part(kind, row[kind], row["id"]))
        found.ids.setdefault(key, row["id"])
        keys, named = (
            found.concepts.setdefault(row["concept"], (set(), set()))
            if row.get("concept")
            else (set(), set())
        )
        keys.add(key)
        for text in texts:
            found.texts.setdefault(text, len(found.texts))
            found.pairs.add((key, text))
            named.add(text)
    return found


def known_questions(rows: Iterable[Row]) -> list[Example]:
    """What a reader of the questions alone can learn: words and answers of rows that are questions."""
    found = []
    for row in rows:
        turns = [
            (message["role"], " ".join(p["text"] for p in message["content"] if p["type"] == "text"))
            for message in row.get("messages") or ()
        ]
        first = next((n for n, (role, _) in enumerate(turns) if role == "assistant"), 0)
        if first and turns[first][1]:
            question = " ".join(text for _, text in turns[:first] if text)
            found.append(Example(turns[first][1], question=question))
    return found


def known_media(
    rows: Iterable[Row],
    kinds: Sequence[str] = MEDIA_KINDS,
    signal: Callable[[Any], np.ndarray] | None = None,
) -> list[Example]:
    """What a neighbour can learn: at most 4,000 media with texts, evenly spread; ``signal`` is ``signal_of`` if None."""
    signal = signal or signal_of
    found = []
    for kind, row in _evenly((kind, row) for row in rows if row.get("text") and (kind := _kind(row, kinds))):
        with blamed(row["id"]):
            found.append(Example(row["text"], signal=signal(_part(kind, row[kind], row["id"]))))
    return found


def known_answers(rows: Iterable[Row]) -> list[Example]:
    """What a neighbour can learn of questions: their first picture and their answer, at most 4,000, evenly spread."""
    found = []
    for row in _evenly(row for row in rows if is_answered_in(row, "text") and row.get("images")):
        case = _question(row)
        if case.media:
            with blamed(case.id):
                found.append(Example(case.answers[0], case.question, signal_of(case.media[0])))
    return found


def _evenly(items: Iterable[T]) -> list[T]:
    """At most 4,000 items of a stream of any length, evenly spread; no more are held while it is read."""
    kept: list[T] = []
    stride = 1
    for number, item in enumerate(items):
        if number % stride == 0:
            kept.append(item)
        if len(kept) > _MAX_KNOWN:
            kept, stride = kept[::2], 2 * stride
    return kept


def is_answered_in(row: Row, kind: str) -> bool:
    """Whether a row is a question whose first answer is a text, or is an image."""
    answer: Sequence[Mapping[str, Any]] = next(
        (m["content"] for m in row.get("messages") or () if m["role"] == "assistant"), ()
    )
    return any(part["type"] == kind for part in answer)


@contextmanager
def blamed(sample_id: str) -> Iterator[None]:
    """Where a medium cannot be decoded, the error names its sample."""
    try:
        yield
    except MediaError as error:
        raise ValueError(f"sample {sample_id!r}: {error}") from error


def middle_frame(video: Video) -> Image:
    """The frame in the middle of a video."""
    frames, _ = video.frames()
    return Image(frames[len(frames) // 2])


def signal_of(part: Medium) -> np.ndarray:
    """What neighbours are found by: a picture of 64 x 64 pixels (of a video the middle frame), or a log-mel."""
    if isinstance(part, Video):
        part = middle_frame(part)
    if isinstance(part, Image):
        return resize_image(part.pixels(), _NEIGHBOUR_PIXELS, _NEIGHBOUR_PIXELS)
    return log_mel(part.waveform())


def whole_picture(part: Image) -> np.ndarray:
    """A picture as it is, or shrunk to 256 pixels a side: thousands stay in memory."""
    pixels = part.pixels()
    scale = min(1.0, _WHOLE_PIXELS / max(pixels.shape[:2]))
    height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
    return pixels if scale == 1 else resize_image(pixels, height, width)


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
    prompt, answer, used = _first_turn(row)
    said = [part for part in answer if isinstance(part, str)]
    if not said:
        raise ValueError(
            f"sample {row['id']!r} holds no question with a text answer; this suite needs messages"
        )
    question = " ".join(part for part in prompt if isinstance(part, str) and part)
    if not question.strip():
        raise ValueError(f"sample {row['id']!r} has no words before its answer; this suite needs a question")
    answers = _listed(row, ANSWERS) or ["".join(said)]
    return Case(row["id"], prompt, tuple(answers), question, _key(used) if used else row["id"])


def _first_turn(row: Row) -> tuple[tuple[Part, ...], tuple[Part, ...], list[Mapping[str, Any]]]:
    """Parts before the first answer, its own, and the media of the former as they are stored."""
    messages = row.get("messages") or []
    first = next((n for n, message in enumerate(messages) if message["role"] == "assistant"), 0)
    waiting = {kind: list(row.get(column) or ()) for kind, column in MEDIA_LISTS.items()}
    used: list[Mapping[str, Any]] = []

    def read(part: Mapping[str, Any]) -> Part:
        if part["type"] == "text":
            return str(part["text"])
        used.append(waiting[part["type"]].pop(0))
        return _part(part["type"], used[-1], row["id"])

    prompt = tuple(read(part) for message in messages[:first] for part in message["content"])
    num_used = len(used)
    answer = tuple(read(part) for part in messages[first]["content"]) if first else ()
    return prompt, answer, used[:num_used]


def _kind(row: Row, kinds: Sequence[str] = MEDIA_KINDS) -> str | None:
    """The medium of a short form that a suite takes; of a picture with a sound the picture."""
    return next((kind for kind in kinds if row.get(kind)), None)


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
    if not medium.get("bytes"):
        raise ValueError(f"sample {sample_id!r}: a medium has no bytes; import the data again")
    return Video(medium["bytes"]) if kind == "video" else get_modality(kind).part(medium["bytes"])


def _key(media: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(m["bytes"] or b"").digest() for m in media)).hexdigest()[
        :16
    ]
