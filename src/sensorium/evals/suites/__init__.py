"""The suites that any shards can be put to, each with its baselines and its cases."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sensorium.data.reader import Reader
from sensorium.evals.baselines import Example
from sensorium.evals.cases import (
    Row,
    checked_rows,
    fingerprint,
    known_answers,
    known_media,
    known_questions,
    stream_rows,
    whole_picture,
)
from sensorium.evals.journal import Journal
from sensorium.evals.judges import Judges
from sensorium.evals.metrics.speech import NORMALIZERS
from sensorium.evals.results import Result
from sensorium.evals.runner import Bar, Evaluation, Maker, Options, Run, Scored, Subject, no_bar
from sensorium.evals.suites.code import run_code
from sensorium.evals.suites.edit import run_edit
from sensorium.evals.suites.pictures import run_image
from sensorium.evals.suites.questions import run_medical, run_vqa
from sensorium.evals.suites.retrieval import run_retrieval, run_video
from sensorium.evals.suites.speech import run_asr, run_tts
from sensorium.generate.prompt import TRANSCRIBE

OWN_OPTIONS = ("prompt", "max_tokens", "normalizer", "num_steps", "guidance_scale")


@dataclass(frozen=True)
class Suite:
    """How a suite runs, what its baselines learn from rows, and its own options.

    An empty option it does not take; None is left to the subject unless it is given.
    """

    run: Callable[[Run], tuple[list[Result], list[Scored]]]
    learn: Callable[[Iterable[Row]], list[Example]]
    prompt: str = ""
    max_tokens: int = 0
    normalizer: str = ""
    num_steps: int | None = 0
    guidance_scale: float | None = 0.0


def _nothing(rows: Iterable[Row]) -> list[Example]:
    return []


_sounds = partial(known_media, kinds=("audio",))
# They stand beside real pictures as they are, and a smaller one would be told by its size.
_pictures = partial(known_media, kinds=("image",), signal=whole_picture)
_clips = partial(known_media, kinds=("video", "image"))
SUITES = {
    "vqa": Suite(run_vqa, known_questions, "{question}", 16),
    "retrieval": Suite(run_retrieval, known_media),
    "asr": Suite(run_asr, _sounds, TRANSCRIBE, 128, "basic"),
    "tts": Suite(run_tts, _nothing, "say {text}", 0, "basic", 30, 2.5),
    "image": Suite(run_image, _pictures, "{text}", num_steps=30, guidance_scale=2.5),
    "edit": Suite(run_edit, _nothing, num_steps=None, guidance_scale=None),
    "video": Suite(run_video, _clips, "what is this?", 16),
    "medical": Suite(run_medical, known_questions, "{question}", 24),
    "code": Suite(run_code, known_answers, "{question}", 512),
}
# What the prompt of a suite must hold, where the words of a sample go.
_SLOTS = {
    "vqa": "{question}",
    "medical": "{question}",
    "code": "{question}",
    "tts": "{text}",
    "image": "{text}",
}


def evaluate(
    subject: Subject,
    suite: str,
    data: str | Sequence[dict[str, Any]],
    out: Path,
    options: Options | None = None,
    *,
    judges: Judges | None = None,
    name: str = "",
    overwrite: bool = False,
    bar: Bar = no_bar,
) -> Evaluation:
    """Run a suite on one's own data.

    Args:
        subject: ``ModelSubject(sm.load(...), "name")``, or anything that answers and embeds.
        suite: one of ``SUITES``.
        data: shards as ``stream_rows`` takes them, or rows in the form of ``docs/data.md``.
        out: an existing folder; answers are kept in ``NAME.answers.jsonl`` as they come, and a second call goes on.
        judges: of speech and pictures, beside the model.
        name: of the file; "" is the suite's.
        overwrite: begin anew whatever is there.
        bar: shows how far it is.

    Raises:
        ValueError: an unknown suite, data of another form, or answers of another run in ``out``.
        InUseError: another process writes these answers.
    """
    options, judges = check(suite, options or Options()), judges or Judges()
    if isinstance(data, str):
        rows = checked_rows(list(stream_rows(data, options.split, limit=options.limit)))
        known = _known(suite, data, options)
    else:
        rows, known = checked_rows(data, limit=options.limit), []
        options = replace(options, split=", ".join(sorted({row["split"] for row in rows})))
    about: dict[str, Any] = {
        "suite": suite,
        "model": subject.name,
        "weights": subject.fingerprint,
        "data": data if isinstance(data, str) else "rows",
        "data_hash": fingerprint(rows),
        **{each: getattr(options, each) for each in OWN_OPTIONS if each != "normalizer"},
        "batch_size": options.batch_size,
        "seed": options.seed,
    }
    if suite == "tts" and isinstance(subject, Maker):
        about["vocoder"] = subject.vocoder_name
    path = out / f"{name or suite}.answers.jsonl"
    task = f"{suite} on {about['data']}"
    with Journal(path, about, overwrite=overwrite) as journal:
        run = Run(subject, rows, known, journal, options, task, bar, judges)
        results, scored = SUITES[suite].run(run)
    about |= {"split": options.split, "cases": len(rows), "known": len(known), "notes": run.notes}
    about["judges"] = [f"{j.name} {j.fingerprint}" for j in (judges.recognizer, judges.features) if j]
    return Evaluation(results, scored, about, run.tables)


def check(suite: str, options: Options) -> Options:
    """Options with the suite's own where none were given; a mistake is told before any work."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; known are {', '.join(SUITES)}")
    entry, chosen = SUITES[suite], {}
    for name in OWN_OPTIONS:
        given, own = getattr(options, name), getattr(entry, name)
        if given and own is not None and not own:
            raise ValueError(f"the suite {suite} takes no {name}, and {given!r} was given: leave it out")
        chosen[name] = given or own or given  # none given and none of its own: 0
    slot = _SLOTS.get(suite, "")
    if slot not in chosen["prompt"]:
        what = slot.strip("{}")
        raise ValueError(f"the prompt {chosen['prompt']!r} must hold {slot}, where the {what} goes")
    if chosen["normalizer"] and chosen["normalizer"] not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {options.normalizer!r}; known are {', '.join(NORMALIZERS)}")
    if min(options.batch_size, options.num_resamples) < 1 or min(options.limit, options.max_tokens) < 0:
        raise ValueError("batch_size and num_resamples must be at least 1, limit and max_tokens at least 0")
    return replace(options, **chosen)


def _placed(data: str) -> str:
    """One name for one place on the disk, however it is written."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def _known(suite: str, data: str, options: Options) -> list[Example]:
    """What baselines may learn from: never what is asked."""
    if options.known:
        names = [] if options.known == ("none",) else list(options.known)
        if "none" in names:
            raise ValueError("--known none stands alone: it means that baselines learn from nothing")
        if options.split == "train" and _placed(data) in map(_placed, names):
            raise ValueError(f"baselines cannot learn from {data}, which is what is asked; name other data")
    else:
        names = [data] if options.split != "train" and Reader(data, "train").num_rows else []
    return [example for name in names for example in SUITES[suite].learn(stream_rows(name, "train"))]
