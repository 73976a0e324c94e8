"""What an evaluation works with: the model under test, options, and what comes out."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from sensorium.evals.baselines import Example
from sensorium.evals.cases import Medium, Part
from sensorium.evals.journal import (
    Journal,
    part_from_json,
    part_to_json,
    vector_from_json,
    vector_to_json,
)
from sensorium.evals.judges import Judges
from sensorium.evals.results import Result
from sensorium.evals.statistics import bootstrap, paired_difference
from sensorium.generate.interface import Model, Output
from sensorium.generate.speech import MelToSound
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE

CONTROL = "control: shuffled labels"

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


@runtime_checkable
class Sure(Protocol):
    """A subject that says how sure it is of an answer."""

    def answer_surely(
        self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int
    ) -> list[tuple[str, float]]:
        """``answer``, each with the probability in [0, 1] that the subject gives it."""
        ...


@runtime_checkable
class Maker(Protocol):
    """A subject that draws and speaks. ``vocoder`` makes its spectrograms sound, by the name ``vocoder_name``."""

    vocoder: MelToSound
    vocoder_name: str

    def make(
        self, prompts: Sequence[Sequence[Part]], output: Output, *, seed: int, **options: Any
    ) -> list[Any]:
        """One ``sm.Image`` or ``sm.Audio`` for each prompt; for the options see ``MediaOptions``."""
        ...


class ModelSubject:
    """A model of ours. ``fingerprint`` is a hash of its weights; ``vocoder_name`` of "" stands for Griffin-Lim, and one of
    weights goes on with their hash."""

    def __init__(self, model: Model, name: str, *, vocoder_name: str = "") -> None:
        self.model, self.name, self.vocoder = model, name, model.vocoder
        weights = getattr(model.vocoder, "__self__", None)
        self.vocoder_name = vocoder_name or "Griffin-Lim"
        if isinstance(weights, torch.nn.Module):  # a file that is trained on keeps its name
            self.vocoder_name += f" {_hash(weights)}"
        self.modalities = frozenset(model.config.model.modalities)
        audio = model.config.model.modalities.get("audio")
        self.max_sound_s = audio.max_size[0] * HOP_LENGTH / SAMPLE_RATE if audio else None
        self.fingerprint = _hash(model.model)

    def answer(self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int) -> list[str]:
        """Through ``Model.generate_many``."""
        return self.model.generate_many([list(p) for p in prompts], "text", max_tokens=max_tokens, seed=seed)

    def answer_surely(
        self, prompts: Sequence[Sequence[Part]], *, max_tokens: int, seed: int
    ) -> list[tuple[str, float]]:
        """The probability of an answer is that of its tokens and of its end; one cut off has no end."""
        requests = [
            self.model.request(list(p), "text", max_tokens=max_tokens, seed=seed, logprobs=0) for p in prompts
        ]
        found = []
        for answer in self.model.engine.generate(requests):
            ended = answer.stop_logprob or 0.0
            found.append((answer.text, math.exp(sum(token.logprob for token in answer.logprobs) + ended)))
        return found

    def make(
        self, prompts: Sequence[Sequence[Part]], output: Output, *, seed: int, **options: Any
    ) -> list[Any]:
        """Through ``Model.generate_many``."""
        return self.model.generate_many([list(p) for p in prompts], output, seed=seed, **options)

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        """Through ``Model.embed``."""
        return self.model.embed(list(items))


def _hash(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(key.encode() + values.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a suite is run; all of it is recorded.

    Args:
        split: that is asked.
        known: names of data from whose split train baselines may learn: none is the same data, "none" alone nothing.
        limit: cases at most, evenly spread; 0 means all.
        prompt: what is asked; "" is the suite's own ("{question}" for vqa, "transcribe" for asr).
        normalizer: of asr and tts; "" is "basic". max_tokens: of an answer; 0 is the suite's own.
        num_steps, guidance_scale: of pictures and sounds that are made, see ``MediaOptions``; 0 is the suite's own,
            of edit the model's.
        batch_size: prompts answered together. seed: of answers, intervals and controls.
    """

    split: str = "test"
    known: tuple[str, ...] = ()
    limit: int = 0
    prompt: str = ""
    normalizer: str = ""
    max_tokens: int = 0
    num_steps: int = 0
    guidance_scale: float = 0.0
    batch_size: int = 32
    seed: int = 0
    num_resamples: int = 2000


@dataclass(frozen=True)
class Scored:
    """A case with what came out, to be shown.

    Args:
        score: higher is better; cases are ranked by it. verdict: the same in words.
        media: of the case. lines: (what, text), such as ("answer", "red").
        labels: what each medium is, where there are several.
    """

    id: str
    score: float
    verdict: str
    media: tuple[Medium, ...]
    lines: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Figures that belong together and are no single results, such as the bins of a calibration."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """Figures, cases, and how they came about."""

    results: list[Result]
    scored: list[Scored]
    about: dict[str, Any]
    tables: list[Table] = field(default_factory=list)


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
    judges: Judges = field(default_factory=Judges)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def ask(self, what: str, prompts: Mapping[str, Sequence[Part]]) -> list[str]:
        """Answers of the model, in order; ``what`` stands beside the bar."""
        options = self.options

        def answer(batch: list[Any]) -> list[str]:
            return self.subject.answer(batch, max_tokens=options.max_tokens, seed=options.seed)

        with self.bar(what, len(prompts)) as step:
            return self.journal.fill(prompts, answer, batch_size=options.batch_size, on_item=step)

    def ask_surely(
        self, what: str, prompts: Mapping[str, Sequence[Part]]
    ) -> tuple[list[str], np.ndarray | None]:
        """Answers with the probabilities that the model gives them; None where it gives none."""
        subject, options = self.subject, self.options
        if not isinstance(subject, Sure):
            return self.ask(what, prompts), None

        def answer(batch: list[Any]) -> list[list[Any]]:
            found = subject.answer_surely(batch, max_tokens=options.max_tokens, seed=options.seed)
            return [[text, probability] for text, probability in found]

        with self.bar(what, len(prompts)) as step:
            pairs = self.journal.fill(prompts, answer, batch_size=options.batch_size, on_item=step)
        return [text for text, _ in pairs], np.array([probability for _, probability in pairs])

    def make(self, what: str, prompts: Mapping[str, Sequence[Part]], output: Output) -> list[Any]:
        """Pictures or sounds of the model, in order, as they are on the disk: 8 and 16 bits.

        Raises:
            ValueError: the subject makes none.
        """
        maker, options = self.subject, self.options
        if not isinstance(maker, Maker):
            raise ValueError(
                f"{self.subject.name} answers in words alone; this suite needs one that draws or speaks"
            )

        how = {"num_steps": options.num_steps, "guidance_scale": options.guidance_scale}
        given = {name: value for name, value in how.items() if value}

        def make(batch: list[Any]) -> list[str]:
            made = maker.make(batch, output, seed=options.seed, **given)
            return [part_to_json(part) for part in made]

        with self.bar(what, len(prompts)) as step:
            written = self.journal.fill(prompts, make, batch_size=options.batch_size, on_item=step)
        return [part_from_json(text) for text in written]

    def judge(
        self, what: str, items: Mapping[str, Any], judge: Callable[[list[Any]], Sequence[Any]]
    ) -> list[Any]:
        """What a judge says of items: JSON values, kept as answers are."""
        with self.bar(what, len(items)) as step:
            return self.journal.fill(items, judge, batch_size=self.options.batch_size, on_item=step)

    def embed(self, items: Mapping[str, Part]) -> np.ndarray:
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
        beside: Mapping[str, float] | None = None,
    ) -> Result:
        """A result from values of every sample, ours and the baselines', as ``bootstrap`` takes them.

        Args:
            beside: baselines of other samples: their values, without a margin.
        """
        drawn: dict[str, Any] = {
            "statistic": statistic,
            "groups": groups,
            "num_resamples": self.options.num_resamples,
            "seed": self.options.seed,
        }
        interval = bootstrap(values, **drawn)
        margins = {name: paired_difference(values, other, **drawn) for name, other in others.items()}
        found = self.figure(
            metric,
            interval.estimate,
            len(values),
            normalizer=normalizer,
            unit=unit,
            higher_is_better=higher_is_better,
        )
        baselines = {name: interval.estimate - margin.estimate for name, margin in margins.items()}
        return replace(found, interval=interval, baselines={**baselines, **(beside or {})}, margins=margins)

    def figure(
        self,
        metric: str,
        value: float,
        n: int,
        *,
        normalizer: str,
        unit: str = "",
        higher_is_better: bool = True,
        baselines: Mapping[str, float] | None = None,
    ) -> Result:
        """A result of a whole set, which has no value of every sample and so no interval."""
        return Result(
            task=self.task,
            metric=metric,
            value=value,
            n=n,
            seed=self.options.seed,
            prompt=self.options.prompt,
            split=self.options.split,
            normalizer=normalizer,
            model=self.subject.name,
            unit=unit,
            higher_is_better=higher_is_better,
            baselines=dict(baselines or {}),
        )
