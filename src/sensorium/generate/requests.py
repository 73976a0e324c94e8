"""What is asked of the engine and what it answers: options, requests, events, answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from numbers import Integral
from typing import Any, Literal

from torch import Tensor

from sensorium.sequence.document import Segment

FinishReason = Literal["stop", "length", "cancelled", "error"]
# What a user's array becomes outside the engine's thread: (modality, array [C, H, W]) -> part.
ToPart = Callable[[str, Tensor], Any]


@dataclass(frozen=True)
class TextOptions:
    """How text is sampled.

    Args:
        max_tokens: the longest answer.
        temperature: 0 takes the likeliest token, 1 draws as the model believes.
        top_p: draw from the fewest likeliest tokens that hold this share. top_k: from so many; 0 means all.
        min_p: from those at least this share as likely as the likeliest.
        repetition_penalty: divides the logits of tokens that were read or said (arXiv 1909.05858); 1 is none.
        stop: strings that end the answer, which ends before them.
        stop_tokens: ids that end the answer beside <eos>, allowed though they may be control tokens (<wait>).
        logprobs: so many likeliest alternatives are told with each token; None tells nothing, 0 the token's own.
        choices: the answer is one of these. regex: it matches this expression as a whole. json_schema: it is JSON
            of this schema, given as JSON. At most one of the three; they need the extra ``constrain``.
        spelling: weight from 0 to 1 of what the encoder has spelled of a sound, in answers to a sound and the word
            "transcribe" by a model that learned to spell (see ``generate.spelling``); 0 asks the trunk alone.
        num_beams: beginnings of such a transcript that are followed side by side; 1, and any sampling, constraint or
            log-probabilities, take one token after another.
        seed: makes a request repeatable, alone or in a batch, whenever it arrives.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    choices: tuple[str, ...] = ()
    regex: str = ""
    json_schema: str = ""
    spelling: float = 0.4
    num_beams: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or isinstance(self.choices, str):
            raise ValueError("stop and choices take a list of strings; wrap the string in a list")
        for name, good, expected in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more, finite"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 20, "from 0 to 20"),
            ("stop", all(self.stop), "no empty string"),
            ("spelling", 0 <= self.spelling <= 1, "from 0 to 1"),
            ("num_beams", 1 <= self.num_beams <= 64, "from 1 to 64"),
            ("seed", _is_seed(self.seed), "an integer of 64 bits"),
        ):
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}")
        if sum(map(bool, (self.choices, self.regex, self.json_schema))) > 1:
            raise ValueError("choices, regex and json_schema exclude each other; give one of them")


@dataclass(frozen=True)
class MediaOptions:
    """How media are sampled.

    Args:
        num_steps: of the solver from noise to signal. solver: "euler", or "heun" (twice the work a step).
        guidance_scale: how strongly the words pull; 1 is the plain conditional model.
        image_guidance_scale: how strongly the media of the prompt pull, for editing (arXiv 2211.09800).
        guidance_interval: noise levels (0 noise, 1 signal) in which guidance acts (arXiv 2404.07724).
        grid: patches along height and width; None lets the model choose by its size tokens.
        strength: with a source picture: the share of the way to noise that it is taken before it is drawn anew.
        preview_every: steps between partial previews; 0 sends none.
        seed: makes a request repeatable.
    """

    num_steps: int = 30
    guidance_scale: float = 2.5
    image_guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.1, 1.0)
    solver: Literal["euler", "heun"] = "euler"
    grid: tuple[int, int] | None = None
    strength: float = 1.0
    preview_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        for name, good, expected in (
            ("num_steps", 1 <= self.num_steps <= 10_000, "1 to 10000"),
            (
                "grid",
                self.grid is None or _is_grid(self.grid),
                "two integers: patches along height and width",
            ),
            ("seed", _is_seed(self.seed), "an integer of 64 bits"),
            ("strength", 0.001 <= self.strength <= 1, "from 0.001 to 1"),
            ("preview_every", self.preview_every >= 0, "0 or more"),
            ("solver", self.solver in ("euler", "heun"), "euler or heun"),
            ("guidance_scale", math.isfinite(self.guidance_scale), "a finite number"),
            ("image_guidance_scale", math.isfinite(self.image_guidance_scale), "a finite number"),
            ("guidance_interval", 0 <= low <= high <= 1, "two noise levels, rising, from 0 to 1"),
        ):
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}")


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, Integral) and -(2**63) <= int(seed) < 2**63


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, tuple | list) and len(grid) == 2 and all(isinstance(n, Integral) for n in grid)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and what is wanted.

    Args:
        prompt: segments up to where the answer begins.
        output: "text", a modality, or "interleaved" (text in which the model may open media).
        n: answers; answer i is that of the same request with seeds i higher.
        without_words: the prompt that guidance moves away from; its media stay (None: no guidance by words).
        without_media: the prompt without its media, for ``image_guidance_scale``.
        source: array ``[C, H, W]`` that ``media.strength`` and ``mask`` start from.
        mask: bool ``[H, W]``, True where ``source`` is to be drawn anew.
        to_part: makes what a user gets of an array; called by whoever reads the answer, not by the engine.
    """

    prompt: Sequence[Segment]
    output: str = "text"
    text: TextOptions = field(default_factory=TextOptions)
    media: MediaOptions = field(default_factory=MediaOptions)
    n: int = 1
    without_words: Sequence[Segment] | None = None
    without_media: Sequence[Segment] | None = None
    source: Tensor | None = None
    mask: Tensor | None = None
    to_part: ToPart = lambda modality, array: array


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of a token under the model, before temperature and truncation.

    Args:
        top: the likeliest tokens with theirs, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to answer ``index`` of a request."""

    index: int


@dataclass(frozen=True, kw_only=True)
class Text(Event):
    """A piece of text with the tokens since the last piece (text is held back until it is settled)."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Media(Event):
    """A medium, or a preview of one: the model's estimate of the clean signal at a share ``progress`` of its steps."""

    modality: str
    array: Tensor
    progress: float
    to_part: ToPart

    @property
    def is_preview(self) -> bool:
        """Whether more is to come."""
        return self.progress < 1

    @cached_property
    def part(self) -> Any:
        """What the user gets."""
        return self.to_part(self.modality, self.array)


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The last event of an answer. ``stop_token`` is the token that ended it, if one did; with its log-probability
    where those were asked for."""

    reason: FinishReason
    stop_token: int | None = None
    stop_logprob: float | None = None
    error: BaseException | None = None


@dataclass
class Answer:
    """All of one answer.

    Args:
        parts: text and media in the order they came.
        num_prompt_tokens: positions of the prompt; ``num_cached_tokens`` of them were not computed anew.
        queued_s, first_s, total_s: seconds from submission to the start, the first event and the end.
    """

    index: int
    parts: list[Any] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    stop_logprob: float | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    queued_s: float = 0.0
    first_s: float = 0.0
    total_s: float = 0.0

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(part for part in self.parts if isinstance(part, str))

    def add(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Text):
            self.token_ids += event.token_ids
            self.logprobs += event.logprobs
            if event.text and self.parts and isinstance(self.parts[-1], str):
                self.parts[-1] += event.text
            elif event.text:
                self.parts.append(event.text)
        elif isinstance(event, Media) and not event.is_preview:
            self.parts.append(event)
        elif isinstance(event, Finished):
            self.finish_reason, self.stop_token = event.reason, event.stop_token
            self.stop_logprob = event.stop_logprob


def check_known(options: Mapping[str, Any], *classes: type, more: Sequence[str] = ()) -> None:
    """Raise ValueError for an option that is no field of these classes, listing those that are."""
    known = [*(field.name for cls in classes for field in fields(cls)), *more]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known here are {', '.join(dict.fromkeys(known))}")
