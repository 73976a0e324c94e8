"""How sure a figure is: bootstrap intervals of means, ratios and medians, and of differences of two systems."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_MAX_DRAWN = 4_000_000  # values in memory at once


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval, with all that it takes to get it again.

    Args:
        estimate: on the data themselves. low, high: ends of the interval.
        level: share of such intervals that hold the truth. num_resamples, seed: of the bootstrap.
        num_units: how many independent units were drawn (samples, or groups of them).
    """

    estimate: float
    low: float
    high: float
    level: float
    num_resamples: int
    seed: int
    num_units: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def excludes_zero(self) -> bool:
        """For a difference: whether one system is better at this level."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: np.ndarray | Sequence[float],
    statistic: str = "mean",
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of one figure.

    Args:
        values: ``[N]`` for "mean" and "median", ``[N, 2]`` for "ratio" (numerator and denominator of each sample:
            errors and words; the figure is the ratio of their sums).
        groups: samples of one group (questions about one picture, utterances of one speaker) are drawn together.

    Raises:
        ValueError: nothing to draw from, an unknown statistic, or values of the wrong shape.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; groups as in the cluster
    bootstrap (Davison and Hinkley 1997, section 3.8).
    """
    num_units, width, figure = _units(values, statistic, groups)
    drawn = _resampled(num_units, width, figure, num_resamples, seed)
    return _interval(float(figure(_all(num_units))[0]), drawn, level, num_resamples, seed, num_units)


def paired_difference(
    a: np.ndarray | Sequence[float],
    b: np.ndarray | Sequence[float],
    statistic: str = "mean",
    *,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the figure of ``a`` minus that of ``b`` on the same samples, drawn together.

    Args:
        a, b: as in ``bootstrap``, sample by sample of the two systems.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} samples; a paired difference needs the same ones")
    num_units, width, figure_a = _units(a, statistic, groups)
    *_, figure_b = _units(b, statistic, groups)

    def difference(picked_RU: np.ndarray) -> np.ndarray:
        return figure_a(picked_RU) - figure_b(picked_RU)

    drawn = _resampled(num_units, 2 * width, difference, num_resamples, seed)
    estimate = float(difference(_all(num_units))[0])
    return _interval(estimate, drawn, level, num_resamples, seed, num_units)


Figure = Callable[[np.ndarray], np.ndarray]


def _units(
    values: np.ndarray | Sequence[float], statistic: str, groups: Sequence[Any] | None
) -> tuple[int, int, Figure]:
    """How many units are drawn, how many values a draw holds, and the figure of drawn units ``[R, U]`` -> ``[R]``."""
    if statistic not in ("mean", "median", "ratio"):
        raise ValueError(f"unknown statistic {statistic!r}; known are mean, median and ratio")
    array = np.asarray(values, dtype=np.float64)
    wanted = 2 if statistic == "ratio" else 1
    if array.ndim != wanted or not len(array) or (wanted == 2 and array.shape[1] != 2):
        shape = "[N, 2]" if wanted == 2 else "[N]"
        raise ValueError(
            f"values have shape {list(array.shape)}; {statistic} takes {shape} with N of at least 1"
        )
    if groups is None:
        plain = {"mean": _mean, "median": _median, "ratio": _ratio}[statistic]
        return len(array), array.size, lambda picked_RU: plain(array[picked_RU])
    if len(groups) != len(array):
        raise ValueError(f"{len(groups)} groups for {len(array)} values; give one each")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group_N = np.array([numbers[group] for group in groups])
    if statistic == "median":
        return len(numbers), len(array) + len(numbers), _median_of_groups(array, group_N, len(numbers))
    if statistic == "mean":
        array = np.stack([array, np.ones(len(array))], axis=1)
    sums = np.zeros((len(numbers), 2))
    np.add.at(sums, group_N, array)
    return len(sums), sums.size, lambda picked_RU: _ratio(sums[picked_RU])


def _median_of_groups(values_N: np.ndarray, group_N: np.ndarray, num_groups: int) -> Figure:
    """The median of all values of the groups drawn: one of a group drawn twice counts twice."""
    order = np.argsort(values_N, kind="stable")
    values_N, group_N = values_N[order], group_N[order]

    def figure(picked_RU: np.ndarray) -> np.ndarray:
        rows = np.arange(len(picked_RU))[:, None] * num_groups
        times_RU = np.bincount((rows + picked_RU).ravel(), minlength=rows.size * num_groups)
        ends_RN = times_RU.reshape(-1, num_groups)[:, group_N].cumsum(axis=1)
        num_R1 = ends_RN[:, -1:]
        low_R, high_R = ((ends_RN <= place).sum(axis=1) for place in ((num_R1 - 1) // 2, num_R1 // 2))
        return np.asarray((values_N[low_R] + values_N[high_R]) / 2)

    return figure


def _all(num_units: int) -> np.ndarray:
    """Every unit once."""
    return np.arange(num_units)[None]


def _resampled(num_units: int, width: int, figure: Figure, num_resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chunk = max(1, _MAX_DRAWN // (2 * width))
    drawn = []
    for start in range(0, num_resamples, chunk):
        drawn.append(figure(rng.integers(num_units, size=(min(chunk, num_resamples - start), num_units))))
    return np.concatenate(drawn)


def _interval(
    estimate: float, drawn: np.ndarray, level: float, num_resamples: int, seed: int, num_units: int
) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, num_resamples, seed, num_units)


def _mean(values_RN: np.ndarray) -> np.ndarray:
    return values_RN.mean(axis=1)


def _median(values_RN: np.ndarray) -> np.ndarray:
    return np.median(values_RN, axis=1)


def _ratio(pairs_RN2: np.ndarray) -> np.ndarray:
    """Ratio of sums; a draw of units whose denominators are all 0 counts as 0 over 1."""
    sums_R2 = pairs_RN2.sum(axis=1)
    return sums_R2[:, 0] / np.where(sums_R2[:, 1] == 0, 1, sums_R2[:, 1])
