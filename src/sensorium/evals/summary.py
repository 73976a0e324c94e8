"""Several suites in one go: a selection over the data that ship, or over the full starter data; one table of it all."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

from sensorium.evals.journal import InUseError, held
from sensorium.evals.judges import Judges
from sensorium.evals.report import Report, shown_baseline, shown_interval, shown_value, write_evaluation
from sensorium.evals.results import Result, save_results
from sensorium.evals.runner import Bar, Evaluation, Options, Subject, no_bar
from sensorium.evals.suites import SUITES, evaluate
from sensorium.starter import starter_sources

_OF_SOME = ("max_tokens", "num_steps", "guidance_scale")  # other suites do not take them
# These show what can be reached or what means nothing, and are no rivals.
_NO_RIVALS = ("ceiling", "control")
_BUILD = "sensorium data build starter --only {source} --out data/starter"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A suite on one source.

    Args:
        known: sources whose split train baselines may learn from; empty: the source itself.
        limit: samples at most; 0 means all. modality: that the model must have.
    """

    suite: str
    source: str
    split: str = "test"
    known: tuple[str, ...] = ()
    limit: int = 0
    modality: str = "image"

    @property
    def name(self) -> str:
        """Of the files."""
        return f"{self.suite}-{self.source}" + ("" if self.split == "test" else f"-{self.split}")


_STYLES = ("noto", "fluent")
SELECTIONS: dict[str, tuple[Part, ...]] = {
    "starter": (
        Part(suite="vqa", source="easy-vqa", limit=300),
        # Concepts that training knows in a drawing style that it does not; then concepts that it does not know.
        Part(suite="retrieval", source="openmoji", split="train", known=_STYLES),
        Part(suite="retrieval", source="openmoji", known=_STYLES),
        Part(suite="retrieval", source="scratch", split="train", modality="audio"),
        Part(suite="asr", source="asterisk-en", modality="audio"),
        Part(suite="asr", source="asterisk-fr", modality="audio"),
        Part(suite="tts", source="asterisk-en", modality="audio"),
        Part(suite="image", source="noto", split="train", known=("fluent",), limit=64),
        Part(suite="edit", source="edits"),
        Part(suite="video", source="fluent-animated"),
        Part(suite="medical", source="brain"),
        Part(suite="code", source="lucide"),
    ),
    "all": (
        Part(suite="vqa", source="easy-vqa", limit=1000),
        Part(suite="retrieval", source="openmoji", split="train", known=_STYLES, limit=1000),
        Part(suite="retrieval", source="openmoji", known=_STYLES),
        *(Part(suite="retrieval", source=name) for name in ("noto", "tuxpaint", "openclipart", "pysiogame")),
        *(Part(suite="retrieval", source=name, modality="audio") for name in ("scratch", "wesnoth")),
        *(
            Part(suite="asr", source=f"asterisk-{language}", modality="audio")
            for language in ("en", "fr", "es", "it", "ru")
        ),
        Part(suite="asr", source="tuxpaint-speech", limit=200, modality="audio"),
        Part(suite="asr", source="synthetic-speech", limit=200, modality="audio"),
        Part(suite="asr", source="composed-prompts", modality="audio"),
        Part(suite="tts", source="asterisk-en", modality="audio"),
        Part(suite="tts", source="synthetic-speech", limit=60, modality="audio"),
        Part(suite="image", source="noto", split="train", known=("fluent",), limit=200),
        Part(suite="image", source="noto", limit=200),
        *(
            Part(suite="edit", source=name, limit=200)
            for name in ("edits", "edits-openmoji", "edits-scratch", "edits-tuxpaint")
        ),
        Part(suite="video", source="fluent-animated"),
        Part(suite="medical", source="brain"),
        Part(suite="code", source="lucide", limit=100),
        Part(suite="code", source="tabler", limit=100),
    ),
}


@dataclass
class Done:
    """What became of a selection.

    Args:
        evaluations: name -> figures. left_out: "SUITE on SOURCE" -> why. broken: those of ``left_out`` that were begun.
    """

    selection: str
    about: dict[str, Any]
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def run_selection(
    subject: Subject,
    selection: str,
    folder: str,
    out: Path,
    options: Options,
    *,
    judges: Judges | None = None,
    overwrite: bool = False,
    bar: Bar = no_bar,
) -> Done:
    """Every part of a selection for which there are data; each is written when it is done.

    A part that cannot be run, as its data are broken or ``out`` holds answers of another run, is left out with the reason.

    Args:
        selection: "starter" or "all".
        folder: of the full starter data; "" for the data that ship alone. What it lacks is taken from these.
        options: for all parts; ``limit`` of 0 leaves each part its own.

    Raises:
        FileNotFoundError: the folder is not there. InUseError: another process writes into ``out``.
    """
    if folder and not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; build it with `sensorium data build starter --out {folder}`, or choose "
            "--suite starter, which needs none"
        )
    done = Done(
        selection,
        {
            "suite": selection,
            "model": subject.name,
            "weights": subject.fingerprint,
            "data": folder or "starter",
            "seed": options.seed,
        },
    )
    with held(out):
        for part in SELECTIONS[selection]:
            what = f"{part.suite} on {part.source}" + ("" if part.split == "test" else f", {part.split}")
            data, why = _place(part.source, folder), _lacking(part, subject, judges)
            if data is None:
                why = f"there are no data; `{_BUILD.format(source=part.source)}`, then --suite all"
            if why or data is None:
                done.left_out[what] = why
                continue
            chosen = _chosen(part, folder, options)
            try:
                found = evaluate(
                    subject,
                    part.suite,
                    data,
                    out,
                    chosen,
                    judges=judges,
                    name=part.name,
                    overwrite=overwrite,
                    bar=bar,
                )
            except InUseError:
                raise
            except (ValueError, OSError, ArrowException) as error:
                done.left_out[what] = " ".join(str(error).split()) or type(error).__name__
                done.broken.append(what)
                continue
            save_results(out / f"{part.name}.json", found.results, found.about)
            write_evaluation(found, out / f"{part.name}.html")
            done.evaluations[part.name] = found
    return done


def _chosen(part: Part, folder: str, options: Options) -> Options:
    """Options of a part: those of all that its suite takes, and its own."""
    known = tuple(place for name in part.known if (place := _place(name, folder)))
    own: dict[str, Any] = {
        name: getattr(options, name) if getattr(SUITES[part.suite], name) else 0 for name in _OF_SOME
    }
    return replace(options, split=part.split, known=known, limit=options.limit or part.limit, **own)


def write_summary(done: Done, out: Path) -> tuple[Path, Path]:
    """``SELECTION.json`` with all results, and ``SELECTION.html`` with one table of them."""
    figures, page = out / f"{done.selection}.json", out / f"{done.selection}.html"
    results = [result for found in done.evaluations.values() for result in found.results]
    parts = {name: found.about for name, found in done.evaluations.items()}
    save_results(figures, results, {**done.about, "parts": parts, "left_out": done.left_out})
    about = done.about
    report = Report(f"Evaluation: {done.selection} of {about['model']}")
    report.text(
        f"Data {about['data']}, weights {about['weights']}, seed {about['seed']}. Brackets hold 95% bootstrap intervals; "
        "beside the strongest rival that is neither a ceiling nor a control, of the value minus the rival's on the same "
        "samples. The pages of the parts show every baseline, and the worst and best cases. A part that ends in -train "
        "asks for what training may have seen; the drawing style openmoji is in no recipe."
    )
    if done.broken:
        report.text(
            f"{len(done.broken)} of {len(done.evaluations) + len(done.broken)} parts could not be run: "
            f"{'; '.join(done.broken)}. The reasons are under Left out."
        )
    report.links((f"{name}.html", name) for name in done.evaluations)
    rows = [
        (f"{name}: {result.metric}", *_cells(result))
        for name, found in done.evaluations.items()
        for result in found.results
    ]
    header = ("part and metric", "value", "n", "better is", "strongest rival", "its value and the margin")
    report.table("All figures", header, rows)
    if done.left_out:
        report.table("Left out", ("part", "why"), done.left_out.items())
    notes = [(name, note) for name, found in done.evaluations.items() for note in found.about["notes"]]
    if notes:
        report.table("Notes", ("part", "note"), notes)
    report.write(page)
    return figures, page


def strongest(result: Result) -> str | None:
    """The name of the best baseline that is a rival; None where there is none."""
    rivals = {
        name: value
        for name, value in result.baselines.items()
        if not name.startswith(_NO_RIVALS) and not math.isnan(value)
    }
    if not rivals:
        return None
    return (max if result.higher_is_better else min)(rivals, key=lambda name: rivals[name])


def _cells(result: Result) -> Sequence[str]:
    rival = strongest(result)
    return (
        f"{shown_value(result, result.value)}\n{shown_interval(result)}",
        str(result.n),
        "higher" if result.higher_is_better else "lower",
        rival or "",
        "" if rival is None else shown_baseline(result, rival, between="\n"),
    )


def _place(source: str, folder: str) -> str | None:
    """The source in the full starter data, else in what ships."""
    if folder and (Path(folder) / source).is_dir():
        return str(Path(folder) / source)
    return f"starter:{source}" if source in starter_sources() else None


def _lacking(part: Part, subject: Subject, judges: Judges | None) -> str:
    """What keeps a part from being run, beside its data."""
    known = getattr(subject, "modalities", None)
    if known is not None and part.modality not in known:
        return f"the model has no modality {part.modality!r}"
    # Speech that nobody writes down has no error rate.
    counts_errors = part.suite != "tts" or (judges is not None and judges.recognizer is not None)
    if SUITES[part.suite].normalizer and counts_errors and importlib.util.find_spec("jiwer") is None:
        return "error rates need jiwer: pip install 'sensorium[evals]'"
    return ""
