"""Baselines: what needs no model, and a control that must fail."""

import numpy as np
import pytest

from sensorium.evals.baselines import (
    Blind,
    Chance,
    Example,
    Majority,
    NearestNeighbour,
    accuracy,
    best_options,
    mel_neighbour,
    pixel_neighbours,
    shuffled,
)
from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k

KNOWN = [
    *[Example("yes", question="Is it red?")] * 3,
    *[Example("no", question="is it  red")] * 1,
    *[Example("circle", question="What shape?")] * 3,
    *[Example("square", question="What shape?")] * 2,
    *[Example("no", question="Is it big?")] * 4,
]
OPTIONS = ["circle", "no", "square", "yes"]


def test_chance_is_one_of_the_options() -> None:
    asked = [Example("yes"), Example("no"), Example("square"), Example("unheard of")]
    assert accuracy(Chance(), KNOWN, asked, OPTIONS) == pytest.approx(3 / 4 / 4)


def test_majority_and_blind() -> None:
    asked = [Example("yes", "is it red?"), Example("circle", "what shape"), Example("no", "how much?")]
    assert best_options(Majority().scores(KNOWN, asked, OPTIONS), OPTIONS) == ["no"] * 3
    assert best_options(Blind().scores(KNOWN, asked, OPTIONS), OPTIONS) == ["yes", "circle", "no"]
    assert accuracy(Blind(), KNOWN, asked, OPTIONS) == 1
    assert accuracy(Majority(), KNOWN, asked, OPTIONS) == pytest.approx(1 / 3)


def test_level_counts_of_a_question_are_settled_by_the_overall_counts() -> None:
    known = [Example("a", "q"), Example("b", "q"), Example("b", "r")]
    assert best_options(Blind().scores(known, [Example("a", "q")], ["a", "b"]), ["a", "b"]) == ["b"]


def picture(rng: np.random.Generator, shade: int) -> np.ndarray:
    return np.clip(shade + rng.integers(-20, 20, (20, 24, 3)), 0, 255).astype(np.uint8)


def examples(seed: int, num: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [
        Example(f"name {n % num}", signal=picture(rng, 20 + 200 * (n % num) // num)) for n in range(4 * num)
    ]


def test_the_nearest_neighbour_in_pixels_names_what_looks_alike() -> None:
    known, asked = examples(0, 8), examples(1, 8)
    names = [f"name {n}" for n in range(8)]
    for baseline in pixel_neighbours():
        assert accuracy(baseline, known, asked, names) > 0.9
    # By hand, for one view.
    flat = NearestNeighbour(lambda x: x.mean(axis=(0, 1)).astype(float), "mean colour")
    scores = flat.scores(known, asked, names)
    for number, example in enumerate(asked):
        assert example.signal is not None
        distances = [
            (((e.signal.mean((0, 1)) - example.signal.mean((0, 1))) ** 2).sum(), e.answer)  # type: ignore[union-attr]
            for e in known
        ]
        best = {name: -min(d for d, answer in distances if answer == name) for name in names}
        assert scores[number] == pytest.approx([best[name] for name in names])


def test_a_name_without_examples_is_never_chosen() -> None:
    known, asked = examples(0, 4), examples(1, 4)
    scores = pixel_neighbours((8,))[0].scores(known, asked, ["name 0", "never seen", "name 0"])
    assert (scores[:, 1] == -np.inf).all()
    assert (scores[:, 0] == scores[:, 2]).all()
    assert (pixel_neighbours((8,))[0].scores([], asked, ["x"]) == -np.inf).all()


def test_the_nearest_neighbour_in_mel_finds_the_same_sound() -> None:
    rng = np.random.default_rng(0)
    sounds = [Example(f"s{n}", signal=rng.normal(size=(5 + 7 * n, 100))) for n in range(12)]
    assert accuracy(mel_neighbour(), sounds, sounds, [f"s{n}" for n in range(12)]) == 1


def test_a_perfect_similarity_scores_chance_on_shuffled_labels() -> None:
    names = [f"n{n}" for n in range(20)]
    assert recall_at_k(np.eye(20), matches_of_keys(names, names)) == 1
    figures = [recall_at_k(np.eye(20), matches_of_keys(names, shuffled(names, s))) for s in range(200)]
    assert np.mean(figures) == pytest.approx(1 / 20, abs=0.02)
    assert sorted(shuffled(names, 1)) == sorted(names)
    assert shuffled(names, 1) == shuffled(names, 1) != shuffled(names, 2)
