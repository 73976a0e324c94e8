"""Media and their texts found by each other; clips, which are also named in words."""

from collections.abc import Mapping

import numpy as np

from sensorium.evals.baselines import (
    Baseline,
    Chance,
    Example,
    Majority,
    best_options,
    mel_neighbour,
    pixel_neighbours,
    shuffled,
)
from sensorium.evals.cases import Gallery, blamed, gallery, middle_frame, signal_of
from sensorium.evals.metrics.answers import exact_match
from sensorium.evals.metrics.retrieval import retrieval
from sensorium.evals.results import Result
from sensorium.evals.runner import CONTROL, Run, Scored
from sensorium.evals.suites.questions import BLIND, NORMALIZER, chance, options_of
from sensorium.media.parts import Image, Video

_ONE_FRAME = "one frame (the middle)"


def run_retrieval(run: Run) -> tuple[list[Result], list[Scored]]:
    """R@k and ranks of pictures or sounds and their texts."""
    return _ranked(run, gallery(run.rows), {})


def run_video(run: Run) -> tuple[list[Result], list[Scored]]:
    """R@k and ranks of clips and their names, and their names as answers; beside what one frame gives."""
    found = gallery(run.rows, ("video",))
    clips: dict[str, Video] = {key: part for key, part in found.media.items() if isinstance(part, Video)}
    frames = {}
    for key, clip in clips.items():
        with blamed(found.ids[key]):
            frames[key] = middle_frame(clip)
    frames_ML = run.embed({f"frame {key}": frame for key, frame in frames.items()})
    results, shown = _ranked(run, found, {f"the model on {_ONE_FRAME}": frames_ML})
    prompt = run.options.prompt
    told = run.ask("naming", {f"named {key}": (clip, prompt) for key, clip in clips.items()})
    others = {
        f"the model on {_ONE_FRAME}": run.ask(
            "naming one frame", {f"named-frame {key}": (frame, prompt) for key, frame in frames.items()}
        ),
        BLIND: run.ask("naming blind", {"blind all": (prompt,)}) * len(clips),
    }
    texts, matches = list(found.texts), found.matches()
    truths = [[texts[place] for place in np.flatnonzero(right)] for right in matches]
    options = options_of(run, truths)
    if run.known:
        asked = [Example("", signal=signal_of(frame)) for frame in frames.values()]
        rivals: list[Baseline] = [Majority(), *pixel_neighbours()]
        for rival in rivals:
            others[_of_frame(rival)] = best_options(rival.scores(run.known, asked, options), options)
    others[CONTROL] = shuffled(told, run.options.seed)

    def scores(given: list[str]) -> np.ndarray:
        return np.array([exact_match(text, right) for text, right in zip(given, truths, strict=True)])

    named = run.result(
        "exact match of the name",
        scores(told),
        {
            **{name: scores(given) for name, given in others.items()},
            "chance": chance(exact_match, truths, options),
        },
        normalizer=NORMALIZER,
    )
    shown = [
        Scored(
            case.id,
            case.score,
            case.verdict,
            (_film(clip),),
            (*case.lines, ("answer", answer)),
            ("eight frames",),
        )
        for case, clip, answer in zip(shown, clips.values(), told, strict=True)
    ]
    return [*results, named], shown


def _ranked(run: Run, found: Gallery, more: Mapping[str, np.ndarray]) -> tuple[list[Result], list[Scored]]:
    """Figures of a gallery. ``more``: name -> vectors of the same media by other means, as rivals."""
    media_ML = run.embed({f"media {found.ids[key]}": part for key, part in found.media.items()})
    texts = list(found.texts)
    texts_TL = run.embed({f"text {text}": text for text in texts})
    matches_MT = found.matches()
    similarity_MT = media_ML @ texts_TL.T
    ours = retrieval(similarity_MT, matches_MT)
    others = {name: retrieval(rival_ML @ texts_TL.T, matches_MT) for name, rival_ML in more.items()}
    rivals = _rivals(run, found)
    looks = len(rivals) > 1
    asked = [Example("", signal=signal_of(part) if looks else None) for part in found.media.values()]
    # One similarity at a time: with many texts each is large.
    for rival in rivals:
        others[_of_frame(rival) if more else rival.name] = retrieval(
            rival.scores(run.known, asked, texts), matches_MT
        )
    order = shuffled(range(len(media_ML)), run.options.seed)
    others[CONTROL] = retrieval(similarity_MT[order], matches_MT)
    results = []
    # Queries with the same right answers (pictures or names of one concept, captions of one picture) are one unit.
    units = {"media": matches_MT.argmax(axis=1).tolist(), "text": matches_MT.argmax(axis=0).tolist()}
    for metric, values in ours.items():
        is_rank = metric.startswith("rank")
        results.append(
            run.result(
                f"median {metric}" if is_rank else metric,
                values,
                {name: other[metric] for name, other in others.items()},
                normalizer="texts as they are; one of the same concept is right",
                statistic="median" if is_rank else "mean",
                groups=units["media" if metric.endswith("-> text") else "text"],
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


def _rivals(run: Run, found: Gallery) -> list[Baseline]:
    """Chance, and neighbours where there is something to learn from and all media are of one kind."""
    kinds = {type(part) for part in found.media.values()}
    if not run.known or len(kinds) > 1:
        return [Chance()]
    unseen = len(set(found.texts) - {example.answer for example in run.known})
    if unseen:
        run.notes.append(f"{unseen} of {len(found.texts)} texts are unknown to the nearest neighbours")
    return [Chance(), *(pixel_neighbours() if kinds <= {Image, Video} else [mel_neighbour()])]


def _of_frame(rival: Baseline) -> str:
    """The name of a baseline that looks at one frame of a clip."""
    return f"{rival.name}, {_ONE_FRAME}" if rival.name.startswith("nearest") else rival.name


def _film(clip: Video) -> Image:
    """Eight frames side by side, as one picture."""
    frames, _ = clip.frames()
    places = [number * len(frames) // min(8, len(frames)) for number in range(min(8, len(frames)))]
    return Image(np.concatenate([frames[place] for place in places], axis=1))
