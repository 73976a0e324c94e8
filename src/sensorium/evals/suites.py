"""The suites that any shards can be put to: questions, retrieval, speech; each with its baselines and its cases."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.data.reader import Reader
from sensorium.evals.baselines import (
    Baseline,
    Blind,
    Chance,
    Example,
    Majority,
    best_options,
    mel_neighbour,
    pixel_neighbours,
    shuffled,
)
from sensorium.evals.cases import (
    Case,
    Gallery,
    Part,
    Row,
    checked_rows,
    fingerprint,
    gallery,
    known_media,
    known_questions,
    question_cases,
    signal_of,
    speech_cases,
    stream_rows,
)
from sensorium.evals.journal import Journal
from sensorium.evals.metrics.answers import exact_match, vqa_accuracy
from sensorium.evals.metrics.retrieval import retrieval
from sensorium.evals.metrics.speech import (
    NORMALIZERS,
    ErrorRate,
    character_error_rate,
    word_error_rate,
)
from sensorium.evals.results import Result
from sensorium.evals.runner import Bar, Evaluation, Options, Run, Scored, Subject, no_bar
from sensorium.media.audio import SAMPLE_RATE
from sensorium.media.parts import Audio, Image

CONTROL = "control: shuffled labels"


def evaluate(
    subject: Subject,
    suite: str,
    data: str | Sequence[dict[str, Any]],
    out: Path,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    bar: Bar = no_bar,
) -> Evaluation:
    """Run a suite on one's own data.

    Args:
        subject: ``ModelSubject(sm.load(...), "name")``, or anything that answers and embeds.
        suite: "vqa", "retrieval" or "asr".
        data: shards as ``stream_rows`` takes them, or rows in the form of ``docs/data.md``.
        out: an existing folder; answers are kept in ``SUITE.answers.jsonl`` as they come, and a second call goes on.
        overwrite: begin anew whatever is there.
        bar: shows how far it is.

    Raises:
        ValueError: an unknown suite, data of another form, or answers of another run in ``out``.
    """
    options = check(suite, options or Options())
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
        "prompt": options.prompt,
        "max_tokens": options.max_tokens,
        "batch_size": options.batch_size,
        "seed": options.seed,
    }
    path = out / f"{suite}.answers.jsonl"
    if overwrite:
        path.unlink(missing_ok=True)
    task = f"{suite} on {about['data']}"
    run = Run(subject, rows, known, Journal(path, about), options, task, bar)
    results, scored = SUITES[suite].run(run)
    about |= {"split": options.split, "cases": len(rows), "known": len(known), "notes": run.notes}
    return Evaluation(results, scored, about)


def _vqa(run: Run) -> tuple[list[Result], list[Scored]]:
    cases = question_cases(run.rows)
    template = run.options.prompt
    answers = run.ask("answering", {f"seen {case.id}": _asked(case, template) for case in cases})
    blind = run.ask(
        "answering blind", {f"blind {case.id}": _asked(case, template, blind=True) for case in cases}
    )
    humans = all(len(case.answers) > 1 for case in cases)
    score = vqa_accuracy if humans else exact_match

    def scores(given: Sequence[str], truth: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([score(text, right) for text, right in zip(given, truth, strict=True)])

    truths = [case.answers for case in cases]
    ours = scores(answers, truths)
    asked = [_example(case) for case in cases]
    options = sorted({example.answer for example in run.known or asked})
    of_chance = [sum(score(a, t) for a in {*t} & {*options}) / len(options) for t in truths]
    others = {"blind (media removed)": scores(blind, truths), "chance": np.array(of_chance)}
    rivals: list[Baseline] = [Majority(), Blind()] if run.known else []
    for rival in rivals:
        given = best_options(rival.scores(run.known, asked, options), options)
        others[rival.name] = scores(given, truths)
    others[CONTROL] = scores(answers, shuffled(truths, run.options.seed))
    result = run.result(
        "VQA accuracy" if humans else "exact match",
        ours,
        others,
        normalizer="official VQA answer processing",
        groups=[case.media_key for case in cases],
    )
    shown = [
        Scored(
            case.id,
            float(value),
            f"score {value:.2g}",
            case.media,
            (
                ("question", case.question),
                ("answer", given),
                ("right", _people(case.answers)),
                ("blind", unseen),
            ),
        )
        for case, value, given, unseen in zip(cases, ours, answers, blind, strict=True)
    ]
    return [result], shown


def _asr(run: Run) -> tuple[list[Result], list[Scored]]:
    cases = speech_cases(run.rows, run.options.prompt)
    said = [case.answers[0] for case in cases]
    heard = run.ask("listening", {f"heard {case.id}": case.prompt for case in cases})
    blind = run.ask("answering deaf", {f"blind {case.id}": case.words for case in cases})
    _note_long_sounds(run, [case.media[0] for case in cases])
    others = {"blind (sound removed)": blind}
    if run.known:
        asked = [Example("", signal=signal_of(case.media[0])) for case in cases]
        options = sorted({example.answer for example in run.known})
        for rival in (Majority(), mel_neighbour()):
            others[rival.name] = best_options(rival.scores(run.known, asked, options), options)
    others[CONTROL] = shuffled(heard, run.options.seed)
    normalizer = run.options.normalizer
    results = []
    rate: Callable[..., ErrorRate]
    for name, rate in (("WER", word_error_rate), ("CER", character_error_rate)):
        counts = {
            other: rate(said, texts, normalizer=normalizer).counts_N2
            for other, texts in {"": heard, **others}.items()
        }
        results.append(
            run.result(
                name,
                counts.pop(""),
                counts,
                normalizer=normalizer,
                statistic="ratio",
                unit="rate",
                higher_is_better=False,
            )
        )
    counts_N2 = word_error_rate(said, heard, normalizer=normalizer).counts_N2
    shown = [
        Scored(
            case.id,
            -float(errors / max(units, 1)),
            f"{errors:.0f} errors in {units:.0f} words",
            case.media,
            (("said", text), ("heard", given)),
        )
        for case, text, given, (errors, units) in zip(cases, said, heard, counts_N2, strict=True)
    ]
    return results, shown


def _retrieval(run: Run) -> tuple[list[Result], list[Scored]]:
    found = gallery(run.rows)
    media_ML = run.embed({f"media {key}": part for key, part in found.media.items()})
    texts = list(found.texts)
    texts_TL = run.embed({f"text {text}": text for text in texts})
    matches_MT = found.matches()
    similarity_MT = media_ML @ texts_TL.T
    ours = retrieval(similarity_MT, matches_MT)
    rivals = _retrieval_rivals(run, found)
    looks = len(rivals) > 1
    asked = [Example("", signal=signal_of(part) if looks else None) for part in found.media.values()]
    # One similarity at a time: with many texts each is large.
    others = {rival.name: retrieval(rival.scores(run.known, asked, texts), matches_MT) for rival in rivals}
    order = shuffled(range(len(media_ML)), run.options.seed)
    others[CONTROL] = retrieval(similarity_MT[order], matches_MT)
    results = []
    for metric, values in ours.items():
        is_rank = metric.startswith("rank")
        results.append(
            run.result(
                f"median {metric}" if is_rank else metric,
                values,
                {name: other[metric] for name, other in others.items()},
                normalizer="texts as they are; one of the same concept is right",
                statistic="median" if is_rank else "mean",
                unit="rank" if is_rank else "",
                higher_is_better=not is_rank,
            )
        )
    best_M3 = np.argsort(-similarity_MT, axis=1, kind="stable")[:, :3]
    shown = [
        Scored(
            found.ids[key],
            -float(rank),
            f"rank {rank:g} of {len(texts)}",
            (part,),
            (
                ("nearest texts", "; ".join(texts[place] for place in best)),
                ("right", "; ".join(texts[place] for place in np.flatnonzero(right))),
            ),
        )
        for (key, part), rank, best, right in zip(
            found.media.items(), ours["rank media -> text"], best_M3, matches_MT, strict=True
        )
    ]
    return results, shown


def _retrieval_rivals(run: Run, found: Gallery) -> list[Baseline]:
    """Chance, and neighbours where there is something to learn from and all media are of one kind."""
    kinds = {type(part) for part in found.media.values()}
    if not run.known or len(kinds) > 1:
        return [Chance()]
    unseen = len(set(found.texts) - {example.answer for example in run.known})
    if unseen:
        run.notes.append(f"{unseen} of {len(found.texts)} texts are unknown to the nearest neighbours")
    return [Chance(), *(pixel_neighbours() if kinds == {Image} else [mel_neighbour()])]


@dataclass(frozen=True)
class _Entry:
    """A suite: how it runs, what its baselines learn from rows, and its own options; an empty one it does not take."""

    run: Callable[[Run], tuple[list[Result], list[Scored]]]
    learn: Callable[[Iterable[Row]], list[Example]]
    prompt: str = ""
    max_tokens: int = 0
    normalizer: str = ""


SUITES = {
    "vqa": _Entry(_vqa, known_questions, "{question}", 16),
    "retrieval": _Entry(_retrieval, known_media),
    "asr": _Entry(_asr, lambda rows: known_media(rows, ("audio",)), "transcribe", 128, "basic"),
}


def check(suite: str, options: Options) -> Options:
    """Options with the suite's own where none were given; a mistake is told before any work."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; known are {', '.join(SUITES)}")
    entry, chosen = SUITES[suite], {}
    for name in ("prompt", "max_tokens", "normalizer"):
        given, own = getattr(options, name), getattr(entry, name)
        if given and not own:
            raise ValueError(f"the suite {suite} takes no {name}, and {given!r} was given: leave it out")
        chosen[name] = given or own
    if suite == "vqa" and "{question}" not in chosen["prompt"]:
        raise ValueError(f"the prompt {chosen['prompt']!r} must hold {{question}}, where the question goes")
    if chosen["normalizer"] and chosen["normalizer"] not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {options.normalizer!r}; known are {', '.join(NORMALIZERS)}")
    if min(options.batch_size, options.num_resamples) < 1 or min(options.limit, options.max_tokens) < 0:
        raise ValueError("batch_size and num_resamples must be at least 1, limit and max_tokens at least 0")
    return replace(options, **chosen)


def _known(suite: str, data: str, options: Options) -> list[Example]:
    """What baselines may learn from: never what is asked."""
    if options.known:
        names = [] if options.known == "none" else options.known.split(",")
        if data in names and options.split == "train":
            raise ValueError(f"baselines cannot learn from {data}, which is what is asked; name other data")
    else:
        names = [data] if options.split != "train" and Reader(data, "train").num_rows else []
    return [example for name in names for example in SUITES[suite].learn(stream_rows(name, "train"))]


def _asked(case: Case, template: str, *, blind: bool = False) -> tuple[Part, ...]:
    """The prompt of a question; a template of one's own puts the words behind the media."""
    media = () if blind else case.media
    if template == "{question}":
        return case.words if blind else case.prompt
    return (*media, template.replace("{question}", case.question))


def _note_long_sounds(run: Run, sounds: Sequence[Image | Audio]) -> None:
    """A sound that is cut is no failure of hearing: say how many are."""
    most = run.subject.max_sound_s
    if most is None:
        return
    durations = [sound.waveform().size / SAMPLE_RATE for sound in sounds if isinstance(sound, Audio)]
    num_long = sum(duration_s > most for duration_s in durations)
    if num_long:
        run.notes.append(
            f"{num_long} of {len(durations)} sounds last longer than the {most:.2f} s that the model takes; it does "
            "not hear the rest, and the words there count as missed"
        )


def _example(case: Case) -> Example:
    return Example(case.answers[0], question=case.question)


def _people(answers: Sequence[str]) -> str:
    """Right answers with how many gave them."""
    counts = {answer: answers.count(answer) for answer in dict.fromkeys(answers)}
    return ", ".join(f"{a} ({n})" if len(answers) > 1 else a for a, n in counts.items())
