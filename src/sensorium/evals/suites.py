"""The suites that any shards can be put to: questions, retrieval, speech; each with its baselines and its cases."""

from collections.abc import Callable, Sequence
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
    checked_rows,
    fingerprint,
    gallery,
    question_cases,
    read_rows,
    speech_cases,
)
from sensorium.evals.journal import Journal
from sensorium.evals.metrics.answers import exact_match, vqa_accuracy
from sensorium.evals.metrics.retrieval import KS, ranks, recall_per_query
from sensorium.evals.metrics.speech import (
    NORMALIZERS,
    ErrorRate,
    character_error_rate,
    word_error_rate,
)
from sensorium.evals.results import Result
from sensorium.evals.runner import Bar, Evaluation, Options, Run, Scored, Subject, no_bar
from sensorium.media.audio import SAMPLE_RATE, log_mel
from sensorium.media.image import resize_image
from sensorium.media.parts import Audio, Image

_NEIGHBOUR_PIXELS = 64
_MAX_KNOWN_SIGNALS = 4000


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
        data: shards as ``read_rows`` takes them, or rows in the form of ``docs/data.md``.
        out: an existing folder; answers are kept in ``SUITE.answers.jsonl`` as they come, and a second call goes on.
        overwrite: begin anew whatever is there.
        bar: shows how far it is.

    Raises:
        ValueError: an unknown suite, data of another form, or answers of another run in ``out``.
    """
    options = check(suite, options or Options())
    if isinstance(data, str):
        rows, known = read_rows(data, options.split, limit=options.limit), _known_rows(data, options)
    else:
        rows, known = checked_rows(data, limit=options.limit), []
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
    baselines = {"blind (media removed)": float(scores(blind, truths).mean())}
    known = [_example(case) for case in question_cases(run.known)]
    asked = [_example(case) for case in cases]
    options = sorted({example.answer for example in known or asked})
    of_chance = [sum(score(a, t) for a in {*t} & {*options}) / len(options) for t in truths]
    baselines["chance"] = float(np.mean(of_chance))
    rivals: list[Baseline] = [Majority(), Blind()] if known else []
    for rival in rivals:
        given = best_options(rival.scores(known, asked, options), options)
        baselines[rival.name] = float(scores(given, truths).mean())
    control = scores(answers, shuffled(truths, run.options.seed))
    baselines["control: shuffled labels"] = float(control.mean())
    result = run.result(
        "VQA accuracy" if humans else "exact match",
        float(ours.mean()),
        len(cases),
        normalizer="official VQA answer processing",
        interval=run.interval(ours, groups=[case.media_key for case in cases]),
        baselines=baselines,
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
    others = {"blind (sound removed)": blind, "control: shuffled labels": shuffled(heard, run.options.seed)}
    if run.known:
        known = _sound_examples(run.known)
        asked = [Example("", signal=_signal(case.media[0])) for case in cases]
        options = sorted({example.answer for example in known})
        for rival in (Majority(), mel_neighbour()):
            others[rival.name] = best_options(rival.scores(known, asked, options), options)
    normalizer = run.options.normalizer
    results, counts = [], np.zeros((len(cases), 2))
    rate: Callable[..., ErrorRate]
    for name, rate in (("CER", character_error_rate), ("WER", word_error_rate)):
        found = rate(said, heard, normalizer=normalizer)
        counts = found.counts_N2
        results.append(
            run.result(
                name,
                found.rate,
                len(cases),
                normalizer=normalizer,
                unit="rate",
                higher_is_better=False,
                interval=run.interval(counts, "ratio"),
                baselines={
                    other: rate(said, texts, normalizer=normalizer).rate for other, texts in others.items()
                },
            )
        )
    shown = [
        Scored(
            case.id,
            -float(errors / max(units, 1)),
            f"{errors:.0f} errors in {units:.0f} words",
            case.media,
            (("said", text), ("heard", given)),
        )
        for case, text, given, (errors, units) in zip(cases, said, heard, counts, strict=True)
    ]
    return results[::-1], shown


def _retrieval(run: Run) -> tuple[list[Result], list[Scored]]:
    found = gallery(run.rows)
    media_ML = run.embed({f"media {key}": part for key, part in found.media.items()})
    texts_TL = run.embed({f"text {text}": text for text in found.texts})
    matches_MT = np.array([[found.belongs(key, text) for text in found.texts] for key in found.media])
    similarity_MT = media_ML @ texts_TL.T
    others = _retrieval_baselines(run, found)
    order = shuffled(range(len(media_ML)), run.options.seed)
    others["control: shuffled labels"] = similarity_MT[order]
    results = []
    for k in KS:
        for name, turned in (("media -> text", False), ("text -> media", True)):
            ours, *theirs = (
                recall_per_query(*((s.T, matches_MT.T) if turned else (s, matches_MT)), k)
                for s in (similarity_MT, *others.values())
            )
            results.append(
                run.result(
                    f"R@{k} {name}",
                    float(ours.mean()),
                    len(ours),
                    normalizer="texts as they are; one of the same concept is right",
                    interval=run.interval(ours),
                    baselines={
                        other: float(value.mean()) for other, value in zip(others, theirs, strict=True)
                    },
                )
            )
    for name, turned in (("media -> text", False), ("text -> media", True)):
        ours, *theirs = (
            ranks(*((s.T, matches_MT.T) if turned else (s, matches_MT)))
            for s in (similarity_MT, *others.values())
        )
        results.append(
            run.result(
                f"median rank {name}",
                float(np.median(ours)),
                len(ours),
                normalizer="texts as they are; one of the same concept is right",
                unit="rank",
                higher_is_better=False,
                interval=run.interval(ours, "median"),
                baselines={
                    other: float(np.median(value)) for other, value in zip(others, theirs, strict=True)
                },
            )
        )
    rank_M = ranks(similarity_MT, matches_MT)
    best_M3 = np.argsort(-similarity_MT, axis=1, kind="stable")[:, :3]
    shown = [
        Scored(
            found.ids[key],
            -float(rank),
            f"rank {rank:g} of {len(found.texts)}",
            (part,),
            (
                ("nearest texts", "; ".join(found.texts[place] for place in best)),
                ("right", "; ".join(text for text in found.texts if found.belongs(key, text))),
            ),
        )
        for (key, part), rank, best in zip(found.media.items(), rank_M, best_M3, strict=True)
    ]
    return results, shown


def _retrieval_baselines(run: Run, found: Gallery) -> dict[str, np.ndarray]:
    """Name -> similarity [media, texts] of baselines."""
    similarities = {"chance": Chance().scores([], [Example("")] * len(found.media), found.texts)}
    kinds = {type(part) for part in found.media.values()}
    if not run.known or len(kinds) > 1:
        return similarities
    learned = gallery(_spread(run.known, _MAX_KNOWN_SIGNALS))
    known = [
        Example(text, signal=_signal(learned.media[key]))
        for key, text in sorted(learned.pairs)
        if type(learned.media[key]) in kinds
    ]
    asked = [Example("", signal=_signal(part)) for part in found.media.values()]
    rivals = pixel_neighbours() if kinds == {Image} else [mel_neighbour()]
    for rival in rivals:
        similarities[rival.name] = rival.scores(known, asked, found.texts)
    unseen = len(set(found.texts) - {example.answer for example in known})
    if unseen:
        run.notes.append(f"{unseen} of {len(found.texts)} texts are unknown to the nearest neighbours")
    return similarities


@dataclass(frozen=True)
class _Entry:
    run: Callable[[Run], tuple[list[Result], list[Scored]]]
    prompt: str
    max_tokens: int


SUITES = {
    "vqa": _Entry(_vqa, "{question}", 16),
    "retrieval": _Entry(_retrieval, "", 0),
    "asr": _Entry(_asr, "transcribe", 128),
}


def check(suite: str, options: Options) -> Options:
    """Options with the suite's own where none were given; a mistake is told before any work."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; known are {', '.join(SUITES)}")
    entry = SUITES[suite]
    prompt = options.prompt or entry.prompt
    if suite == "vqa" and "{question}" not in prompt:
        raise ValueError(f"the prompt {prompt!r} must hold {{question}}, where the question goes")
    if options.normalizer not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {options.normalizer!r}; known are {', '.join(NORMALIZERS)}")
    if options.batch_size < 1 or options.limit < 0 or options.max_tokens < 0:
        raise ValueError("batch_size must be at least 1, and limit and max_tokens 0 or more")
    return replace(options, prompt=prompt, max_tokens=options.max_tokens or entry.max_tokens)


def _known_rows(data: str, options: Options) -> list[dict[str, Any]]:
    """Rows that baselines may learn from: never those that are asked."""
    if options.known:
        names = [] if options.known == "none" else options.known.split(",")
        return [row for name in names for row in read_rows(name, "train")]
    if options.split == "train" or not Reader(data, "train").num_rows:
        return []
    return read_rows(data, "train")


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
    return Example(max(case.answers, key=case.answers.count), question=case.question)


def _sound_examples(rows: Sequence[dict[str, Any]]) -> list[Example]:
    cases = speech_cases(_spread(rows, _MAX_KNOWN_SIGNALS), "")
    return [Example(case.answers[0], signal=_signal(case.media[0])) for case in cases]


def _signal(part: Image | Audio) -> np.ndarray:
    """What neighbours are found by; pictures are held small."""
    if isinstance(part, Image):
        return resize_image(part.pixels(), _NEIGHBOUR_PIXELS, _NEIGHBOUR_PIXELS)
    return log_mel(part.waveform())


def _spread(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return list(rows[:: -(-len(rows) // most)] if len(rows) > most else rows)


def _people(answers: Sequence[str]) -> str:
    """Right answers with how many gave them."""
    counts = {answer: answers.count(answer) for answer in dict.fromkeys(answers)}
    return ", ".join(f"{a} ({n})" if len(answers) > 1 else a for a, n in counts.items())
