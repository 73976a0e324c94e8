"""Answers of everybody -> figures with intervals, beside what needs no model.

A system has answers of one or more seeds; its figure is their mean, sample by sample, so that two systems are compared
on the same samples whatever the seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sensorium.evals.baselines import Blind, Example, Majority, best_options, pixel_neighbours, pixels
from sensorium.evals.metrics.captions import cider_d
from sensorium.evals.metrics.generated import frechet_distance
from sensorium.evals.metrics.retrieval import matches_of_keys, ranks, recall_per_query
from sensorium.evals.metrics.speech import word_error_rate
from sensorium.evals.statistics import Interval, bootstrap, paired_difference
from sensorium.media.image import resize_image
from sensorium.media.parts import Image

from .work import QUESTION_SOURCE, SIDE, STYLES, Asked, rows_of, text_of

Answers = Mapping[str, np.ndarray]
NEIGHBOUR_SIZES = (8, 16)
_FRECHET_DIM, _FRECHET_DRAWS = 64, 200


@dataclass
class Figure:
    """One line of the table.

    Args:
        systems: name -> values of every sample ``[n]`` (or ``[n, 2]``, errors and words), one array a seed.
        others: the same of what needs no model, or is real.
        groups: samples that are drawn together.
        intervals: of systems where the figure is no mean of samples, with values of every seed in ``seeds``.
    """

    row: str
    metric: str
    unit: str = "%"
    systems: dict[str, list[np.ndarray]] = field(default_factory=dict)
    others: dict[str, list[np.ndarray]] = field(default_factory=dict)
    groups: Sequence[str] | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    seeds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def _statistic(self) -> str:
        return "ratio" if self.metric.startswith("WER") else "mean"

    def _of(self, name: str) -> np.ndarray:
        return np.mean((self.systems | self.others)[name], axis=0)

    def interval(self, name: str) -> Interval:
        """A system's figure."""
        if name in self.intervals:
            return self.intervals[name]
        return bootstrap(self._of(name), self._statistic, groups=self.groups)

    def difference(self, a: str, b: str) -> Interval | None:
        """Of two systems on the same samples, None where the figure has no samples of its own."""
        if a in self.intervals or b in self.intervals:
            return None
        return paired_difference(self._of(a), self._of(b), self._statistic, groups=self.groups)

    def by_seed(self, name: str) -> list[float]:
        """A system's figure of every seed."""
        if name in self.seeds:
            return self.seeds[name]
        values = (self.systems | self.others)[name]
        return [bootstrap(v, self._statistic, groups=self.groups, num_resamples=1).estimate for v in values]


def _each(answers: Mapping[str, Sequence[Answers]], score: Callable[[Answers], np.ndarray]) -> dict[str, Any]:
    return {name: [score(one) for one in of_seeds] for name, of_seeds in answers.items()}


def known_pictures() -> list[Example]:
    """The pictures that everybody trained on."""
    return [Example(row["text"], signal=_shrunk(row)) for style in STYLES for row in rows_of(style, "train")]


def _shrunk(row: Mapping[str, Any]) -> np.ndarray:
    return resize_image(Image(row["image"]["bytes"]).pixels(), SIDE, SIDE)


def retrieval_figures(answers: Mapping[str, Sequence[Answers]], asked: Asked) -> list[Figure]:
    """R@1 in both directions."""
    matches = matches_of_keys(asked.names, asked.names)
    shown = [Example("", signal=resize_image(p.pixels(), SIDE, SIDE)) for p in asked.pictures]
    known = known_pictures()
    near = {n.name: n.scores(known, shown, asked.names) for n in pixel_neighbours(NEIGHBOUR_SIZES)}
    found = []
    for metric, turned in (("R@1 picture -> word", False), ("R@1 word -> picture", True)):

        def score(similarity: np.ndarray, turned: bool = turned) -> np.ndarray:
            pair = (similarity.T, matches.T) if turned else (similarity, matches)
            return 100 * recall_per_query(*pair, k=1)

        figure = Figure("retrieval", metric, systems=_each(answers, lambda a, s=score: s(a["similarity"])))
        figure.others = {name: [score(similarity)] for name, similarity in near.items()}
        figure.others["chance"] = [score(np.zeros(matches.shape))]
        found.append(figure)
    return found


def mean_log_rank(similarity: np.ndarray, names: Sequence[str]) -> float:
    """How far down what is right stands, over both directions; a loss would rather have a model unsure than right."""
    matches = matches_of_keys(names, names)
    both = (ranks(similarity, matches), ranks(similarity.T, matches.T))
    return float(np.log(np.concatenate(both)).mean())


def text_figures(answers: Mapping[str, Sequence[Answers]], asked: Asked) -> list[Figure]:
    """Names (exact match, CIDEr) and answers to questions."""
    references = [[name] for name in asked.names]

    def exact(given: np.ndarray, right: Sequence[str]) -> np.ndarray:
        return np.array([100.0 * (a.strip() == b) for a, b in zip(given.tolist(), right, strict=True)])

    known = [Example(row["text"]) for style in STYLES for row in rows_of(style, "train")]
    shown = [Example("", signal=resize_image(p.pixels(), SIDE, SIDE)) for p in asked.pictures]
    names = sorted({example.answer for example in known})
    pictures = known_pictures()
    near = {
        n.name: np.array(best_options(n.scores(pictures, shown, names), names))
        for n in pixel_neighbours(NEIGHBOUR_SIZES)
    }
    naming = Figure("text", "names, exact", systems=_each(answers, lambda a: exact(a["names"], asked.names)))
    naming.others = {name: [exact(given, asked.names)] for name, given in near.items()}

    def cider(given: np.ndarray) -> np.ndarray:
        return 100 * cider_d(given.tolist(), references)[1]

    captions = Figure("text", "names, CIDEr", "", systems=_each(answers, lambda a: cider(a["names"])))
    captions.others = {name: [cider(given)] for name, given in near.items()}
    trained = [
        Example(text_of(row["messages"][1]), question=text_of(row["messages"][0]))
        for row in rows_of(QUESTION_SOURCE, "train")
    ]
    options = sorted({example.answer for example in trained})
    questions = [Example("", question=question) for question in asked.questions]
    figure = Figure("text", "easy-vqa, exact", groups=asked.groups)
    figure.systems = _each(answers, lambda a: exact(a["answers"], asked.answers))
    figure.others = {
        f"{name}, blind": [exact(one["blind"], asked.answers) for one in of_seeds]
        for name, of_seeds in answers.items()
    }
    for rival in (Majority(), Blind()):
        given = np.array(best_options(rival.scores(trained, questions, options), options))
        figure.others[rival.name] = [exact(given, asked.answers)]
    return [naming, captions, figure]


def speech_figures(answers: Mapping[str, Sequence[Answers]], asked: Asked) -> list[Figure]:
    """Word error rate after Whisper's own normaliser."""

    def score(heard: np.ndarray) -> np.ndarray:
        rate = word_error_rate(asked.said, heard.tolist(), normalizer="whisper-english")
        return rate.counts_N2 * np.array([100.0, 1.0])

    return [Figure("speech", "WER", systems=_each(answers, lambda a: score(a["heard"])))]


@dataclass(frozen=True)
class RealPictures:
    """Real pictures of the names asked, each in one of the two styles whose drawing was trained, and in the other one."""

    names: list[str]
    one: list[np.ndarray]
    other: list[np.ndarray]

    @classmethod
    def of(cls, names: Sequence[str]) -> "RealPictures":
        """Which style comes first is drawn for each name."""
        styles = [{row["text"]: _shrunk(row) for row in rows_of(style, "train")} for style in STYLES]
        first = np.random.default_rng(0).integers(2, size=len(names))
        pairs = [(styles[k][name], styles[1 - k][name]) for name, k in zip(names, first, strict=True)]
        return cls(list(names), [a for a, _ in pairs], [b for _, b in pairs])


def picture_figures(
    answers: Mapping[str, Sequence[Answers]], real: RealPictures, views: Mapping[str, Mapping[str, Any]]
) -> list[Figure]:
    """Frechet distance to real pictures, and how often the nearest real picture is of the right name.

    Args:
        views: name of the features -> "one", "other": of the real pictures; system -> a list, one array a seed.
    """
    matches = matches_of_keys(real.names, real.names)
    found = []
    for view, features in views.items():
        right = Figure("pictures", f"right name, nearest by {view}")
        distance = Figure("pictures", f"Frechet distance, {view}", "")

        def score(drawn_ND: np.ndarray, one_ND: np.ndarray = features["one"]) -> np.ndarray:
            squares = (drawn_ND**2).sum(axis=1)[:, None] + (one_ND**2).sum(axis=1)
            return 100 * recall_per_query(2 * drawn_ND @ one_ND.T - squares, matches, k=1)

        for name in answers:
            right.systems[name] = [score(drawn) for drawn in features[name]]
            distance.systems[name] = right.systems[name]
            _add_distance(distance, name, features[name], features["one"])
        right.others = {
            "real, other style": [score(features["other"])],
            "chance": [np.full(len(matches), 100 / len(matches))],
        }
        distance.others = {"real, other style": right.others["real, other style"]}
        _add_distance(distance, "real, other style", [features["other"]], features["one"])
        found += [distance, right]
    return found


def _add_distance(figure: Figure, name: str, drawn: Sequence[np.ndarray], real_ND: np.ndarray) -> None:
    """Distance in the first principal components of the real pictures, with a bootstrap over what was drawn."""
    mean_D = real_ND.mean(axis=0)
    axes = np.linalg.svd(real_ND - mean_D, full_matrices=False)[2][:_FRECHET_DIM]
    real = (real_ND - mean_D) @ axes.T
    sets = [(each - mean_D) @ axes.T for each in drawn]
    figure.seeds[name] = [frechet_distance(each, real) for each in sets]
    rng = np.random.default_rng(0)
    draws = [
        np.mean([frechet_distance(each[rng.integers(len(each), size=len(each))], real) for each in sets])
        for _ in range(_FRECHET_DRAWS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    estimate = float(np.mean(figure.seeds[name]))
    # Drawing with replacement leaves fewer different pictures, and fewer make the distance larger: taken back here.
    shift = float(np.mean(draws)) - estimate
    figure.intervals[name] = Interval(
        estimate, float(low) - shift, float(high) - shift, 0.95, _FRECHET_DRAWS, 0, len(real)
    )


def pixel_view(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The judge that needs nothing: 8 px a side."""
    return np.stack([pixels(8)(picture) for picture in pictures]).astype(np.float64)
