"""Drawings turned into the code that draws them."""

import numpy as np

from sensorium.evals.baselines import Example, NearestNeighbour, best_options, pixels, shuffled
from sensorium.evals.cases import question_cases, signal_of
from sensorium.evals.metrics.drawing import DrawingScore, drawing_score, render, svg_tree
from sensorium.evals.results import Result
from sensorium.evals.runner import CONTROL, Run, Scored
from sensorium.evals.suites.questions import BLIND, asked
from sensorium.media.parts import Image

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg"/>'
_NEIGHBOUR_SIZE = 16
_SHOWN_CHARS = 400
_HOW = "trees of elements, attributes and path commands; drawn on white, 96 x 96 pixels"


def run_code(run: Run) -> tuple[list[Result], list[Scored]]:
    """Share that parses, tree edit distance, agreement of pixels; beside an empty drawing and a neighbour's code."""
    cases = question_cases(run.rows)
    wanted = [case.answers[0] for case in cases]
    for case, code in zip(cases, wanted, strict=True):
        try:
            svg_tree(code)
        except ValueError as error:
            raise ValueError(f"sample {case.id!r}: its answer is no SVG code: {error}") from error
    template = run.options.prompt
    written = run.ask("writing code", {f"code {case.id}": asked(case, template) for case in cases})
    blind = run.ask(
        "writing blind", {f"blind {case.id}": asked(case, template, blind=True) for case in cases}
    )
    others = {BLIND: blind, "an empty drawing": [EMPTY] * len(cases)}
    known = [example for example in run.known if example.signal is not None]
    if known and all(case.media for case in cases):
        neighbour = NearestNeighbour(
            pixels(_NEIGHBOUR_SIZE), f"nearest neighbour's code, {_NEIGHBOUR_SIZE} px"
        )
        options = list(dict.fromkeys(example.answer for example in known))
        looked_at = [Example("", signal=signal_of(case.media[0])) for case in cases]
        others[neighbour.name] = best_options(neighbour.scores(known, looked_at, options), options)
    others[CONTROL] = shuffled(written, run.options.seed)
    ours = [drawing_score(code, right) for code, right in zip(written, wanted, strict=True)]
    rivals = {
        name: [drawing_score(code, right) for code, right in zip(codes, wanted, strict=True)]
        for name, codes in others.items()
    }
    metrics = {
        "parses": ("is_valid", "", True),
        "tree similarity": ("tree_similarity", "", True),
        "tree edit distance": ("tree_distance", "edits", False),
    }
    if render(EMPTY) is None:
        run.notes.append("no pixels are compared: drawing code needs pip install 'sensorium[build]'")
    else:
        metrics |= {"pixel agreement": ("pixel_agreement", "", True), "ink IoU": ("ink_iou", "", True)}
    results = [
        run.result(
            metric,
            _values(ours, field),
            {name: _values(scores, field) for name, scores in rivals.items()},
            normalizer=_HOW,
            groups=[case.media_key for case in cases],
            unit=unit,
            higher_is_better=higher,
        )
        for metric, (field, unit, higher) in metrics.items()
    ]
    shown = []
    for case, code, right, score in zip(cases, written, wanted, ours, strict=True):
        pictures = [(case.media[0], "seen")] if case.media else []
        drawn = _drawn(code)
        if drawn is not None:
            pictures.append((drawn, "what its code draws"))
        shown.append(
            Scored(
                case.id,
                score.tree_similarity + (score.ink_iou or 0.0),
                _verdict(score),
                tuple(picture for picture, _ in pictures),
                (("code", code[:_SHOWN_CHARS]), ("wanted", right[:_SHOWN_CHARS])),
                tuple(label for _, label in pictures),
            )
        )
    return results, shown


def _values(scores: list[DrawingScore], name: str) -> np.ndarray:
    return np.array([float(getattr(score, name)) for score in scores])


def _verdict(score: DrawingScore) -> str:
    if not score.is_valid:
        return "is no SVG"
    ink = "" if score.ink_iou is None else f", ink IoU {score.ink_iou:.2f}"
    return f"{score.tree_distance} edits{ink}"


def _drawn(code: str) -> Image | None:
    """What code draws; None where it draws nothing or cannot be drawn here."""
    try:
        pixels_HW3 = render(code)
    except ValueError:
        return None
    return None if pixels_HW3 is None else Image(pixels_HW3)
