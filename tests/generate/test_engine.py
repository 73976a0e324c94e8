"""With a cache or without, alone or in a batch: the same answers."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sensorium.generate.engine import Engine, MediaOptions, TextOptions
from sensorium.generate.sampling import integrate, sample_token
from sensorium.model.kv_cache import KVCache
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, EmbSegment, Segment, TextSegment
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
VARIANTS = [
    {},
    {"experts": "ffn", "target": "v"},
    {"stem": "linear", "qk_norm": False, "tie_embeddings": False},
]
CLOSE = {"atol": 5e-5, "rtol": 1e-4}


@pytest.fixture(params=VARIANTS, ids=str, scope="module")
def model(request: pytest.FixtureRequest) -> Sensorium:
    return random_model(small_config(**request.param))


def generate(model: Sensorium, prompts: Sequence[Sequence[Segment]], options: TextOptions) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    for step in Engine(model, TOKENIZER).generate_text(prompts, options):
        for answer, token in zip(answers, step, strict=True):
            if token is not None:
                answer.append(token)
    return answers


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
        model.lm_head.weight[TOKENIZER.eos] *= 2.2
    options = TextOptions(max_tokens=16, temperature=1.0, seed=2)
    expected = [uncached(model, prompt, options) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, PROMPTS, options) == expected


@torch.no_grad()
def test_decode_steps_give_the_hidden_states_of_one_forward(model: Sensorium) -> None:
    engine = Engine(model, TOKENIZER)
    words = [TOKENIZER.encode(w) for w in ("abcdef", "ghijkl", "mnopqr", "stuvwx")]
    state = engine.prefill(PROMPTS, room=6)
    for count in range(7):
        for row, prompt in enumerate(PROMPTS):
            tail = [TextSegment(words[row][:count])] if count else []
            batch = pack_documents([Document([*prompt, *tail])], model.config)
            torch.testing.assert_close(state.hidden_BD[row], model(batch)[0, -1], **CLOSE)
            assert int(state.position_B[row]) == int(batch.end_position_D[0])
        if count < 6:
            state = engine.decode_step(state, torch.tensor([w[count] for w in words]))


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


@pytest.mark.parametrize("modality", ["image", "audio"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_media_with_cache_and_in_batches_equal_the_training_forward(
    model: Sensorium, modality: str, solver: str, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, TOKENIZER)
    prompts, grids = targets(modality)
    blanks: list[list[Segment]] = [[EmbSegment()], [ASSISTANT], [text("no"), EmbSegment()]]
    options = MediaOptions(
        num_steps=3, guidance_scale=guidance, guidance_interval=(0.3, 1.0), solver=solver, seed=5
    )  # type: ignore[arg-type]
    expected = [
        expected_media(model, modality, p, b, g, options)
        for p, b, g in zip(prompts, blanks, grids, strict=True)
    ]
    for n in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "choose_grids", lambda self, m, rows, n=n: [grids[n]])
            alone = engine.generate_media(modality, [prompts[n]], [blanks[n]], options)[0]
        torch.testing.assert_close(alone, expected[n], atol=1e-4, rtol=1e-3)
    monkeypatch.setattr(Engine, "choose_grids", lambda self, m, rows: grids)
    together = engine.generate_media(modality, prompts, blanks, options)
    for given, wanted in zip(together, expected, strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_sizes_are_the_likeliest_next_tokens(model: Sensorium) -> None:
    engine = Engine(model, TOKENIZER)
    prompts = PROMPTS[:3]
    low = TOKENIZER.size_token(1)
    for modality, limits in (("image", (4, 4)), ("audio", (8,))):
        chosen = engine.choose_grids(modality, prompts)
        assert chosen == [engine.choose_grids(modality, [p])[0] for p in prompts]
        for prompt, grid in zip(prompts, chosen, strict=True):
            tokens = [TOKENIZER.open_token(modality)]
            for limit, size in zip(limits, grid, strict=False):
                batch = pack_documents([Document([*prompt, TextSegment(tokens)])], model.config)
                logits = model.logits(model(batch)[0, -1])
                assert size == int(logits[low : low + limit].argmax()) + 1
                tokens.append(TOKENIZER.size_token(size))


def test_a_modality_of_one_row_is_sized_as_the_templates_write_it() -> None:
    import dataclasses

    from sensorium.data.templates import shape_tokens

    config = small_config()
    flat = dataclasses.replace(config.modalities["image"], max_size=(4, 16), refiner=False)
    model = random_model(dataclasses.replace(config, modalities={"image": flat}))
    (grid,) = Engine(model, TOKENIZER).choose_grids("image", [[text("a"), EmbSegment()]])
    assert grid[0] == 1
    assert 1 <= grid[1] <= 4
    written = shape_tokens(TOKENIZER, medium("image", (1, 3), 0))
    assert Engine(model, TOKENIZER)._shape("image", (1, 3)).token_ids == written


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_given_grid_is_kept_and_checked(modality: str) -> None:
    engine = Engine(random_model(small_config()), TOKENIZER)
    prompt: list[list[Segment]] = [[text("x"), EmbSegment()]]
    grid = (2, 3) if modality == "image" else (3, 1)
    (array,) = engine.generate_media(modality, prompt, prompt, MediaOptions(num_steps=1, grid=grid))
    assert array.shape == medium(modality, grid, 0).array.shape
    for wrong in [(0, 1), (9, 1), (1, 5)]:
        with pytest.raises(
            ValueError, match=rf"{modality} of {wrong[0]} x {wrong[1]} patches; this model draws 1 to"
        ):
            engine.generate_media(modality, prompt, prompt, MediaOptions(grid=wrong))


@torch.no_grad()
def test_embed_equals_the_training_forward(model: Sensorium) -> None:
    prompts = [[*p[:-1], EmbSegment("a")] for p in PROMPTS]
    batch = pack_documents([Document(p) for p in prompts], model.config, row_length=120)
    expected = model.latents(model(batch).flatten(0, 1)[batch.emb_D])
    torch.testing.assert_close(Engine(model, TOKENIZER).embed(prompts), expected, **CLOSE)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(4))


def test_a_prompt_over_the_limit_is_an_error() -> None:
    engine = Engine(random_model(small_config(max_position=8)), TOKENIZER)
    with pytest.raises(ValueError, match="the prompt has 10 tokens and the model takes 8; shorten it"):
        engine.prefill([[text("a" * 10)]], room=1)


def test_a_full_cache_is_an_error() -> None:
    engine = Engine(random_model(small_config()), TOKENIZER)
    state = engine.prefill([[text("ab")], [text("a")]], room=1)
    state = engine.decode_step(state, torch.tensor([300, 300]))
    with pytest.raises(ValueError, match="needs 4 positions and the cache holds 3; shorten the prompt"):
        engine.decode_step(state, torch.tensor([300, 300]))


@torch.no_grad()
def test_rows_of_a_cache_can_be_chosen_again() -> None:
    model = random_model(small_config())
    engine = Engine(model, TOKENIZER)
    state = engine.prefill(PROMPTS, room=2)
    rows = torch.tensor([2, 0, 2])
    state.cache, state.hidden_BD, state.position_B = (
        state.cache.select(rows),
        state.hidden_BD[rows],
        state.position_B[rows],
    )
    after = engine.decode_step(state, torch.tensor([300, 301, 302]))
    for n, row in enumerate(rows.tolist()):
        batch = pack_documents([Document([*PROMPTS[row], TextSegment([300 + n])])], model.config)
        torch.testing.assert_close(after.hidden_BD[n], model(batch)[0, -1], **CLOSE)


def test_padding_columns_never_overwrite_tokens() -> None:
    cache = KVCache(1, 2, 6)
    k = torch.arange(8.0).view(2, 1, 4, 1)
    cache.begin(torch.tensor([4, 2]))
    cache.layers[0].put(k, k)
    cache.commit()
    cache.begin(torch.tensor([1, 2]))
    new = torch.tensor([[10.0, -1.0], [20.0, 21.0]]).view(2, 1, 2, 1)
    keys, _ = cache.layers[0].put(new, new)
    cache.commit()
    assert cache.lengths_B.tolist() == [5, 4]
    assert keys[0, 0, :5, 0].tolist() == [0, 1, 2, 3, 10]
    assert keys[1, 0, :4, 0].tolist() == [4, 5, 20, 21]
