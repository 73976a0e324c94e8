"""How a model does on rows it was never trained on, in figures that a person can read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from sensorium.data.reader import Reader
from sensorium.evals.baselines import (
    Chance,
    Example,
    Majority,
    accuracy,
    mel_neighbour,
    pixel_neighbours,
)
from sensorium.evals.cases import Case, known_answers, known_media, known_questions, question_cases, signal_of
from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k
from sensorium.generate.interface import Model
from sensorium.media.audio import log_mel
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio

Row = Mapping[str, Any]
T = TypeVar("T")
MOST = 200  # held-out rows that are asked; known rows that a neighbour may look at: 4,000
_MAX_KNOWN, _ANSWER_TOKENS = 4000, 32


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """What held-out rows ask, without the model that answers.

    Args:
        task: "names" (which of the texts belongs to a medium) or "answers" (to questions).
        known, asked: examples as baselines see them.
        parts: what the model is shown for each asked example. options: the texts it may choose from.
    """

    task: str
    known: Sequence[Example]
    asked: Sequence[Example]
    parts: Sequence[Any]
    options: Sequence[str]

    @property
    def words(self) -> str:
        """The task in words."""
        return (
            f"right name among {len(self.options):,}"
            if self.task == "names"
            else "questions answered as in the data"
        )

    def score(self, model: Model) -> float:
        """Share of the asked that a model gets right."""
        if self.task == "names":
            similarity = model.embed(list(self.parts)) @ model.embed(list(self.options)).T
            return recall_at_k(similarity, matches_of_keys([e.answer for e in self.asked], self.options))
        given = model.generate_many([list(part) for part in self.parts], max_tokens=_ANSWER_TOKENS)
        right = [_plain(text) == _plain(e.answer) for text, e in zip(given, self.asked, strict=True)]
        return float(np.mean(right))

    def baselines(self) -> dict[str, float]:
        """The same of what needs no model: chance or the most frequent answer, and the nearest known signal."""
        least = Chance() if self.task == "names" else Majority()
        found = {least.name: accuracy(least, self.known, self.asked, self.options)}
        if all(example.signal is not None for example in [*self.asked, *self.known]):
            is_picture = all(e.signal is not None and e.signal.ndim == 3 for e in [*self.known, *self.asked])
            rivals = pixel_neighbours((8, 16)) if is_picture else [mel_neighbour()]
            found["nearest neighbour"] = max(
                accuracy(rival, self.known, self.asked, self.options) for rival in rivals
            )
        return found


def make_quiz(path: str, templates: Mapping[str, float], *, asked: str) -> Quiz | None:
    """What rows of the split ``asked`` ask of one who knows those of the split train; None where they ask nothing.

    Args:
        path: of the rows. templates: that the model learns by; without an embedding nothing is told by name.
    """
    known_rows = islice(Reader(path, "train").rows(), _MAX_KNOWN)
    return quiz_of_rows(known_rows, islice(Reader(path, asked).rows(), MOST), templates)


def quiz_of_rows(known: Iterable[Row], asked: Iterable[Row], templates: Mapping[str, float]) -> Quiz | None:
    """``make_quiz`` of rows that are there."""
    if "chat" in templates:
        return _questions(list(known), asked)
    asked = list(asked)
    kind = next((kind for kind in ("image", "audio") if all(row.get(kind) for row in asked)), "")
    if not kind or not {"pair", "embed", "align"} & set(templates):
        return None
    examples = list(_of_each(lambda row: known_media([row], (kind,)), asked))
    known_examples = [example for _, example in _of_each(lambda row: known_media([row], (kind,)), known)]
    return _quiz(
        "names",
        known_examples,
        [example for _, example in examples],
        [get_modality(kind).part(row[kind]["bytes"]) for row, _ in examples],
    )


def _questions(known: Sequence[Row], asked: Iterable[Row]) -> Quiz | None:
    cases = [case for _, case in _of_each(lambda row: question_cases([row]), asked)]
    seen = [example for _, example in _of_each(lambda row: known_answers([row]), known)]
    examples = [Example(case.answers[0], case.question, _signal(case)) for case in cases]
    return _quiz("answers", seen or known_questions(known), examples, [case.prompt for case in cases])


def _quiz(task: str, known: Sequence[Example], asked: Sequence[Example], parts: Sequence[Any]) -> Quiz | None:
    options = sorted({example.answer for example in [*known, *asked]})
    return Quiz(task=task, known=known, asked=asked, parts=parts, options=options) if asked else None


def _of_each(make: Callable[[Row], Iterable[T]], rows: Iterable[Row]) -> Iterator[tuple[Row, T]]:
    """What is made of each row; of one that cannot be used, nothing: training leaves it out too, and says so."""
    for row in rows:
        try:
            yield from ((row, made) for made in list(make(row)))
        except ValueError:
            continue


def _signal(case: Case) -> np.ndarray | None:
    if not case.media:
        return None
    first = case.media[0]
    return log_mel(first.waveform()) if isinstance(first, Audio) else signal_of(first)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip("?!. ")
