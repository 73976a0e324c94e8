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
        groups: samples of one group (questions about one picture, utterances of one speaker) are drawn together;
            not for "median".

    Raises:
        ValueError: nothing to draw from, an unknown statistic, or values of the wrong shape.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; groups as in the cluster
    bootstrap (Davison and Hinkley 1997, section 3.8).
    """
    units, figure = _units(values, statistic, groups)
    drawn = _resampled([units], lambda arrays: figure(arrays[0]), num_resamples, seed)
    return _interval(float(figure(units[None])[0]), drawn, level, num_resamples, seed, len(units))


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
    units_a, figure = _units(a, statistic, groups)
    units_b, _ = _units(b, statistic, groups)
    if units_a.shape != units_b.shape:
        raise ValueError(
            f"{len(units_a)} and {len(units_b)} samples; a paired difference needs the same ones"
        )

    def difference(arrays: list[np.ndarray]) -> np.ndarray:
        return figure(arrays[0]) - figure(arrays[1])

    drawn = _resampled([units_a, units_b], difference, num_resamples, seed)
    estimate = float(difference([units_a[None], units_b[None]])[0])
    return _interval(estimate, drawn, level, num_resamples, seed, len(units_a))


def _units(
    values: np.ndarray | Sequence[float], statistic: str, groups: Sequence[Any] | None
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """What is drawn, and the figure of ``[R, units, ...]`` -> ``[R]``."""
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
        return array, {"mean": _mean, "median": _median, "ratio": _ratio}[statistic]
    if statistic == "median" or len(groups) != len(array):
        raise ValueError(
            f"{len(groups)} groups for {len(array)} values; give one each, and no median of groups"
        )
    if statistic == "mean":
        array = np.stack([array, np.ones(len(array))], axis=1)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), 2))
    np.add.at(sums, [numbers[group] for group in groups], array)
    return sums, _ratio


def _resampled(
    arrays: list[np.ndarray],
    figure: Callable[[list[np.ndarray]], np.ndarray],
    num_resamples: int,
    seed: int,
) -> np.ndarray:
    rng, num_units = np.random.default_rng(seed), len(arrays[0])
    chunk = max(1, _MAX_DRAWN // (num_units * 2 * len(arrays)))
    drawn = []
    for start in range(0, num_resamples, chunk):
        picked_RN = rng.integers(num_units, size=(min(chunk, num_resamples - start), num_units))
        drawn.append(figure([array[picked_RN] for array in arrays]))
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
