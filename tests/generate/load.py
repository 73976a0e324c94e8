"""Requests of every kind for a small random model, and what each gives alone."""

import random
from functools import cache
from typing import Any

import torch

from sensorium.generate.engine import Engine
from sensorium.generate.requests import Answer, Media, MediaOptions, Request, TextOptions
from sensorium.generate.scheduler import EngineConfig
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import EmbSegment, Segment, TextSegment
from tests.model.small import byte_tokenizer, medium, random_model, small_config, text

TOKENIZER = byte_tokenizer()
ASSISTANT = TextSegment([TOKENIZER.assistant])
PROMPTS: list[list[Segment]] = [
    [text("hi"), ASSISTANT],
    [medium("image", (4, 4), 0), text("what is this?"), ASSISTANT],
    [medium("image", (4, 4), 0), text("what is that, and the other one?"), ASSISTANT],
    [medium("audio", (5, 1), 1), EmbSegment()],
    [text("a"), medium("image", (2, 3), 2), text("then"), medium("audio", (2, 1), 3), ASSISTANT],
]


@cache
def model() -> Sensorium:
    # Tied embeddings would make a random model repeat one token for ever.
    return random_model(small_config(tie_embeddings=False))


@cache
def kinds() -> list[Request]:
    """Requests that are short enough to be served in any order within 200 positions."""
    greedy = [TextOptions(max_tokens=n) for n in (1, 4, 9)]
    drawn = [
        TextOptions(max_tokens=7, temperature=1.3, seed=3),
        TextOptions(max_tokens=7, temperature=0.8, top_p=0.9, top_k=20, min_p=0.01, repetition_penalty=1.3, seed=9),
    ]  # fmt: skip
    out = [Request(prompt=p, text=o) for p in PROMPTS for o in (*greedy, *drawn)]
    out += [Request(prompt=PROMPTS[0], text=drawn[0], n=3)]
    for modality, grid, blank in (("image", (2, 3), [EmbSegment()]), ("audio", (3, 1), [ASSISTANT])):
        for guidance, solver, seed in ((1.0, "euler", 0), (3.0, "euler", 1), (2.0, "heun", 2)):
            options = MediaOptions(
                num_steps=3,
                guidance_scale=guidance,
                solver=solver,  # type: ignore[arg-type]
                grid=grid,
                seed=seed,
            )
            prompt = [text("red"), EmbSegment()] if modality == "image" else PROMPTS[1]
            out.append(Request(prompt=prompt, output=modality, media=options, without_words=blank))
    out.append(
        Request(
            prompt=PROMPTS[1],
            output="image",
            media=MediaOptions(num_steps=2, guidance_scale=3, image_guidance_scale=1.5, grid=(2, 2)),
            without_words=[medium("image", (4, 4), 0), ASSISTANT],
            without_media=[ASSISTANT],
        )
    )
    return out


def outcome(answer: Answer) -> tuple[Any, ...]:
    """What of an answer must not depend on its company."""
    arrays = tuple(part.array for part in answer.parts if isinstance(part, Media))
    return answer.finish_reason, answer.token_ids, arrays


def assert_same(given: list[Answer], expected: list[Answer]) -> None:
    for mine, theirs in zip(given, expected, strict=True):
        reason, tokens, arrays = outcome(mine)
        assert (reason, tokens) == outcome(theirs)[:2]
        for a, b in zip(arrays, outcome(theirs)[2], strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@cache
def alone(kind: int) -> list[Answer]:
    """The answers to one request by an engine that has never seen another and shares nothing."""
    config = EngineConfig(prefix_tokens=0, feature_patches=0)
    return Engine(model(), TOKENIZER, config).generate([kinds()[kind]])


def assert_nothing_held(engine: Engine) -> None:
    """Every row is free and every budget kept."""
    assert engine.num_running == engine.num_waiting == 0
    assert engine.cache.lengths == [] == engine.scheduler.rows
    assert engine.cache.num_tokens <= engine.config.cache_tokens
    assert engine.prefixes.num_tokens <= engine.config.prefix_tokens
    assert engine.prefixes.num_tokens == sum(len(keys) for keys, _ in engine.prefixes.entries.values())
    assert engine.features.num_patches <= engine.config.feature_patches


def unfair(engine: Engine, seed: int) -> Engine:
    """Make chance decide between words and media, so that their order does not hang on the machine's speed."""
    rng = random.Random(seed)
    share = rng.random()
    scheduler: Any = engine.scheduler
    scheduler.may_denoise = lambda: rng.random() < share or not scheduler.has_text
    return engine
