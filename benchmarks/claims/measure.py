"""What is measured of a trained model, on data that it was not trained on unless the figure's name says so.

Every figure is the same for all variants of a claim: held-out losses are taken with one seed, one order and one set of
noise levels, whatever the variant was trained with.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sensorium.config import DataConfig, ModelConfig, RunConfig, SourceConfig, Template
from sensorium.data.loader import Loader
from sensorium.data.reader import Reader
from sensorium.data.sample import Sample, decode_medium, sample_of_row
from sensorium.evals.baselines import Example, pixel_neighbours, shuffled
from sensorium.evals.metrics.generated import frechet_distance
from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k, retrieval
from sensorium.evals.starter import SOUND_SOURCES, TEST_STYLE, TRAIN_STYLES, StarterSuite, load_samples
from sensorium.generate.interface import Model
from sensorium.generate.requests import MediaOptions, Request
from sensorium.losses import compute_losses
from sensorium.media.image import denormalize_image, resize_image
from sensorium.model.flow import MIN_ONE_MINUS_T, Noise
from sensorium.sequence.document import EmbSegment, TextSegment
from sensorium.train.evaluate import SPLIT, evaluate, validation_loader
from sensorium.train.parallel import Ranks

Figures = dict[str, float]
BRIDGE = "tuxpaint-sounds"  # stamps of the full starter data that have a picture, a sound and a word
# Of each part: its held-out sources, as what, how many samples and which losses are told.
HELD_OUT = {
    "pictures": (("noto", "fluent", "openclipart"), "pair", 64, ("text", "align", "flow_image")),
    "sounds": (("scratch", "sonic-pi"), "pair", 13, ("text", "align", "flow_audio")),
    "questions": (("easy-vqa",), "chat", 128, ("text",)),
    "hearing": (("asterisk-en", "asterisk-fr"), "transcribe", 25, ("text",)),
    "speaking": (("asterisk-en", "asterisk-fr"), "speak", 25, ("flow_audio",)),
}
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels at which a clean signal is estimated: 0 noise, 1 signal
NUM_QUESTIONS = 300
NUM_DRAWN, NUM_SOUNDED = 128, 64
NUM_SOLVER_STEPS = 16
SOUND_PATCHES, FRAMES_OF_PATCH = 10, 6
NUM_COMPONENTS = 24  # of the pixels and spectrograms whose distributions are compared


def pictures(model: Model, data: Path) -> Figures:
    """Pictures of known concepts in a drawing style that is never trained on, and their names."""
    suite = StarterSuite(model.config.model)
    names = [sample.text for sample in suite.pictures]
    return _both_ways(
        "picture", "word", _embed(model, suite.pictures), model.embed(names), matches_of_keys(names, names)
    )


def sounds(model: Model, data: Path) -> Figures:
    """Training sounds and their names: memory, as the few held-out ones have names that nobody has heard."""
    suite = StarterSuite(model.config.model)
    names = [sample.text for sample in suite.sounds]
    unique = sorted(set(names))
    similarity = _embed(model, suite.sounds) @ model.embed(unique).T
    matches = matches_of_keys(names, unique)
    return {f"sound -> word R@{k}, training sounds": recall_at_k(similarity, matches, k) for k in (1, 10)}


def questions(model: Model, data: Path) -> Figures:
    """Questions about pictures of easy-vqa's own test set, with the picture and without."""
    found = StarterSuite(model.config.model, num_questions=NUM_QUESTIONS).answer_questions(model)
    return {"questions right": found["accuracy"], "questions right, blind": found["blind"]}


def losses(model: Model, data: Path) -> Figures:
    """Losses on the validation split of every part."""
    found = {}
    for part, (names, template, num_samples, told) in HELD_OUT.items():
        config = held_out(model.config, names, template, num_samples)
        loader = validation_loader(config, model.tokenizer, Ranks())
        means = evaluate(model.model, loader, config, Ranks())
        found |= {f"{part}: {name}": float(means[f"val_{name}"]) for name in told}
    return found


def held_out(config: RunConfig, names: Sequence[str], template: str, num_samples: int) -> RunConfig:
    """The configuration of a held-out loss: nothing in it depends on how a variant was trained."""
    modalities = {
        name: dataclasses.replace(modality, noise_mu=0.0)
        for name, modality in config.model.modalities.items()
    }
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, modalities=modalities),
        data=DataConfig(
            sources=tuple(
                SourceConfig(path=f"starter:{n}", weight=_rows(n), templates={template: 1.0}) for n in names
            ),
            templates={"draw": Template(documents=("{text}<emb>{target}",))},
            row_length=config.data.row_length,
            samples_per_step=num_samples,
            augment=0.0,
            condition_dropout=0.0,
            media_dropout=0.0,
        ),
        train=dataclasses.replace(config.train, seed=0, eval_batches=1),
    )


def _rows(name: str) -> int:
    return Reader(f"starter:{name}", SPLIT).num_rows


@torch.no_grad()
def denoising(model: Model, data: Path) -> Figures:
    """Squared error of the estimate of held-out clean signals at fixed noise levels, on the same noise for all."""
    found = {}
    for kind, names, template, num_samples in (
        ("image", TRAIN_STYLES, "draw", 44),
        ("audio", HELD_OUT["speaking"][0], "speak", 25),
    ):
        config = held_out(model.config, names, template, num_samples)
        loader: Loader = validation_loader(config, model.tokenizer, Ranks())
        batch = loader.batch(0)
        clean = batch.targets[kind].arrays_NCHW
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        errors = []
        for t in LEVELS:
            loss = compute_losses(model.model, batch, {kind: Noise(torch.full((len(clean),), t), noise)})
            mean = loss[f"flow_{kind}"].sum / loss[f"flow_{kind}"].count
            errors.append(float(mean) * max(1 - t, MIN_ONE_MINUS_T) ** 2)
        found |= {f"{kind}: x error at t={t:g}": e for t, e in zip(LEVELS, errors, strict=True)}
        found[f"{kind}: x error"] = float(np.mean(errors))
    return found


def drawing(model: Model, data: Path) -> Figures:
    """What is drawn and sounded from the names of training samples, beside the real ones.

    The features belong to no model: principal components of the real ones' pixels (16 x 16) or spectrograms.
    """
    config = model.config.model
    seen, heard = _real_pictures(config), _real_sounds(config)
    return {
        **_drawn(model, "image", seen, config.modalities["image"].max_grid, _pixels),
        **_drawn(model, "audio", heard, (SOUND_PATCHES, 1), _frames),
    }


def _real_pictures(config: ModelConfig) -> list[Sample]:
    """The same concepts in both training styles."""
    first, second = (load_samples(style, "train", config) for style in TRAIN_STYLES)
    known = {sample.text for sample in second}
    both = [sample for sample in first if sample.text in known]
    names = [sample.text for sample in both[:: max(1, len(both) // NUM_DRAWN)]][:NUM_DRAWN]
    return [sample for sample in (*first, *second) if sample.text in names]


def _real_sounds(config: ModelConfig) -> list[Sample]:
    """One for each name."""
    samples = [s for name in SOUND_SOURCES for s in load_samples(name, "train", config)]
    return list({sample.text: sample for sample in samples}.values())[:NUM_SOUNDED]


class _Space:
    """Features of a medium: the components along which the real ones differ most."""

    def __init__(self, real: Sequence[Sample], view: Callable[[np.ndarray], np.ndarray]) -> None:
        self.view = view
        views_MD = np.stack([view(sample.media[0].clean_CHW) for sample in real])
        self.mean_D = views_MD.mean(axis=0)
        self.components = np.linalg.svd(views_MD - self.mean_D, full_matrices=False)[2][:NUM_COMPONENTS].T
        self.real_MK = (views_MD - self.mean_D) @ self.components

    def features(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays ``[C, H, W]`` -> ``[N, K]``."""
        return (np.stack([self.view(array) for array in arrays]) - self.mean_D) @ self.components


def _drawn(
    model: Model,
    kind: str,
    real: Sequence[Sample],
    grid: tuple[int, int],
    view: Callable[[np.ndarray], np.ndarray],
) -> Figures:
    names = list(dict.fromkeys(sample.text for sample in real))
    media = MediaOptions(num_steps=NUM_SOLVER_STEPS, grid=grid, guidance_scale=1.0)
    requests = []
    for number, name in enumerate(names):
        prompt = [TextSegment(model.tokenizer.encode(name)), EmbSegment()]
        requests.append(Request(prompt=prompt, output=kind, media=dataclasses.replace(media, seed=number)))
    space = _Space(real, view)
    made_NK = space.features([a.parts[0].array.numpy() for a in model.engine.generate(requests)])
    similarity_NM = -((made_NK[:, None] - space.real_MK[None]) ** 2).sum(axis=2)
    of_names = matches_of_keys(names, [sample.text for sample in real])
    others = matches_of_keys(shuffled(names, 0), [sample.text for sample in real])
    return {
        f"{kind}: Frechet distance": frechet_distance(made_NK, space.real_MK),
        f"{kind}: asked concept is nearest": recall_at_k(similarity_NM, of_names, 1),
        f"{kind}: asked concept among 10 nearest": recall_at_k(similarity_NM, of_names, 10),
        f"{kind}: asked concept among 10 nearest, control: shuffled": recall_at_k(similarity_NM, others, 10),
    }


def _pixels(x_CHW: np.ndarray) -> np.ndarray:
    return resize_image(denormalize_image(x_CHW), 16, 16).reshape(-1) / np.float32(255)


def _frames(x_CHW: np.ndarray) -> np.ndarray:
    """The first second or so of log-mel, a mean for each patch."""
    num_frames = SOUND_PATCHES * FRAMES_OF_PATCH
    cut = x_CHW[0, :num_frames]
    filled = np.pad(cut, ((0, num_frames - len(cut)), (0, 0)), constant_values=float(x_CHW.min()))
    return filled.reshape(SOUND_PATCHES, FRAMES_OF_PATCH, -1).mean(axis=1).reshape(-1)


def bridge(model: Model, data: Path) -> Figures:
    """Stamps and sounds of one concept, both trained with their words and never with each other.

    Also pictures of the same concepts in the style that is never trained on.
    """
    rows = list(Reader(str(data / BRIDGE), "train").rows())
    heard, seen = ([_only(row, kind, model) for row in rows] for kind in ("audio", "image"))
    keys, audio_ML = [sample.concept for sample in heard], _embed(model, heard)
    unseen = [
        sample_of_row(row, model.config.model)
        for row in Reader(str(data / TEST_STYLE), "train").rows()
        if row["concept"] in set(keys)
    ]
    of_unseen = matches_of_keys([sample.concept for sample in unseen], keys)
    of_words = audio_ML @ model.embed([sample.text for sample in heard]).T
    matches = matches_of_keys(keys, keys)
    return {
        **_both_ways("stamp", "sound", _embed(model, seen), audio_ML, matches),
        "unseen style -> sound R@10": recall_at_k(_embed(model, unseen) @ audio_ML.T, of_unseen, 10),
        "sound -> word R@10, training sounds": recall_at_k(of_words, matches, 10),
    }


def _only(row: dict[str, Any], kind: str, model: Model) -> Sample:
    """A row with one of its media; a sound that is too long is cut."""
    config, other = model.config.model, "audio" if kind == "image" else "image"
    return sample_of_row(
        {**row, other: None},
        config,
        decode=lambda _, kind, medium: decode_medium(kind, medium, row["id"], config, cut=True),
    )


def _embed(model: Model, samples: Sequence[Sample]) -> np.ndarray:
    return model.embed_segments([[s.media[0].segment(noisy=False), EmbSegment()] for s in samples])


def _both_ways(a: str, b: str, a_ML: np.ndarray, b_NL: np.ndarray, matches_MN: np.ndarray) -> Figures:
    """R@1, R@10 and the median rank of both directions, and a control: the same with one side shuffled."""
    similarity_MN = a_ML @ b_NL.T
    found = {}
    for key, values in retrieval(similarity_MN, matches_MN).items():
        name = key.replace("media", a).replace("text", b)
        measure, _, way = name.partition(" ")
        if measure in ("R@1", "R@10"):
            found[f"{way} {measure}"] = float(values.mean())
        elif measure == "rank":
            found[f"{way} median rank"] = float(np.median(values))
    order = shuffled(range(len(a_ML)), 0)
    found[f"{a} -> {b} R@10, control: shuffled"] = recall_at_k(similarity_MN[order], matches_MN, 10)
    return found


FIGURES: dict[str, Callable[[Model, Path], Figures]] = {
    "pictures": pictures,
    "sounds": sounds,
    "questions": questions,
    "losses": losses,
    "denoising": denoising,
    "drawing": drawing,
    "bridge": bridge,
}


def references(config: RunConfig, data: Path) -> Figures:
    """What stands beside the figures and is of no model: chance, neighbours in pixels, one real style to the other."""
    suite = StarterSuite(config.model)
    names = [sample.text for sample in suite.pictures]
    matches = matches_of_keys(names, names)
    known = [s for style in TRAIN_STYLES for s in load_samples(style, "train", config.model)]
    asked, examples = (
        [Example(s.text, signal=denormalize_image(s.media[0].clean_CHW)) for s in samples]
        for samples in (suite.pictures, known)
    )
    neighbours = [neighbour.scores(examples, asked, names) for neighbour in pixel_neighbours((8, 16))]
    found = {}
    for way, scores, right in (
        ("picture -> word", neighbours, matches),
        ("word -> picture", [score.T for score in neighbours], matches.T),
    ):
        for k in (1, 10):
            found[f"{way} R@{k}, chance"] = recall_at_k(np.zeros(right.shape), right, k)
            found[f"{way} R@{k}, pixel neighbour"] = max(recall_at_k(score, right, k) for score in scores)
    num_sounds = len({s.text for s in suite.sounds})
    found |= {f"sound -> word R@{k}, training sounds, chance": k / num_sounds for k in (1, 10)}
    real = _real_pictures(config.model)
    space = _Space(real, _pixels)
    of_style = [space.real_MK[[s.source == style for s in real]] for style in TRAIN_STYLES]
    found["image: Frechet distance, one real style to the other"] = frechet_distance(*of_style)
    if data.is_dir():
        keys = [row["concept"] for row in Reader(str(data / BRIDGE), "train").rows()]
        matches = matches_of_keys(keys, keys)
        for name in ("stamp -> sound", "sound -> stamp", "unseen style -> sound"):
            found[f"{name} R@10, chance"] = recall_at_k(np.zeros(matches.shape), matches, 10)
    return found
