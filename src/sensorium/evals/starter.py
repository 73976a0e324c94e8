"""The figures of the quick start: retrieval in a drawing style never trained on, sounds, and questions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sensorium.config import ModelConfig
from sensorium.data.reader import Reader
from sensorium.data.sample import Sample, sample_of_row
from sensorium.data.templates import chat_segments
from sensorium.evals.baselines import (
    Baseline,
    Blind,
    Chance,
    Example,
    Majority,
    accuracy,
    mel_neighbour,
    pixel_neighbours,
)
from sensorium.evals.metrics.retrieval import matches_of_keys, recall_at_k
from sensorium.generate.interface import Model
from sensorium.generate.requests import Request, TextOptions
from sensorium.media.image import denormalize_image
from sensorium.sequence.document import EmbSegment, Segment, TextSegment

TRAIN_STYLES = ("noto", "fluent")
TEST_STYLE = "openmoji"
SOUND_SOURCES = ("scratch", "sonic-pi")


def load_samples(name: str, split: str, config: ModelConfig) -> list[Sample]:
    """All samples of a split of a starter source, as the model sees them."""
    return [sample_of_row(row, config) for row in Reader(f"starter:{name}", split).rows()]


@dataclass(frozen=True)
class StarterSuite:
    """The tests, read once for a model configuration and run on any model of it.

    Args:
        config: patches and sizes of media.
        split: which concepts are asked for: "train" for the style test (known concepts in an unseen style),
            "test" for the concept test.
        num_questions: of the question test; 0 means all.
    """

    config: ModelConfig
    split: str = "train"
    num_questions: int = 0

    @cached_property
    def pictures(self) -> list[Sample]:
        """Pictures in the held-out style."""
        return load_samples(TEST_STYLE, self.split, self.config)

    @cached_property
    def sounds(self) -> list[Sample]:
        """Sounds of the training set."""
        return [sample for name in SOUND_SOURCES for sample in load_samples(name, "train", self.config)]

    @cached_property
    def questions(self) -> list[Sample]:
        """Questions on pictures of easy-vqa's own test set, evenly spread."""
        rows = load_samples("easy-vqa", "test", self.config)
        return (
            rows[:: max(1, len(rows) // self.num_questions)][: self.num_questions]
            if self.num_questions
            else rows
        )

    def run(self, model: Model) -> dict[str, Any]:
        """All figures of a model; baselines stand beside them."""
        media = model.embed_segments([[s.media[0].segment(noisy=False), EmbSegment()] for s in self.pictures])
        words = model.embed([s.text for s in self.pictures])
        names = [s.text for s in self.pictures]
        similarity = media @ words.T
        sounds = model.embed_segments([[s.media[0].segment(noisy=False), EmbSegment()] for s in self.sounds])
        sound_names = [s.text for s in self.sounds]
        unique = sorted(set(sound_names))
        matches = matches_of_keys(names, names)
        sound_matches = matches_of_keys(sound_names, unique)
        asked, sounded = [Example(name) for name in names], [Example(name) for name in sound_names]
        neighbour_to_word, neighbour_to_picture = self.pixel_neighbour
        return {
            "picture_to_word": {
                "r1": recall_at_k(similarity, matches),
                "chance": accuracy(Chance(), [], asked, names),
                "nearest_neighbour": neighbour_to_word,
            },
            "word_to_picture": {
                "r1": recall_at_k(similarity.T, matches.T),
                "chance": accuracy(Chance(), [], asked, names),
                "nearest_neighbour": neighbour_to_picture,
            },
            "sound_to_word": {
                "r1": recall_at_k(sounds @ model.embed(unique).T, sound_matches),
                "chance": accuracy(Chance(), [], sounded, unique),
                "nearest_neighbour": self.mel_neighbour,
            },
            "vqa": self.answer_questions(model),
        }

    @cached_property
    def pixel_neighbour(self) -> tuple[float, float]:
        """R@1 of the nearest training picture in pixels, both directions, at the better of 8 and 16 px."""
        known = [s for style in TRAIN_STYLES for s in load_samples(style, "train", self.config)]
        if self.split != "train":
            known += [s for style in TRAIN_STYLES for s in load_samples(style, self.split, self.config)]
        names = [s.text for s in self.pictures]
        matches = matches_of_keys(names, names)
        asked, references = [_picture(s) for s in self.pictures], [_picture(s) for s in known]
        both = []
        for neighbour in pixel_neighbours((8, 16)):
            similarity = neighbour.scores(references, asked, names)
            both.append((recall_at_k(similarity, matches), recall_at_k(similarity.T, matches.T)))
        return max(both)

    @cached_property
    def mel_neighbour(self) -> float:
        """R@1 of the nearest training sound in log-mel: 1 by construction, as the sounds *are* training sounds."""
        examples = [Example(s.text, signal=s.media[0].clean_CHW[0]) for s in self.sounds]
        longest = max(len(example.signal) for example in examples if example.signal is not None)
        unique = sorted({example.answer for example in examples})
        return accuracy(mel_neighbour(longest), examples, examples, unique)

    def answer_questions(self, model: Model) -> dict[str, float]:
        """Accuracy with the picture and without it, and of the two answers that need no model.

        ``majority`` always gives the most frequent training answer; ``question_majority`` gives the most
        frequent training answer to exactly that question, which is the best a blind reader of the training set
        can do.
        """
        known = [_asked(row["messages"]) for row in Reader("starter:easy-vqa", "train").rows()]
        asked = [_asked(s.messages) for s in self.questions]
        options = sorted({example.answer for example in known})
        truth = [example.answer for example in asked]
        seeing = _answers(model, [_question(s, model, with_media=True) for s in self.questions])
        blind = _answers(model, [_question(s, model, with_media=False) for s in self.questions])
        rivals: dict[str, Baseline] = {"majority": Majority(), "question_majority": Blind()}
        return {
            "accuracy": _accuracy(seeing, truth),
            "blind": _accuracy(blind, truth),
            **{name: accuracy(rival, known, asked, options) for name, rival in rivals.items()},
        }


def _picture(sample: Sample) -> Example:
    return Example(sample.text, signal=denormalize_image(sample.media[0].clean_CHW))


def _asked(messages: list[dict[str, Any]]) -> Example:
    return Example(_text(messages[1]), question=_text(messages[0]))


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def _question(sample: Sample, model: Model, *, with_media: bool) -> list[Segment]:
    segments = chat_segments(sample.messages[:1], sample.media if with_media else [], model.tokenizer)
    return [*segments, TextSegment([model.tokenizer.assistant])]


def _answers(model: Model, prompts: list[list[Segment]]) -> list[str]:
    options = TextOptions(max_tokens=12)
    return [a.text for a in model.engine.generate([Request(prompt=p, text=options) for p in prompts])]


def _accuracy(given: list[str], truth: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(given, truth, strict=True)]))
