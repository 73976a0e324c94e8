"""What an evaluation works with: the model under test, options, and what comes out."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from sensorium.evals.baselines import Example
from sensorium.evals.cases import Part
from sensorium.evals.journal import Journal, vector_from_json, vector_to_json
from sensorium.evals.results import Result
from sensorium.evals.statistics import bootstrap, paired_difference
from sensorium.generate.interface import Model
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.media.parts import Audio, Image

# (what, how many) -> a function to call after each
Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows nothing."""
    yield lambda: None


class Subject(Protocol):
    """What is evaluated: a model of ours, or anything that answers and embeds.

    ``fingerprint`` changes with the weights; ``max_sound_s`` is the longest sound that is heard whole, None for any.
    """

    name: str
    fingerprint: str
    max_sound_s: float | None

    def answer(self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int) -> list[str]:
        """One text for each prompt, each what it would be alone."""
        ...

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        """Unit vectors, float32 ``[len(items), latent_dim]``."""
        ...


class ModelSubject:
    """A model of ours. ``fingerprint`` is a hash of its weights."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        audio = model.config.model.modalities.get("audio")
        self.max_sound_s = audio.max_size[0] * HOP_LENGTH / SAMPLE_RATE if audio else None
        found = hashlib.sha256()
        for key, tensor in sorted(model.model.state_dict().items()):
            values = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(key.encode() + values.view(torch.uint8).numpy().tobytes())
        self.fingerprint = found.hexdigest()[:16]

    def answer(self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int) -> list[str]:
        """Through ``Model.generate_many``."""
        return self.model.generate_many([list(p) for p in prompts], "text", max_tokens=max_tokens, seed=seed)

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        """Through ``Model.embed``."""
        return self.model.embed(list(items))


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a suite is run; all of it is recorded.

    Args:
        split: that is asked.
        known: what baselines may learn from: "" is the split train of the same data, "none" nothing, anything else
            names of data between commas, whose split train is taken.
        limit: cases at most, evenly spread; 0 means all.
        prompt: what is asked; "" is the suite's own ("{question}" for vqa, "transcribe" for asr).
        normalizer: of asr; "" is "basic". max_tokens: of an answer; 0 is the suite's own.
        batch_size: prompts answered together. seed: of answers, intervals and controls.
    """

    split: str = "test"
    known: str = ""
    limit: int = 0
    prompt: str = ""
    normalizer: str = ""
    max_tokens: int = 0
    batch_size: int = 32
    seed: int = 0
    num_resamples: int = 2000


@dataclass(frozen=True)
class Scored:
    """A case with what came out, to be shown.

    Args:
        score: higher is better; cases are ranked by it. verdict: the same in words.
        media: of the case. lines: (what, text), such as ("answer", "red").
    """

    id: str
    score: float
    verdict: str
    media: tuple[Image | Audio, ...]
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Evaluation:
    """Figures, cases, and how they came about."""

    results: list[Result]
    scored: list[Scored]
    about: dict[str, Any]


@dataclass
class Run:
    """What a suite works with."""

    subject: Subject
    rows: list[dict[str, Any]]
    known: list[Example]
    journal: Journal
    options: Options
    task: str
    bar: Bar
    notes: list[str] = field(default_factory=list)

    def ask(self, what: str, prompts: dict[str, Sequence[Part]]) -> list[str]:
        """Answers of the model, in order; ``what`` stands beside the bar."""
        options = self.options

        def answer(batch: list[Any]) -> list[str]:
            return self.subject.answer(batch, max_tokens=options.max_tokens, seed=options.seed)

        with self.bar(what, len(prompts)) as step:
            return self.journal.fill(prompts, answer, batch_size=options.batch_size, on_item=step)

    def embed(self, items: dict[str, Part]) -> np.ndarray:
        """Vectors of the model, in order."""

        def embed(batch: list[Any]) -> list[str]:
            return [vector_to_json(vector) for vector in self.subject.embed(batch)]

        size = self.options.batch_size
        with self.bar("embedding", len(items)) as step:
            rows = self.journal.fill(items, embed, batch_size=size, on_item=step)
        return np.stack([vector_from_json(row) for row in rows])

    def result(
        self,
        metric: str,
        values: np.ndarray,
        others: Mapping[str, np.ndarray],
        *,
        normalizer: str,
        statistic: str = "mean",
        groups: Sequence[str] | None = None,
        unit: str = "",
        higher_is_better: bool = True,
    ) -> Result:
        """A result from values of every sample, ours and the baselines', as ``bootstrap`` takes them."""
        drawn: dict[str, Any] = {
            "statistic": statistic,
            "groups": groups,
            "num_resamples": self.options.num_resamples,
            "seed": self.options.seed,
        }
        interval = bootstrap(values, **drawn)
        margins = {name: paired_difference(values, other, **drawn) for name, other in others.items()}
        return Result(
            task=self.task,
            metric=metric,
            value=interval.estimate,
            n=len(values),
            seed=self.options.seed,
            prompt=self.options.prompt,
            split=self.options.split,
            normalizer=normalizer,
            model=self.subject.name,
            unit=unit,
            higher_is_better=higher_is_better,
            interval=interval,
            baselines={name: interval.estimate - margin.estimate for name, margin in margins.items()},
            margins=margins,
        )
