"""Questions with short answers, also those about regions of an MRI: right or not, and whether confidence is deserved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sensorium.evals.baselines import Baseline, Blind, Example, Majority, best_options, shuffled
from sensorium.evals.cases import Case, Part, is_answered_in, question_cases
from sensorium.evals.metrics.answers import exact_match, vqa_accuracy, vqa_normalize
from sensorium.evals.metrics.calibration import calibration
from sensorium.evals.metrics.regions import box_in, box_iou, box_words
from sensorium.evals.results import Result
from sensorium.evals.runner import CONTROL, Run, Scored, Table

NORMALIZER = "official VQA answer processing"
BLIND = "blind (media removed)"
_BARS = 20


@dataclass(frozen=True)
class _Answered:
    """Questions with what was answered to them, seeing and blind."""

    results: list[Result]
    cases: list[Case]
    answers: list[str]
    blind: list[str]
    shown: list[Scored]


def run_vqa(run: Run) -> tuple[list[Result], list[Scored]]:
    """Answers beside those of the blind model, of chance and of who only knows the training answers."""
    found = _answered(run)
    return found.results, found.shown


def _answered(run: Run) -> _Answered:
    cases = question_cases(run.rows)
    template = run.options.prompt
    seen = {f"seen {case.id}": asked(case, template) for case in cases}
    answers, confidence = run.ask_surely("answering", seen)
    blind = run.ask(
        "answering blind", {f"blind {case.id}": asked(case, template, blind=True) for case in cases}
    )
    humans = all(len(case.answers) > 1 for case in cases)
    score = vqa_accuracy if humans else exact_match

    def scores(given: Sequence[str], truth: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([score(text, right) for text, right in zip(given, truth, strict=True)])

    truths = [case.answers for case in cases]
    ours = scores(answers, truths)
    others = {BLIND: scores(blind, truths)}
    examples = [Example(case.answers[0], question=case.question) for case in cases]
    options = options_of(run, truths)
    others["chance"] = chance(score, truths, options)
    rivals: list[Baseline] = [Majority(), Blind()] if run.known else []
    for rival in rivals:
        given = best_options(rival.scores(run.known, examples, options), options)
        others[rival.name] = scores(given, truths)
    others[CONTROL] = scores(answers, shuffled(truths, run.options.seed))
    num_new = bool(run.known) and sum(
        not {*map(vqa_normalize, case.answers)} & {*map(vqa_normalize, options)} for case in cases
    )
    if num_new:
        run.notes.append(
            f"{num_new} of {len(cases)} questions have an answer that occurs nowhere in what baselines may learn from"
        )
    name = "VQA accuracy" if humans else "exact match"
    groups = [case.media_key for case in cases]
    results = [run.result(name, ours, others, normalizer=NORMALIZER, groups=groups)]
    results += _of_each_kind(run, name, ours, others, groups)
    if confidence is not None:
        results += _calibrated(run, confidence, ours, groups)
    return _Answered(results, cases, answers, blind, _shown(cases, ours, answers, blind, confidence))


def options_of(run: Run, truths: Sequence[Sequence[str]]) -> list[str]:
    """What may be answered as far as baselines know; without known data all right answers, which is said."""
    if run.known:
        return sorted({example.answer for example in run.known})
    options = sorted({answer for truth in truths for answer in truth})
    run.notes.append(
        f"baselines have nothing to learn from: chance is any of the {len(options)} right answers to what is asked here, "
        "which a model does not know; --known names data"
    )
    return options


def chance(
    score: Callable[[str, Sequence[str]], float], truths: Sequence[Sequence[str]], options: Sequence[str]
) -> np.ndarray:
    """The mean score of all options; only those that are written like a right answer can have one."""
    alike: dict[str, list[str]] = {}
    for option in options:
        alike.setdefault(vqa_normalize(option), []).append(option)
    found = []
    for truth in truths:
        forms = dict.fromkeys(map(vqa_normalize, truth))
        found.append(sum(score(option, truth) for form in forms for option in alike.get(form, ())))
    return np.array(found) / len(options)


def run_medical(run: Run) -> tuple[list[Result], list[Scored]]:
    """The questions about regions that have a text answer, as ``run_vqa`` asks them."""
    rows = [row for row in run.rows if is_answered_in(row, "text")]
    if not rows:
        raise ValueError("no sample is a question with a text answer; the suite medical needs one")
    if len(rows) < len(run.rows):
        run.notes.append(
            f"{len(run.rows) - len(rows)} of {len(run.rows)} samples are answered by a picture and are left out; the "
            "suite edit takes them"
        )
    run.notes.append("this measures where regions are found in the pictures of the data, and is no diagnosis")
    found = _answered(replace(run, rows=rows))
    return [*found.results, *_overlaps(run, found)], found.shown


def _overlaps(run: Run, found: _Answered) -> list[Result]:
    """How far the boxes that are told overlap the right ones, of the questions whose answer tells one."""
    wanted = [box_in(case.answers[0]) for case in found.cases]
    places = [place for place, box in enumerate(wanted) if box is not None]
    if not places:
        return []

    def overlaps(texts: Sequence[str]) -> np.ndarray:
        told = [box_in(text) for text in texts]
        return np.array([box_iou(box, wanted[place]) for box, place in zip(told, places, strict=True)])

    answers, blind = ([texts[place] for place in places] for texts in (found.answers, found.blind))

    known = [box for example in run.known if (box := box_in(example.answer)) is not None]
    middle = np.mean(known, axis=0) if known else np.array([25.0, 75.0, 25.0, 75.0])
    constant = box_words((middle[0], middle[1], middle[2], middle[3]))
    name = "the mean known box, always" if known else "the middle of the picture, always"
    others = {
        BLIND: overlaps(blind),
        name: overlaps([constant] * len(places)),
        # Of these questions alone: answers to others tell no box.
        CONTROL: overlaps(shuffled(answers, run.options.seed)),
    }
    groups = [found.cases[place].media_key for place in places]
    how = "boxes as told in words, in percent of the picture"
    return [run.result("overlap of the box (IoU)", overlaps(answers), others, normalizer=how, groups=groups)]


def asked(case: Case, template: str, *, blind: bool = False) -> tuple[Part, ...]:
    """The prompt of a question; a template of one's own puts the words behind the media."""
    media = () if blind else case.media
    if template == "{question}":
        return case.words if blind else case.prompt
    return (*media, template.replace("{question}", case.question))


def _of_each_kind(
    run: Run, name: str, ours: np.ndarray, others: dict[str, np.ndarray], groups: list[str]
) -> list[Result]:
    """The same figures of every kind of question, where ``metadata.question`` names more than one."""
    kinds = [(row.get("metadata") or {}).get("question", "") for row in run.rows]
    found = []
    for kind in sorted({*kinds} - {""}) if len({*kinds}) > 1 else ():
        chosen = np.flatnonzero([kind == each for each in kinds])
        of_kind = {rival: values[chosen] for rival, values in others.items()}
        keys = [groups[place] for place in chosen]
        found.append(run.result(f"{name}: {kind}", ours[chosen], of_kind, normalizer=NORMALIZER, groups=keys))
    return found


def _calibrated(run: Run, confidence: np.ndarray, ours: np.ndarray, groups: list[str]) -> list[Result]:
    """Whether the probability of an answer says how often such answers are right; right is a score of a half."""
    correct = (ours >= 0.5).astype(float)
    found = calibration(np.clip(confidence, 0, 1), correct)
    share = float(correct.mean())
    always = {
        f"always {share:.1%} sure (its accuracy)": (share - correct) ** 2,
        "always certain": (1 - correct) ** 2,
    }
    how = "probability of the answer's tokens and end"
    brier = run.result(
        "Brier score",
        (confidence - correct) ** 2,
        always,
        normalizer=how,
        groups=groups,
        unit="squared error",
        higher_is_better=False,
    )
    ece = run.figure(
        f"ECE ({found.bins})",
        found.ece,
        len(correct),
        normalizer=how,
        unit="error",
        higher_is_better=False,
        baselines={"always certain": 1 - share},
    )
    rows = []
    for number, count in enumerate(found.count_B):
        if count:
            accuracy = float(found.accuracy_B[number])
            rows.append(
                (
                    f"{found.edges[number]:.0%} to {found.edges[number + 1]:.0%}",
                    str(count),
                    f"{found.confidence_B[number]:.1%}",
                    f"{accuracy:.1%}",
                    "█" * round(accuracy * _BARS),
                )
            )
    header = ("how sure", "answers", "mean confidence", "were right", "")
    run.tables.append(Table("How sure it was, and how often it was right", header, tuple(rows)))
    return [brier, ece]


def _shown(
    cases: list[Case], ours: np.ndarray, answers: list[str], blind: list[str], confidence: np.ndarray | None
) -> list[Scored]:
    found = []
    for number, (case, value, given, unseen) in enumerate(zip(cases, ours, answers, blind, strict=True)):
        lines = [("question", case.question), ("answer", given), ("right", _people(case.answers))]
        lines.append(("blind", unseen))
        rank = float(value)
        if confidence is not None:
            sure = float(confidence[number])
            lines.append(("sure", f"{sure:.0%}"))
            # Of wrong answers the surest is the worst, of right ones the best.
            rank += 1e-3 * (sure if value >= 0.5 else -sure)
        found.append(Scored(case.id, rank, f"score {value:.2g}", case.media, tuple(lines)))
    return found


def _people(answers: Sequence[str]) -> str:
    """Right answers with how many gave them."""
    counts = {answer: answers.count(answer) for answer in dict.fromkeys(answers)}
    return ", ".join(f"{a} ({n})" if len(answers) > 1 else a for a, n in counts.items())
