"""``sensorium info`` counts what PyTorch counts."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sensorium import recipes
from sensorium.commands.architecture import describe, modules
from sensorium.losses import text_loss
from sensorium.model.flops import StepFlops, build, flops_per_token
from sensorium.model.flow import draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, MediaSegment, TextSegment
from sensorium.sequence.packing import MediaBatch, pack, stack_sources
from sensorium.sequence.tokenizer import Tokenizer

CONTEXT = 48


@pytest.fixture(scope="module", params=["nano", "starter"])
def model(request: pytest.FixtureRequest) -> Sensorium:
    return Sensorium(recipes.get(request.param).model)


@pytest.fixture(scope="module")
def flops(model: Sensorium) -> dict[str, float]:
    return flops_per_token(build(model.config), CONTEXT)


def count(work: object) -> int:
    # The counter knows the matrix products of the plain attention only.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        work()  # type: ignore[operator]
    return counter.get_total_flops()


def media(model: Sensorium, name: str) -> MediaBatch:
    config = model.config.modalities[name]
    num_tokens = config.max_grid[0] * config.max_grid[1]
    arrays = torch.zeros(1, config.channels, *config.max_size)
    sources = stack_sources([arrays[0]], arrays) if config.copies_source else None
    return MediaBatch(arrays, torch.tensor([config.max_grid]), torch.arange(num_tokens), sources=sources)


def trunk(model: Sensorium, flops: dict[str, float]) -> float:
    return flops["text"] - 2 * model.config.vocab_size * model.config.dim


def test_text(model: Sensorium, flops: dict[str, float]) -> None:
    tokenizer = Tokenizer.load(recipes.get("nano").tokenizer)
    document = Document([TextSegment(list(range(300, 300 + CONTEXT)))])
    batch = pack([document], tokenizer, model.config, row_length=CONTEXT)
    assert count(lambda: model.logits(model(batch))) == CONTEXT * flops["text"]


@pytest.mark.parametrize("name", ["image", "audio"])
def test_media_that_are_seen(model: Sensorium, flops: dict[str, float], name: str) -> None:
    batch = media(model, name)
    mine = (flops[f"{name}, seen"] - trunk(model, flops)) * len(batch.token_index_P)
    assert count(lambda: model.encoders[name](batch)) == pytest.approx(mine, rel=1e-9)


@pytest.mark.parametrize("name", ["image", "audio"])
def test_media_that_are_generated(model: Sensorium, flops: dict[str, float], name: str) -> None:
    batch, head = media(model, name), model.media_heads[name]
    num_tokens = len(batch.token_index_P)
    mine = (flops[f"{name}, generated (each step)"] - trunk(model, flops)) * num_tokens

    def work() -> None:
        head.embed(batch.arrays_NCHW, torch.zeros(1), batch)  # type: ignore[operator]
        head(torch.zeros(num_tokens, model.config.dim), batch)

    assert count(work) == pytest.approx(mine, rel=1e-9)


def test_experts_cost_memory_and_no_operations() -> None:
    import dataclasses

    plain = recipes.get("nano").model
    flops = flops_per_token(build(plain), CONTEXT)
    expert = build(dataclasses.replace(plain, experts="ffn"))
    assert flops_per_token(expert, CONTEXT) == flops
    assert sum(p.numel() for p in expert.parameters()) > sum(p.numel() for p in build(plain).parameters())


def test_every_parameter_is_in_one_row(model: Sensorium) -> None:
    assert sum(row["parameters"] for row in modules(model)) == sum(p.numel() for p in model.parameters())
    assert "layers.0" in [row["name"] for row in modules(model) if row["repeats"] == 4]
    assert [row["name"] for row in modules(model) if row["name"].startswith("spellers")] == [
        f"spellers.{name}" for name in model.spellers
    ]


@pytest.mark.parametrize("name", sorted({*recipes.RECIPES, *recipes.EMBEDDED}))
def test_every_recipe_can_be_described(name: str) -> None:
    facts = describe(recipes.get(name))
    assert facts["parameters"] > 0
    assert all(value > 0 for value in facts["flops"]["per_token"].values())


def test_a_step_costs_what_pytorch_counts(model: Sensorium) -> None:
    """One document a row, without padding, so that what the dense attention computes is what is asked for."""
    config = model.config
    tokenizer = Tokenizer.load(recipes.get("nano").tokenizer)
    picture, words = np.zeros((3, 32, 32), np.float32), TextSegment(list(range(300, 300 + CONTEXT - 16)))
    documents = [
        Document([MediaSegment("image", picture, (4, 4)), words]),
        Document([words, MediaSegment("image", picture, (4, 4), noisy=True)]),
    ]
    batch = pack(documents, tokenizer, config, row_length=CONTEXT)
    noise = draw_noise(batch, config, torch.Generator().manual_seed(0))
    step = StepFlops(config)(batch)

    def work() -> None:
        hidden = model(batch, noise)
        text_loss(model, hidden, batch)
        drawn = batch.targets["image"]
        model.predict("image", hidden.flatten(0, 1)[drawn.token_index_P], drawn)

    assert 3 * count(work) == pytest.approx(step, rel=1e-3)
