"""Lines of finished runs -> tables with intervals over seeds, fitted power laws, and figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Line = Mapping[str, Any]
FALLING = (
    "rank",
    "distance",
    "error",
    ": text",
    ": align",
    ": flow",
)  # names of figures of which less is better


@dataclass(frozen=True)
class Difference:
    """A variant minus the base, seed by seed, with Student's interval of the mean (95%).

    Args:
        low, high: nan with a single seed.
    """

    mean: float
    low: float
    high: float
    num_seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is certain at this level."""
        return self.low > 0 or self.high < 0


def paired(variant: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """The difference over the seeds that both have; None where there is none.

    Args:
        variant, base: seed -> figure.

    Source: Student's t for paired samples; with three seeds the factor is 4.30 standard errors.
    """
    seeds = sorted(set(variant) & set(base))
    if not seeds:
        return None
    values = np.array([variant[seed] - base[seed] for seed in seeds])
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return Difference(mean, mean - half, mean + half, n)


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of the power law ``y = a x^b`` by least squares of logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def exponents(lines: Sequence[Line], figure: str) -> Difference | None:
    """The exponent of a figure over the variants' x, seed by seed; only seeds that have them all."""
    if any(line["x"] is None or line["x"] <= 0 for line in lines):
        return None
    of_seed: dict[int, list[tuple[float, float]]] = {}
    for line in lines:
        if line["figures"].get(figure, 0) > 0:
            of_seed.setdefault(line["seed"], []).append((line["x"], line["figures"][figure]))
    most = max(map(len, of_seed.values()), default=0)
    whole = {seed: points for seed, points in of_seed.items() if len(points) == most > 2}
    found = {seed: exponent(*zip(*points, strict=True)) for seed, points in whole.items()}
    return paired(found, dict.fromkeys(found, 0.0))


def columns(lines: Sequence[Line]) -> dict[str, dict[str, dict[int, float]]]:
    """Column (a variant, or the group of variants that make one system) -> figure -> seed -> value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for line in lines:
        own = found.setdefault(line["group"] or line["variant"], {})
        part = line["variant"].rpartition(", ")[2] if line["group"] else ""
        for name, value in line["figures"].items():
            # Of the losses of all parts, a model of one part is asked for its own.
            if not part or name.partition(":")[0] not in _OTHERS.get(part, ()):
                own.setdefault(name, {})[line["seed"]] = value
    return found


# What a model of one part was never trained for.
_LOSSES = ("pictures", "sounds", "questions", "hearing", "speaking")
_OTHERS = {
    "pictures": {*_LOSSES} - {"pictures"},
    "sounds": {*_LOSSES} - {"sounds"},
    "questions": {*_LOSSES} - {"questions"},
    "speech": {*_LOSSES} - {"hearing", "speaking"},
}


def table(lines: Sequence[Line], base: str) -> str:
    """Markdown: every figure of every column (mean, then each seed), and the differences from the base."""
    found = _base_first(columns(lines), base)
    figures = dict.fromkeys(name for column in found.values() for name in column)
    head = ["figure", *found]
    rows = [head, ["---"] * len(head)]
    for figure in figures:
        cells = [figure + (" (less is better)" if is_falling(figure) else "")]
        for name in found:
            values = found[name].get(figure)
            cell = (
                "" if values is None else f"{_mean(values)} ({', '.join(_short(v) for v in values.values())})"
            )
            difference = (
                paired(values, found[base].get(figure, {}))
                if values and name != base and base in found
                else None
            )
            if difference is not None:
                cell += f"; {_difference(difference)}"
            cells.append(cell)
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _base_first(found: dict[str, Any], base: str) -> dict[str, Any]:
    """Columns in the order of what they are compared with."""
    return {name: found[name] for name in sorted(found, key=lambda name: name != base)}


def is_falling(figure: str) -> bool:
    """Whether less of a figure is better."""
    return any(word in figure for word in FALLING)


def costs(lines: Sequence[Line]) -> str:
    """Markdown: what each variant used, medians over seeds."""
    rows = ["| variant | seeds | parameters | TFLOP | steps | samples | s |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(line["variant"] for line in lines):
        own = [line for line in lines if line["variant"] == name]
        cells = [f"{np.median([line[key] for line in own]):,.{digits}f}" for key, digits in _COSTS]
        rows.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


_COSTS = (("parameters", 0), ("tflop", 2), ("steps", 0), ("samples", 0), ("train_s", 0))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _mean(values: Mapping[int, float]) -> str:
    return f"**{_short(float(np.mean(list(values.values()))))}**"


def _difference(difference: Difference) -> str:
    if math.isnan(difference.low):
        return f"{difference.mean:+.3g}, one seed"
    mark = " \\*" if difference.excludes_zero else ""
    return f"{difference.mean:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]{mark}"


def plot(
    lines: Sequence[Line], base: str, headline: Sequence[str], references: Mapping[str, float], path: Path
) -> None:
    """A panel for each headline figure: a point for each seed, the mean, chance and neighbours as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = _base_first(columns(lines), base)
    shown = [name for name in headline if any(name in column for column in found.values())]
    places = {line["variant"]: line["x"] for line in lines}
    is_number = all(x is not None for x in places.values())
    figure = Figure(figsize=(2.6 * max(len(shown), 1), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        points = [
            (places[column] if is_number else place, list(own[name].values()))
            for place, (column, own) in enumerate(found.items())
            if name in own
        ]
        if is_number:
            points.sort()
        for x, values in points:
            axes.plot([x] * len(values), values, "o", color="#9db4c8", markersize=4)
        means = [float(np.mean(values)) for _, values in points]
        style = {"linestyle": "-"} if is_number else {"linestyle": "", "marker": "_", "markersize": 16}
        axes.plot([x for x, _ in points], means, color="#1b4f72", **style)
        for reference, value in references.items():
            if reference.startswith(f"{name}, "):
                axes.axhline(value, color="#a93226", linewidth=0.8, linestyle=":")
                axes.annotate(
                    reference[len(name) + 2 :], (0.02, value), xycoords=("axes fraction", "data"), fontsize=6
                )
        if is_number and min(x for x, _ in points) > 0:
            axes.set_xscale("log")
            axes.minorticks_off()
        if is_number:
            axes.set_xticks([x for x, _ in points], [f"{x:,g}" for x, _ in points])
        else:
            axes.set_xticks(range(len(found)), list(found), rotation=20, ha="right")
            axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_title(name + (" ↓" if is_falling(name) else ""), fontsize=8)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=75)
