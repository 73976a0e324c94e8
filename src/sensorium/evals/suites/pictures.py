"""Pictures drawn from words: whether they show what was asked for, and how their set differs from real ones."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sensorium.evals.baselines import PIXEL_SIZES, Example, pixels, shuffled
from sensorium.evals.cases import gallery
from sensorium.evals.journal import vector_from_json, vector_to_json
from sensorium.evals.metrics.generated import frechet_distance
from sensorium.evals.metrics.retrieval import ranks, recall_per_query
from sensorium.evals.results import Result
from sensorium.evals.runner import CONTROL, Run, Scored
from sensorium.media.image import resize_image
from sensorium.media.parts import Image

_TEXTS = "texts as they are; one of the same concept is right"
OWN = "the model's own features"
# The view in which the nearest real picture is shown beside a drawn one.
_SHOWN_VIEW = "16 px"
_NOISE_SIDE = 32
_LEAST_FRECHET = 2  # one picture has no covariance


@dataclass(frozen=True)
class _Drawn:
    """One drawing and one real picture of every text, and all real pictures.

    Args:
        same_TT: bool ``[T, T]``, texts that mean the same. right_TM: which real pictures show what a text says.
        first_T: of each text the real picture beside its drawing.
        known: real pictures of other data with their texts: those of the same texts, and at ``spread_T`` (None: there
            are too few) as many as there are texts.
    """

    texts: list[str]
    drawn: list[Image]
    real: list[Image]
    same_TT: np.ndarray
    right_TM: np.ndarray
    first_T: np.ndarray
    known: list[Image]
    known_texts: list[str]
    spread_T: list[int] | None


def run_image(run: Run) -> tuple[list[Result], list[Scored]]:
    """Each text is drawn once; beside it stands what real pictures score."""
    found = gallery(run.rows, ("image",))
    texts, matches_MT = list(found.texts), found.matches()
    prompts = {f"drawn {text}": (run.options.prompt.replace("{text}", text),) for text in texts}
    drawn: list[Image] = run.make("drawing", prompts, "image")
    real = [part for part in found.media.values() if isinstance(part, Image)]
    known, spread_T = _chosen([e for e in run.known if e.signal is not None], texts)
    same_TT = (matches_MT.T.astype(np.int32) @ matches_MT.astype(np.int32)) > 0
    first_T = matches_MT.argmax(axis=0)
    it = _Drawn(
        texts,
        drawn,
        real,
        same_TT,
        matches_MT.T,
        first_T,
        [Image(example.signal) for example in known if example.signal is not None],
        [example.answer for example in known],
        spread_T,
    )
    own = _own_features(run, it)
    texts_TL = run.embed({f"text {text}": text for text in texts})
    named, rank_T = _named(run, it, own, texts_TL)
    results = [named]
    views: dict[str, Callable[[str], np.ndarray]] = {
        **{f"{size} px": _pixel_view(it, size) for size in PIXEL_SIZES},
        OWN: own,
    }
    judge = run.judges.features
    if judge is not None:
        views[f"features of {judge.name}"] = _judged_features(run, it)
    else:
        run.notes.append(
            "no figures by features that are not the model's: they need an image classifier; give --classifier FOLDER "
            "(of transformers, in safetensors)"
        )
    results += [_nearest_real(run, it, name, view) for name, view in views.items()]
    if len(texts) < _LEAST_FRECHET:
        run.notes.append(
            f"no Frechet distance: it needs pictures of at least {_LEAST_FRECHET} texts, and there is {len(texts)}"
        )
    else:
        results += [_frechet(run, it, name, view) for name, view in views.items() if not name.endswith("px")]
    return results, _shown(it, rank_T, views[_SHOWN_VIEW])


def _chosen(known: list[Example], texts: list[str]) -> tuple[list[Example], list[int] | None]:
    """Known pictures of the same texts, and as many as there are texts evenly spread, with the places of these."""
    places = [number * len(known) // len(texts) for number in range(len(texts))]
    spread = places if len(known) >= len(texts) else []
    wanted = {*texts}
    kept = sorted({*spread, *(number for number, example in enumerate(known) if example.answer in wanted)})
    where = {number: place for place, number in enumerate(kept)}
    return [known[number] for number in kept], [where[number] for number in spread] or None


def _named(
    run: Run, it: _Drawn, own: Callable[[str], np.ndarray], texts_TL: np.ndarray
) -> tuple[Result, np.ndarray]:
    """Whether the model finds its own drawing's text, beside whether it finds that of the real picture."""
    similarity_TT = own("drawn") @ texts_TL.T
    of_real_TT = own("real")[it.first_T] @ texts_TL.T
    order = shuffled(range(len(it.texts)), run.options.seed)
    others = {
        "ceiling: real pictures": recall_per_query(of_real_TT, it.right_TM.T[it.first_T], 1),
        "chance": recall_per_query(np.zeros_like(similarity_TT), it.same_TT, 1),
        CONTROL: recall_per_query(similarity_TT[order], it.same_TT, 1),
    }
    found = run.result(
        "R@1 drawing -> text, by the model itself",
        recall_per_query(similarity_TT, it.same_TT, 1),
        others,
        normalizer=_TEXTS,
    )
    return found, ranks(similarity_TT, it.same_TT)


def _nearest_real(run: Run, it: _Drawn, name: str, view: Callable[[str], np.ndarray]) -> Result:
    """Whether the nearest real picture is one of what was asked for."""
    similarity_TM = _nearness(view("drawn"), view("real"))
    order = shuffled(range(len(it.texts)), run.options.seed)
    others = {
        "chance": recall_per_query(np.zeros_like(similarity_TM), it.right_TM, 1),
        CONTROL: recall_per_query(similarity_TM[order], it.right_TM, 1),
    }
    beside = {}
    place = {text: number for number, text in enumerate(it.texts)}
    shared = [(number, place[text]) for number, text in enumerate(it.known_texts) if text in place]
    if shared:
        numbers, rows = (list(column) for column in zip(*shared, strict=True))
        of_known = recall_per_query(_nearness(view("known")[numbers], view("real")), it.right_TM[rows], 1)
        beside[f"ceiling: other real pictures of the same (n {len(shared)})"] = float(of_known.mean())
    return run.result(
        f"nearest real picture is right, {name}",
        recall_per_query(similarity_TM, it.right_TM, 1),
        others,
        normalizer=_TEXTS,
        beside=beside,
    )


def _frechet(run: Run, it: _Drawn, name: str, view: Callable[[str], np.ndarray]) -> Result:
    """The distance of the set of drawings from as many real pictures."""
    real_TD = view("real")[it.first_T]
    num = len(it.texts)
    baselines = {"noise": frechet_distance(view("noise"), real_TD)}
    if it.spread_T is not None:
        baselines["ceiling: other real pictures"] = frechet_distance(view("known")[it.spread_T], real_TD)
    if num <= real_TD.shape[1]:
        run.notes.append(
            f"{num} pictures for {real_TD.shape[1]} features ({name}): the Frechet distance is biased upwards; compare it "
            "only with its baselines here"
        )
    return run.figure(
        f"Frechet distance, {name}",
        frechet_distance(view("drawn"), real_TD),
        num,
        normalizer="one drawing and one real picture of every text",
        unit="distance",
        higher_is_better=False,
        baselines=baselines,
    )


def _sets(it: _Drawn, seed: int) -> dict[str, list[Image]]:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (len(it.texts), _NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.uint8)
    return {"drawn": it.drawn, "real": it.real, "known": it.known, "noise": [Image(one) for one in noise]}


def _own_features(run: Run, it: _Drawn) -> Callable[[str], np.ndarray]:
    sets = _sets(it, run.options.seed)
    return _once(lambda which: run.embed(_keyed(f"own-{which}", sets[which])))


def _judged_features(run: Run, it: _Drawn) -> Callable[[str], np.ndarray]:
    judge, sets = run.judges.features, _sets(it, run.options.seed)
    assert judge is not None

    def features(which: str) -> np.ndarray:
        assert judge is not None
        items = _keyed(f"{which}:{judge.fingerprint}", sets[which])
        rows = run.judge("judging", items, lambda batch: [vector_to_json(row) for row in judge(batch)])
        return np.stack([vector_from_json(row) for row in rows])

    return _once(features)


def _keyed(what: str, pictures: list[Image]) -> dict[str, Image]:
    """Keys of answers that are kept: known pictures may be others the next time, so what they show is in the key."""
    return {
        f"{what} {number}-{hashlib.sha256(part.pixels().tobytes()).hexdigest()[:12]}": part
        for number, part in enumerate(pictures)
    }


def _pixel_view(it: _Drawn, size: int) -> Callable[[str], np.ndarray]:
    view, sets = pixels(size), _sets(it, 0)
    return _once(lambda which: np.stack([view(part.pixels()) for part in sets[which]]))


def _once(view: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
    """A view that is made once for each set, when it is asked for."""
    kept: dict[str, np.ndarray] = {}

    def remembered(which: str) -> np.ndarray:
        if which not in kept:
            kept[which] = view(which)
        return kept[which]

    return remembered


def _nearness(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """Minus the squared distances ``[N, M]``."""
    distance_NM = (a_ND**2).sum(axis=1)[:, None] - 2 * a_ND @ b_MD.T + (b_MD**2).sum(axis=1)
    return -distance_NM


def _shown(it: _Drawn, rank_T: np.ndarray, view: Callable[[str], np.ndarray]) -> list[Scored]:
    nearest_T = _nearness(view("drawn"), view("real")).argmax(axis=1)
    found = []
    for number, (text, rank) in enumerate(zip(it.texts, rank_T, strict=True)):
        near = int(nearest_T[number])
        shows = "; ".join(it.texts[place] for place in np.flatnonzero(it.right_TM[:, near]))
        # All at the size of the largest, so that they can be compared by eye.
        shown = _one_size([it.drawn[number], it.real[int(it.first_T[number])], it.real[near]])
        labels = ("drawn", "real", f"nearest real, {_SHOWN_VIEW}")
        lines = (("text", text), ("the nearest shows", shows))
        found.append(
            Scored(text, -float(rank), f"its text at rank {rank:g} of {len(it.texts)}", shown, lines, labels)
        )
    return found


def _one_size(parts: Sequence[Image]) -> tuple[Image, ...]:
    arrays = [part.pixels() for part in parts]
    height, width = max(a.shape[0] for a in arrays), max(a.shape[1] for a in arrays)
    return tuple(
        Image(array if array.shape[:2] == (height, width) else resize_image(array, height, width))
        for array in arrays
    )
