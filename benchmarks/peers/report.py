"""Answers on the disk -> every line of the table, in words and for the result file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import judge
from .figures import (
    Answers,
    Figure,
    RealPictures,
    picture_figures,
    pixel_view,
    retrieval_figures,
    speech_figures,
    text_figures,
)
from .work import Asked

FIGURES = {"retrieval": retrieval_figures, "text": text_figures, "speech": speech_figures}
Features = Callable[[Sequence[str]], dict[str, np.ndarray] | None]


def figures_of(
    folder: Path, files: Mapping[str, Mapping[str, Sequence[str]]], limit: int, features: Features
) -> list[Figure]:
    """Every line of the table.

    Args:
        files: row -> system -> names of files in ``folder``, one a seed.
        limit: of what was asked.
        features: the judge, see ``peers.judge``; it gives None where there is none.
    """
    asked = Asked.load(limit)
    found: list[Figure] = []
    for row, systems in files.items():
        answers = {
            system: [_answers(folder / name, row) for name in names] for system, names in systems.items()
        }
        if row in FIGURES:
            found += FIGURES[row](answers, asked)
        else:
            found += _pictures(folder, systems, answers, asked, features)
    return found


def _answers(path: Path, row: str) -> Answers:
    return {k.partition("/")[2]: v for k, v in np.load(path).items() if k.startswith(f"{row}/")}


def _pictures(
    folder: Path,
    systems: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[Answers]],
    asked: Asked,
    features: Features,
) -> list[Figure]:
    real = RealPictures.of(asked.names)
    views: dict[str, dict[str, Any]] = {
        "pixels (8 px)": {"one": pixel_view(real.one), "other": pixel_view(real.other)}
        | {name: [pixel_view(list(one["pictures"])) for one in of] for name, of in answers.items()}
    }
    np.savez_compressed(
        folder / "real.npz", one_pictures=np.stack(real.one), other_pictures=np.stack(real.other)
    )
    names = ["real.npz", *(name for of in systems.values() for name in of)]
    seen = features([str(folder / name) for name in names])
    if seen is not None:
        place = {name: number for number, name in enumerate(names)}
        views[judge.NAME] = {"one": seen["0/one_pictures"], "other": seen["0/other_pictures"]} | {
            system: [seen[f"{place[name]}/pictures/pictures"] for name in of]
            for system, of in systems.items()
        }
    return picture_figures(answers, real, views)


def lines_of(figure: Figure) -> Iterable[str]:
    """A figure in words."""
    unit = figure.unit
    yield f"{figure.row}: {figure.metric}"
    names = [*figure.systems, *figure.others]
    width = max(map(len, names))
    ours = [name for name in figure.systems if name.startswith("ours")]
    for name in names:
        it = figure.interval(name)
        line = f"  {name.ljust(width)}  {it.estimate:6.1f}{unit} [{it.low:.1f}, {it.high:.1f}]"
        for mine in ours if name not in ours else ():
            difference = figure.difference(mine, name)
            if difference is not None:
                line += f"  {mine} {difference.estimate:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
        yield line


def results_of(figure: Figure) -> list[dict[str, Any]]:
    """A figure for the result file: each of ours against the peer and against each baseline."""
    from common import result

    found = []
    for mine in (name for name in figure.systems if name.startswith("ours")):
        for other in [name for name in (*figure.systems, *figure.others) if name != mine]:
            line = result(
                f"{figure.row}: {figure.metric}: {mine} against",
                figure.unit,
                figure.by_seed(mine),
                other,
                figure.by_seed(other),
            )
            difference = figure.difference(mine, other)
            found.append(
                line
                | {
                    "interval": figure.interval(mine).as_dict(),
                    "their_interval": figure.interval(other).as_dict(),
                    "difference": difference and difference.as_dict(),
                }
            )
    return found
