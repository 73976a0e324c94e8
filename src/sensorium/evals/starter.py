"""The figures of the quick start: retrieval in a drawing style never trained on, sounds, and questions."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sensorium.config import ModelConfig
from sensorium.data.reader import Reader
from sensorium.data.sample import Sample, sample_of_row
from sensorium.data.templates import chat_segments
from sensorium.evals.retrieval import chance, neighbour_similarity, recall_at_k, shrink
from sensorium.generate.engine import TextOptions
from sensorium.generate.interface import Model
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
        sound_similarity = sounds @ model.embed(unique).T
        neighbour_to_word, neighbour_to_picture = self.pixel_neighbour
        return {
            "picture_to_word": {
                "r1": recall_at_k(similarity, names, names),
                "chance": chance(names, names),
                "nearest_neighbour": neighbour_to_word,
            },
            "word_to_picture": {
                "r1": recall_at_k(similarity.T, names, names),
                "chance": chance(names, names),
                "nearest_neighbour": neighbour_to_picture,
            },
            "sound_to_word": {
                "r1": recall_at_k(sound_similarity, sound_names, unique),
                "chance": chance(sound_names, unique),
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
        best = (0.0, 0.0)
        for size in (8, 16):
            query = shrink(np.stack([s.media[0].clean_CHW for s in self.pictures]), size)
            reference = shrink(np.stack([s.media[0].clean_CHW for s in known]), size)
            similarity = neighbour_similarity(query, reference, [s.text for s in known], names)
            best = max(best, (recall_at_k(similarity, names, names), recall_at_k(similarity.T, names, names)))
        return best

    @cached_property
    def mel_neighbour(self) -> float:
        """R@1 of the nearest training sound in log-mel: 1 by construction, as the sounds *are* training sounds."""
        names = [s.text for s in self.sounds]
        frames = max(s.media[0].clean_CHW.shape[1] for s in self.sounds)
        flat = np.stack(
            [
                np.pad(s.media[0].clean_CHW[0], ((0, frames - s.media[0].clean_CHW.shape[1]), (0, 0))).ravel()
                for s in self.sounds
            ]
        )
        unique = sorted(set(names))
        return recall_at_k(neighbour_similarity(flat, flat, names, unique), names, unique)

    def answer_questions(self, model: Model) -> dict[str, float]:
        """Accuracy with the picture and without it, and of the two answers that need no model.

        ``majority`` always gives the most frequent training answer; ``question_majority`` gives the most
        frequent training answer to exactly that question, which is the best a blind reader of the training set
        can do.
        """
        train: dict[str, Counter[str]] = defaultdict(Counter)
        for row in Reader("starter:easy-vqa", "train").rows():
            train[_text(row["messages"][0])][_text(row["messages"][1])] += 1
        overall: Counter[str] = sum(train.values(), Counter())
        majority = overall.most_common(1)[0][0]
        truth = [_text(s.messages[1]) for s in self.questions]
        by_question = [train.get(_text(s.messages[0]), overall).most_common(1)[0][0] for s in self.questions]
        seeing = _answers(model, [_question(s, model, with_media=True) for s in self.questions])
        blind = _answers(model, [_question(s, model, with_media=False) for s in self.questions])
        return {
            "accuracy": _accuracy(seeing, truth),
            "blind": _accuracy(blind, truth),
            "majority": _accuracy([majority] * len(truth), truth),
            "question_majority": _accuracy(by_question, truth),
        }


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def _question(sample: Sample, model: Model, *, with_media: bool) -> list[Segment]:
    segments = chat_segments(sample.messages[:1], sample.media if with_media else [], model.tokenizer)
    return [*segments, TextSegment([model.tokenizer.assistant])]


def _answers(model: Model, prompts: list[list[Segment]], batch_size: int = 128) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        tokens: list[list[int]] = [[] for _ in batch]
        for step in model.engine.generate_text(batch, TextOptions(max_tokens=12)):
            for row, token in zip(tokens, step, strict=True):
                if token is not None:
                    row.append(token)
        answers += [model.tokenizer.decode(row).strip() for row in tokens]
    return answers


def _accuracy(given: list[str], truth: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(given, truth, strict=True)]))
