"""Pictures changed by an instruction: changed where asked, unchanged elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sensorium.evals.baselines import shuffled
from sensorium.evals.cases import EditCase, blamed, edit_cases, is_answered_in
from sensorium.evals.metrics.generated import EditScore, edit_score, edited_region
from sensorium.evals.results import Result
from sensorium.evals.runner import Run, Scored
from sensorium.media.image import resize_image
from sensorium.media.parts import Image

MAX_PSNR = 100.0  # of what did not change at all
_UNCHANGED, _SMALL = "source unchanged", "source at the answer's size"
_CEILING = "ceiling: wanted at the answer's size"
_HOW = (
    "at the wanted picture's size; inside is where it differs from the source by more than 8 of 255; as asked is what "
    "is within a quarter of that change of the wanted colour"
)


@dataclass(frozen=True)
class _Pictures:
    """Uint8 ``[H, W, 3]`` of one case, all of the wanted picture's size."""

    source: np.ndarray
    result: np.ndarray
    wanted: np.ndarray
    small_source: np.ndarray
    small_wanted: np.ndarray

    @classmethod
    def of(cls, case: EditCase, made: Image) -> "_Pictures":
        wanted, drawn = case.wanted.pixels(), made.pixels()
        height, width = wanted.shape[:2]
        source = _sized(case.source.pixels(), height, width)

        def small(pixels: np.ndarray) -> np.ndarray:
            return _sized(_sized(pixels, *drawn.shape[:2]), height, width)

        return cls(source, _sized(drawn, height, width), wanted, small(source), small(wanted))


def run_edit(run: Run) -> tuple[list[Result], list[Scored]]:
    """Inside and outside scores, beside leaving the source as it is."""
    rows = [row for row in run.rows if is_answered_in(row, "image")]
    if len(rows) < len(run.rows):
        run.notes.append(
            f"{len(run.rows) - len(rows)} of {len(run.rows)} samples are not answered by a picture and are left out"
        )
    cases = [case for case in edit_cases(rows or run.rows) if _asks_for_change(case)]
    if len(cases) < len(rows):
        run.notes.append(f"{len(rows) - len(cases)} of {len(rows)} edits ask for no change and are left out")
    if not cases:
        raise ValueError("no edit asks for a change: every wanted picture is its source")
    made: list[Image] = run.make("editing", {f"edited {case.id}": case.prompt for case in cases}, "image")
    pictures = [_Pictures.of(case, one) for case, one in zip(cases, made, strict=True)]
    of_others = shuffled([one.result for one in pictures], run.options.seed)
    of_others = [_sized(one, *each.wanted.shape[:2]) for one, each in zip(of_others, pictures, strict=True)]
    ours = _scores(pictures, [one.result for one in pictures])
    rng = np.random.default_rng(run.options.seed)
    rivals = {
        _UNCHANGED: _scores(pictures, [one.source for one in pictures]),
        _SMALL: _scores(pictures, [one.small_source for one in pictures]),
        "noise": _scores(
            pictures, [rng.integers(0, 256, one.wanted.shape, dtype=np.uint8) for one in pictures]
        ),
        _CEILING: _scores(pictures, [one.small_wanted for one in pictures]),
        "control: the result of another edit": _scores(pictures, of_others),
    }
    return _results(run, cases, ours, rivals), _shown(cases, pictures, ours)


def _results(
    run: Run, cases: list[EditCase], ours: dict[str, np.ndarray], rivals: dict[str, dict[str, np.ndarray]]
) -> list[Result]:
    results, keys = [], [case.media_key for case in cases]
    has_outside = np.isfinite(ours["outside_change"])
    if not has_outside.all():
        run.notes.append(
            f"{int((~has_outside).sum())} of {len(cases)} edits change the whole picture and have no outside"
        )

    def add(metric: str, name: str, chosen: np.ndarray, unit: str = "", *, higher: bool) -> None:
        if chosen.any():
            results.append(
                run.result(
                    metric,
                    ours[name][chosen],
                    {rival: values[name][chosen] for rival, values in rivals.items()},
                    normalizer=_HOW,
                    groups=[keys[place] for place in np.flatnonzero(chosen)],
                    unit=unit,
                    higher_is_better=higher,
                )
            )

    everywhere = np.ones(len(cases), bool)
    add("nearer to the wanted picture than the source is", "is_nearer", everywhere, higher=True)
    add("inside: error", "inside_error", everywhere, "error", higher=False)
    add("inside: pixels changed as asked", "inside_done", everywhere, higher=True)
    add("outside: change", "outside_change", has_outside, "change", higher=False)
    add(f"outside: PSNR (at most {MAX_PSNR:g})", "outside_psnr", has_outside, "dB", higher=True)
    kinds = [case.kind for case in cases]
    for kind in sorted({*kinds} - {""}) if len({*kinds}) > 1 else ():
        chosen = np.array([kind == each for each in kinds])
        add(f"nearer, {kind}", "is_nearer", chosen, higher=True)
        add(f"inside: pixels changed as asked, {kind}", "inside_done", chosen, higher=True)
        add(f"inside: error, {kind}", "inside_error", chosen, "error", higher=False)
    return results


def _scores(pictures: Sequence[_Pictures], results: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Of every case, by name of the score."""
    found = [
        edit_score(one.source, result, one.wanted) for one, result in zip(pictures, results, strict=True)
    ]
    names = [field.name for field in fields(EditScore)]
    values = {name: np.array([getattr(score, name) for score in found]) for name in names}
    values["outside_psnr"] = np.minimum(values["outside_psnr"], MAX_PSNR)
    values["is_nearer"] = np.array(
        [
            float(_error(result, one.wanted) < _error(one.source, one.wanted))
            for one, result in zip(pictures, results, strict=True)
        ]
    )
    return values


def _asks_for_change(case: EditCase) -> bool:
    with blamed(case.id):
        wanted, source = case.wanted.pixels(), case.source.pixels()
    return bool(edited_region(_sized(source, *wanted.shape[:2]), wanted).any())


def _shown(cases: list[EditCase], pictures: list[_Pictures], ours: dict[str, np.ndarray]) -> list[Scored]:
    found = []
    for number, (case, one) in enumerate(zip(cases, pictures, strict=True)):
        before, after = _error(one.source, one.wanted), _error(one.result, one.wanted)
        outside = float(ours["outside_psnr"][number])
        lines = [
            ("instruction", case.instruction),
            ("inside error", f"{ours['inside_error'][number]:.3f}"),
            ("changed as asked", f"{ours['inside_done'][number]:.0%} of the pixels inside"),
            ("PSNR outside", f"{outside:.1f} dB" if np.isfinite(outside) else "no outside"),
        ]
        found.append(
            Scored(
                case.id,
                before - after,
                f"error {after:.3f}, of the unchanged source {before:.3f}",
                (Image(one.source), Image(one.result), Image(one.wanted)),
                tuple(lines),
                ("source", "result", "wanted"),
            )
        )
    return found


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean() / 255)


def _sized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    return array if array.shape[:2] == (height, width) else resize_image(array, height, width)
