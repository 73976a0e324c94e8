"""Intervals hold what they say they hold, and are the same twice."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from sensorium.evals.statistics import bootstrap, paired_difference


def coverage(
    draw, truth: float, statistic: str, *, groups=None, trials: int = 300, level: float = 0.9
) -> float:  # type: ignore[no-untyped-def]
    held = 0
    for trial in range(trials):
        found = bootstrap(
            draw(np.random.default_rng(trial)),
            statistic,
            groups=groups,
            level=level,
            num_resamples=400,
            seed=trial,
        )
        held += found.low <= truth <= found.high
    return held / trials


def ratio_pairs(rng: np.random.Generator) -> np.ndarray:
    words = rng.integers(1, 20, 200)
    return np.stack([rng.binomial(words, 0.3), words], axis=1)


@pytest.mark.parametrize(
    ("draw", "truth", "statistic"),
    [
        (lambda rng: rng.normal(5, 2, 100), 5.0, "mean"),
        (lambda rng: rng.random(100) < 0.2, 0.2, "mean"),
        (lambda rng: rng.exponential(1.0, 201), np.log(2), "median"),
        (ratio_pairs, 0.3, "ratio"),
    ],
    ids=["normal", "binomial", "median", "ratio"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(draw, truth: float, statistic: str) -> None:  # type: ignore[no-untyped-def]
    # 300 trials at 90%: the standard error is 1.7 points.
    assert 0.85 <= coverage(draw, truth, statistic) <= 0.95


def test_samples_of_a_group_are_drawn_together() -> None:
    """Ten questions about each of 40 pictures, answered alike: only the groups are independent."""
    groups = [n // 10 for n in range(400)]

    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.repeat(rng.random(40) < 0.5, 10)

    assert 0.83 <= coverage(draw, 0.5, "mean", groups=groups) <= 0.96
    assert coverage(draw, 0.5, "mean") < 0.6  # without groups it is far too sure
    found = bootstrap(draw(np.random.default_rng(0)), groups=groups)
    assert found.num_units == 40


def test_the_median_of_groups_is_that_of_all_their_values() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.integers(0, 30, 23).astype(float), rng.integers(0, 6, 23).tolist()
    found = bootstrap(values, "median", groups=groups, num_resamples=200, seed=3)
    names = list(dict.fromkeys(groups))
    members = [values[[group == name for group in groups]] for name in names]
    picked = np.random.default_rng(3).integers(len(names), size=(200, len(names)))
    drawn = [np.median(np.concatenate([members[place] for place in row])) for row in picked]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.estimate == np.median(values)
    assert found.num_units == len(names)
    twice = paired_difference(values, values + 1, "median", groups=groups, num_resamples=50)
    assert (twice.estimate, twice.low, twice.high) == (-1, -1, -1)


def test_ranks_of_one_concept_are_drawn_together() -> None:
    groups = [n // 10 for n in range(400)]

    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.repeat(rng.exponential(1.0, 40), 10)

    assert 0.83 <= coverage(draw, np.log(2), "median", groups=groups) <= 0.96
    assert coverage(draw, np.log(2), "median") < 0.7


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(1.0, 80)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=0.9, rng=1
    ).confidence_interval
    ours = bootstrap(values, level=0.9, num_resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.estimate == values.mean()


def test_paired_differences_see_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    a, b = (hard < 0.55).astype(float), (hard < 0.50).astype(float)
    together = paired_difference(a, b)
    assert together.excludes_zero
    assert together.estimate == pytest.approx(a.mean() - b.mean())
    first, second = bootstrap(a), bootstrap(b)
    assert first.low < second.high
    assert not paired_difference(b, b).excludes_zero
    held = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        a = rng.normal(1, 1, 60)
        held += (
            (f := paired_difference(a, a - rng.normal(0.3, 1, 60), num_resamples=300)).low <= 0.3 <= f.high
        )
    assert 0.89 <= held / 200 <= 0.99


def test_ratios_are_of_sums() -> None:
    pairs = np.array([[1, 1], [0, 9]])
    assert bootstrap(pairs, "ratio").estimate == pytest.approx(0.1)
    assert paired_difference(pairs, pairs * [0, 1], "ratio").estimate == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    big = bootstrap(np.random.default_rng(0).random(30_000), num_resamples=300)  # more than fits at once
    assert big.high - big.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 30_000), rel=0.2)


@pytest.mark.parametrize(
    ("values", "statistic", "message"),
    [
        ([], "mean", "N of at least 1"),
        ([1.0], "ratio", r"\[N, 2\]"),
        ([1.0], "mode", "mean, median and ratio"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values: list[float], statistic: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(values, statistic)
