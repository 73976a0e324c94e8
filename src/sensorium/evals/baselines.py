"""What a figure must beat: answers of a task that need no model, all by one interface.

A baseline looks at known examples and gives every option (an answer, a name) of every asked example a score; the
higher, the likelier. Scores are a similarity like a model's own, so that the same metric is taken of both.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k
from sensorium.media.image import resize_image

PIXEL_SIZES = (8, 16, 64)
MEL_FRAMES = 64
_CHUNK = 256  # signals compared at once

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """What a baseline may look at.

    Args:
        answer: the right answer or name. question: as asked; "" where nothing is asked.
        signal: uint8 pixels ``[H, W, 3]``, log-mel ``[F, 100]``, or None.
    """

    answer: str
    question: str = ""
    signal: np.ndarray | None = None


class Baseline(Protocol):
    """(known, asked, options) -> float scores ``[len(asked), len(options)]``."""

    @property
    def name(self) -> str:
        """What it is called beside a figure."""
        ...

    def scores(
        self, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
    ) -> np.ndarray:
        """Score every option for every asked example; the answers of ``asked`` are not looked at."""
        ...


@dataclass(frozen=True)
class Chance:
    """Any option, all alike."""

    name: str = "chance"

    def scores(
        self, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
    ) -> np.ndarray:
        """All zero."""
        return np.zeros((len(asked), len(options)), np.float32)


@dataclass(frozen=True)
class Majority:
    """The most frequent known answer, always."""

    name: str = "majority"

    def scores(
        self, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
    ) -> np.ndarray:
        """How often each option is known."""
        counts = Counter(example.answer for example in known)
        return np.tile([float(counts[option]) for option in options], (len(asked), 1))


@dataclass(frozen=True)
class Blind:
    """The most frequent known answer to the same question: the best that a reader without eyes and ears can do."""

    name: str = "majority of the same question"

    def scores(
        self, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
    ) -> np.ndarray:
        """How often each option answers that question; where that is level or unknown, how often it is known."""
        overall = Majority().scores(known, asked, options) / (len(known) + 1)
        by_question: dict[str, Counter[str]] = defaultdict(Counter)
        for example in known:
            by_question[_words(example.question)][example.answer] += 1
        counts = [by_question.get(_words(example.question), Counter()) for example in asked]
        return overall + np.array([[count[option] for option in options] for count in counts], dtype=float)


@dataclass(frozen=True)
class NearestNeighbour:
    """The option of the nearest known signal. An option of which nothing is known is never chosen.

    Args:
        view: a signal -> the vector that is compared; all of one length.
    """

    view: Callable[[np.ndarray], np.ndarray]
    name: str

    def scores(
        self, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
    ) -> np.ndarray:
        """Minus the squared distance to the nearest known signal of each option."""
        places = {option: number for number, option in enumerate(dict.fromkeys(options))}
        used = [example for example in known if example.signal is not None and example.answer in places]
        nearest = np.full((len(asked), len(places)), -np.inf, np.float32)
        if not used:
            return nearest[:, [places[option] for option in options]]
        reference_MD = np.stack([self.view(_signal(example)) for example in used])
        column_M = np.array([places[example.answer] for example in used])
        norm_M = (reference_MD**2).sum(axis=1)
        for start in range(0, len(asked), _CHUNK):
            part = [self.view(_signal(example)) for example in asked[start : start + _CHUNK]]
            query_ND = np.stack(part)
            distance_NM = (query_ND**2).sum(axis=1)[:, None] - 2 * query_ND @ reference_MD.T + norm_M
            rows = nearest[start : start + _CHUNK]
            np.maximum.at(rows.T, column_M, -distance_NM.T)
        return nearest[:, [places[option] for option in options]]


def pixels(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """View of a picture: shrunk to ``size`` pixels a side with antialiasing, in [0, 1]."""

    def view(pixels_HW3: np.ndarray) -> np.ndarray:
        return resize_image(pixels_HW3, size, size).reshape(-1) / np.float32(255)

    return view


def mel(num_frames: int = MEL_FRAMES) -> Callable[[np.ndarray], np.ndarray]:
    """View of a sound: its log-mel from the start, cut or filled up with its own least value to ``num_frames``."""

    def view(log_mel_FM: np.ndarray) -> np.ndarray:
        cut = log_mel_FM[:num_frames].astype(np.float32)
        missing = num_frames - len(cut)
        return np.pad(cut, ((0, missing), (0, 0)), constant_values=float(log_mel_FM.min())).reshape(-1)

    return view


def pixel_neighbours(sizes: Sequence[int] = PIXEL_SIZES) -> list[NearestNeighbour]:
    """One for each size."""
    return [NearestNeighbour(pixels(size), f"nearest neighbour, {size} px") for size in sizes]


def mel_neighbour(num_frames: int = MEL_FRAMES) -> NearestNeighbour:
    """Nearest in the spectrogram."""
    return NearestNeighbour(mel(num_frames), "nearest neighbour, mel")


def accuracy(
    baseline: Baseline, known: Sequence[Example], asked: Sequence[Example], options: Sequence[str]
) -> float:
    """Share of asked examples whose right answer has the highest score; level options share the point."""
    matches = matches_of_keys([example.answer for example in asked], options)
    return recall_at_k(baseline.scores(known, asked, options), matches)


def best_options(scores_NO: np.ndarray, options: Sequence[str]) -> list[str]:
    """The option of the highest score for each example; of level ones the first."""
    return [options[place] for place in scores_NO.argmax(axis=1)]


def shuffled(values: Sequence[T], seed: int) -> list[T]:
    """The same values in a random order: labels that say nothing, against which anything must score as chance."""
    return [values[place] for place in np.random.default_rng(seed).permutation(len(values))]


def _words(question: str) -> str:
    return " ".join(question.lower().split()).rstrip("?!. ")


def _signal(example: Example) -> np.ndarray:
    assert example.signal is not None, "a neighbour was asked about an example without a signal"
    return example.signal
