"""With a cache or without, alone or in a batch: the same answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sensorium.generate.engine import Engine
from sensorium.generate.requests import Answer, MediaOptions, Request, TextOptions
from sensorium.generate.sampling import integrate, sample_token
from sensorium.generate.scheduler import EngineConfig
from sensorium.generate.sequences import TokenSequence
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment
from tests.model.small import (
    byte_tokenizer,
    medium,
    pack_documents,
    random_model,
    shape_text,
    small_config,
    text,
    velocity_by_forward,
)

TOKENIZER = byte_tokenizer()
ASSISTANT = TextSegment([TOKENIZER.assistant])
PROMPTS: list[list[Segment]] = [
    [text("hi"), ASSISTANT],
    [medium("image", (4, 4), 0), text("what is this?"), ASSISTANT],
    [medium("audio", (5, 1), 1), EmbSegment()],
    [
        text("a"),
        medium("image", (2, 3), 2),
        text("then"),
        medium("audio", (2, 1), 3),
        medium("image", (1, 1), 4),
        ASSISTANT,
    ],
]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"experts": "ffn", "target": "v"},
    {"stem": "linear", "qk_norm": False, "tie_embeddings": False, "copies_source": False},
]
CLOSE = {"atol": 5e-5, "rtol": 1e-4}


@pytest.fixture(params=VARIANTS, ids=str, scope="module")
def model(request: pytest.FixtureRequest) -> Sensorium:
    return random_model(small_config(**request.param))


def generate(model: Sensorium, prompts: Sequence[Sequence[Segment]], options: TextOptions) -> list[list[int]]:
    requests = [Request(prompt=prompt, text=options) for prompt in prompts]
    return [answer.token_ids for answer in Engine(model, TOKENIZER).generate(requests)]


@torch.no_grad()
def uncached(model: Sensorium, prompt: Sequence[Segment], options: TextOptions) -> list[int]:
    """Every token from a whole forward pass of the training path."""
    generator = torch.Generator().manual_seed(options.seed)
    tokens: list[int] = []
    allowed = torch.arange(model.config.vocab_size) > TOKENIZER.size_token(255)
    allowed[TOKENIZER.eos] = True
    for _ in range(options.max_tokens):
        batch = pack_documents(
            [Document([*prompt, *([TextSegment(tokens)] if tokens else [])])], model.config
        )
        logits = model.logits(model(batch)[0, batch.last_D[0]]).masked_fill(~allowed, -torch.inf)
        token = sample_token(
            logits,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            generator=generator,
        )
        if token == TOKENIZER.eos:
            break
        tokens.append(token)
    return tokens


SAMPLED = [
    TextOptions(max_tokens=12),
    *(TextOptions(max_tokens=12, temperature=1.2, top_p=0.9, seed=s) for s in (0, 1)),
]


@pytest.mark.parametrize("options", SAMPLED, ids=["greedy", "seed 0", "seed 1"])
def test_text_with_cache_and_in_batches_equals_text_without(model: Sensorium, options: TextOptions) -> None:
    expected = [uncached(model, prompt, options) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) > 1
    assert generate(model, PROMPTS, options) == expected
    assert [generate(model, [prompt], options)[0] for prompt in PROMPTS] == expected


def test_seeds_matter_and_repeat() -> None:
    model = random_model(small_config())
    answers = [
        generate(model, PROMPTS, TextOptions(max_tokens=8, temperature=1.5, seed=s)) for s in (0, 1, 0)
    ]
    assert answers[0] == answers[2] != answers[1]


def test_rows_that_end_early_do_not_disturb_the_others() -> None:
    model = random_model(small_config(tie_embeddings=False))
    assert model.lm_head is not None
    with torch.no_grad():  # the end comes after some tokens in some rows
        model.lm_head.weight[TOKENIZER.eos] *= 3
    options = TextOptions(max_tokens=16, temperature=1.0, seed=4)
    expected = [uncached(model, prompt, options) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, PROMPTS, options) == expected


@pytest.mark.parametrize("limit", [1, 3, 7, 64])
@torch.no_grad()
def test_reading_in_any_chunks_gives_the_hidden_states_of_one_forward(model: Sensorium, limit: int) -> None:
    engine = Engine(model, TOKENIZER)
    sequences = [TokenSequence(TOKENIZER, prompt) for prompt in PROMPTS]
    for sequence in sequences:
        sequence.row = engine.cache.add_row()
    words = [TOKENIZER.encode(w) for w in ("abcdef", "ghijkl", "mnopqr", "stuvwx")]
    while unread := [s for s in sequences if s.num_unread]:
        engine.reader.read([(s, s.next_chunk(limit)) for s in unread])
    for count in range(7):
        for row, prompt in enumerate(PROMPTS):
            tail = [TextSegment(words[row][:count])] if count else []
            batch = pack_documents([Document([*prompt, *tail])], model.config)
            torch.testing.assert_close(sequences[row].hidden_D, model(batch)[0, -1], **CLOSE)
            assert sequences[row].position == int(batch.end_position_D[0])
        if count < 6:
            for sequence, word in zip(sequences, words, strict=True):
                sequence.append_token(word[count])
            engine.reader.read([(s, 1) for s in sequences])


def targets(modality: str) -> tuple[list[list[Segment]], list[tuple[int, int]]]:
    prompts: list[list[Segment]] = [[text("red"), EmbSegment()], PROMPTS[1], PROMPTS[2]]
    grids = [(4, 4), (2, 3), (3, 1)] if modality == "image" else [(8, 1), (2, 1), (5, 1)]
    return prompts, grids


@torch.no_grad()
def expected_media(
    model: Sensorium,
    modality: str,
    prompt: list[Segment],
    blank: list[Segment],
    grid: tuple[int, int],
    options: MediaOptions,
) -> Tensor:
    """By the training forward pass on whole documents, one medium at a time."""
    like = medium(modality, grid, 0)
    opened = shape_text(like)
    with_text = velocity_by_forward(model, [*prompt, opened], like)
    without = velocity_by_forward(model, [*blank, opened], like)

    def slope(z: Tensor, t: float) -> Tensor:
        low, high = options.guidance_interval
        scale = options.guidance_scale if low <= t <= high else 1.0
        return with_text(z, t) if scale == 1 else without(z, t) + scale * (with_text(z, t) - without(z, t))

    noise = torch.randn(like.array.shape, generator=torch.Generator().manual_seed(options.seed))
    z = model.config.modalities[modality].noise_scale * noise
    return integrate(slope, z, num_steps=options.num_steps, solver=options.solver)


def draw(
    model: Sensorium,
    modality: str,
    rows: Sequence[tuple[list[Segment], list[Segment], tuple[int, int] | None]],
    options: MediaOptions,
) -> list[Answer]:
    requests = [
        Request(
            prompt=prompt,
            output=modality,
            without_words=blank,
            media=dataclasses.replace(options, grid=grid),
        )
        for prompt, blank, grid in rows
    ]
    return Engine(model, TOKENIZER).generate(requests)


@pytest.mark.parametrize("modality", ["image", "audio"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_media_with_cache_and_in_batches_equal_the_training_forward(
    model: Sensorium, modality: str, solver: Any, guidance: float
) -> None:
    prompts, grids = targets(modality)
    blanks: list[list[Segment]] = [[EmbSegment()], [ASSISTANT], [text("no"), EmbSegment()]]
    options = MediaOptions(
        num_steps=3, guidance_scale=guidance, guidance_interval=(0.3, 1.0), solver=solver, seed=5
    )
    rows = list(zip(prompts, blanks, grids, strict=True))
    expected = [expected_media(model, modality, *row, options) for row in rows]
    for row, wanted in zip(rows, expected, strict=True):
        (alone,) = draw(model, modality, [row], options)
        torch.testing.assert_close(alone.parts[0].array, wanted, atol=1e-4, rtol=1e-3)
    for answer, wanted in zip(draw(model, modality, rows, options), expected, strict=True):
        torch.testing.assert_close(answer.parts[0].array, wanted, atol=1e-4, rtol=1e-3)
        assert answer.finish_reason == "stop"


@torch.no_grad()
def test_sizes_are_the_likeliest_next_tokens(model: Sensorium) -> None:
    low = TOKENIZER.size_token(1)
    for modality, limits in (("image", (4, 4)), ("audio", (8,))):
        answers = draw(model, modality, [(p, p, None) for p in PROMPTS[:3]], MediaOptions(num_steps=1))
        patch = model.config.modalities[modality].patch
        for prompt, answer in zip(PROMPTS[:3], answers, strict=True):
            shape = answer.parts[0].array.shape
            tokens = [TOKENIZER.open_token(modality)]
            for limit, size in zip(limits, (shape[1] // patch[0], shape[2] // patch[1]), strict=False):
                batch = pack_documents([Document([*prompt, TextSegment(tokens)])], model.config)
                logits = model.logits(model(batch)[0, -1])
                assert size == int(logits[low : low + limit].argmax()) + 1
                tokens.append(TOKENIZER.size_token(size))


def test_a_modality_of_one_row_is_sized_as_the_templates_write_it() -> None:
    from sensorium.data.templates import shape_tokens

    config = small_config()
    flat = dataclasses.replace(config.modalities["image"], max_size=(4, 16), refiner=False)
    model = random_model(dataclasses.replace(config, modalities={"image": flat}))
    engine = Engine(model, TOKENIZER, EngineConfig(prefix_tokens=1000))
    options = MediaOptions(num_steps=1, grid=(1, 3), guidance_scale=1)
    (answer,) = engine.generate([Request(prompt=[text("a"), EmbSegment()], output="image", media=options)])
    assert answer.parts[0].array.shape == (3, 4, 12)
    read = next(iter(engine.prefixes.entries.values()))[0].tolist()
    assert read[2:] == shape_tokens(TOKENIZER, medium("image", (1, 3), 0))


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_given_grid_is_kept_and_checked(modality: str) -> None:
    model = random_model(small_config())
    prompt: list[Segment] = [text("x"), EmbSegment()]
    grid = (2, 3) if modality == "image" else (3, 1)
    (answer,) = draw(model, modality, [(prompt, prompt, grid)], MediaOptions(num_steps=1))
    assert answer.parts[0].array.shape == medium(modality, grid, 0).array.shape
    for wrong in [(0, 1), (9, 1), (1, 5)]:
        with pytest.raises(
            ValueError, match=rf"{modality} of .*{wrong[0]}.* patches.*; this model (draws|makes)"
        ):
            draw(model, modality, [(prompt, prompt, wrong)], MediaOptions())


@torch.no_grad()
def test_embed_equals_the_training_forward(model: Sensorium) -> None:
    prompts = [[*p[:-1], EmbSegment("a")] for p in PROMPTS]
    batch = pack_documents([Document(p) for p in prompts], model.config, row_length=120)
    expected = model.latents(model(batch).flatten(0, 1)[batch.emb_D])
    torch.testing.assert_close(Engine(model, TOKENIZER).embed(prompts), expected, **CLOSE)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(4))


def test_what_can_never_be_served_is_refused_at_once() -> None:
    engine = Engine(random_model(small_config(max_position=8)), TOKENIZER)
    with pytest.raises(ValueError, match="the prompt has 10 tokens and the model takes 8; shorten it"):
        engine.submit(Request(prompt=[text("a" * 10)]))
    with pytest.raises(ValueError, match="the prompt has 10 tokens and the model takes 8; shorten it"):
        engine.embed([[text("a" * 9), EmbSegment()]])
    engine = Engine(random_model(small_config()), TOKENIZER, EngineConfig(cache_tokens=50))
    with pytest.raises(ValueError, match="may need 1 x 67 positions and the cache holds 50; shorten"):
        engine.submit(Request(prompt=[text("abc")]))
    with pytest.raises(ValueError, match="no modality 'depth'; remove the medium"):
        engine.submit(Request(prompt=[MediaSegment("depth", medium("image", (1, 1), 0).array, (1, 1))]))
    with pytest.raises(ValueError, match="output 'video' is unknown to this model; it gives text"):
        engine.submit(Request(prompt=[text("a")], output="video"))
    assert engine.num_waiting == engine.num_running == 0
    with pytest.raises(ValueError, match="media_share is 1; expected between 0 and 1"):
        EngineConfig(media_share=1)
    with pytest.raises(ValueError, match="are at least 1"):
        EngineConfig(prefill_tokens=0)


@pytest.mark.parametrize("limits", [{"max_position": 24}, {"cache_tokens": 100}])
def test_a_negative_prompt_too_long_is_refused_and_others_are_served(limits: dict[str, int]) -> None:
    model = random_model(small_config(max_position=limits.get("max_position", 512)))
    engine = Engine(model, TOKENIZER, EngineConfig(cache_tokens=limits.get("cache_tokens", 1000)))
    good = engine.submit(Request(prompt=[text("a"), ASSISTANT], text=TextOptions(max_tokens=3)))
    bad = Request(
        prompt=[text("a"), EmbSegment()],
        output="image",
        media=MediaOptions(num_steps=1, grid=(1, 1)),
        without_words=[text("n" * 60), EmbSegment()],
    )
    with pytest.raises(ValueError, match="shorten"):
        engine.submit(bad)
    assert len(good.result().token_ids) == 3
    assert engine.num_waiting == engine.num_running == 0


def test_a_prompt_that_fills_the_cache_is_an_error_and_no_hang() -> None:
    engine = Engine(
        random_model(small_config(max_position=40)), TOKENIZER, EngineConfig(cache_tokens=40, prefix_tokens=0)
    )
    handle = engine.submit(Request(prompt=[text("a" * 39), ASSISTANT]))
    for _ in range(20):
        if handle.is_done:
            break
        engine.step()
    assert handle.is_done
    assert handle.answers[0].finish_reason in ("error", "length")
    assert (
        len(engine.submit(Request(prompt=[text("a")], text=TextOptions(max_tokens=2))).result().token_ids)
        == 2
    )


def test_a_refused_request_leaves_nothing_waiting() -> None:
    engine = Engine(random_model(small_config(max_position=12)), TOKENIZER)
    with pytest.raises(ValueError, match="shorten it"):
        engine.generate([Request(prompt=[text("ab")]), Request(prompt=[text("a" * 20)])])
    engine.step()
    assert engine.num_waiting == engine.num_running == 0


def test_logprobs_of_an_interleaved_answer_are_those_of_its_tokens() -> None:
    model = random_model(small_config(tie_embeddings=False))
    assert model.lm_head is not None
    with torch.no_grad():
        model.lm_head.weight[TOKENIZER.open_token("image")] *= 4
    options = TextOptions(max_tokens=60, temperature=1.3, seed=1, logprobs=0)
    asked = Request(prompt=PROMPTS[0], output="interleaved", text=options, media=MediaOptions(num_steps=1))
    (answer,) = Engine(model, TOKENIZER).generate([asked])
    assert any(not isinstance(part, str) for part in answer.parts)
    assert answer.token_ids
    assert [told.token_id for told in answer.logprobs] == answer.token_ids


def test_an_answer_ends_where_the_model_has_no_more_positions() -> None:
    model = random_model(small_config(max_position=12))
    (answer,) = Engine(model, TOKENIZER).generate([Request(prompt=[text("abcd"), ASSISTANT])])
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 7)
    assert answer.token_ids == uncached(model, [text("abcd"), ASSISTANT], TextOptions(max_tokens=7))
