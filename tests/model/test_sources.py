"""A picture that is edited stands beside the noisy one: seen patch by patch, and copied where the gate says so."""

import dataclasses

import numpy as np
import pytest
import torch

from sensorium.generate.engine import Engine
from sensorium.generate.requests import MediaOptions, Request
from sensorium.generate.sampling import integrate
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, MediaSegment, Segment
from tests.model.small import (
    byte_tokenizer,
    documents,
    medium,
    noise_for,
    pack_documents,
    predictions,
    random_model,
    shape_text,
    small_config,
    text,
    velocity_by_forward,
)

CONFIG = small_config()
A, B = medium("image", (2, 3), 1), medium("image", (2, 3), 2)
DRAWN = medium("image", (2, 3), 3, noisy=True)


def document(*before: Segment) -> Document:
    return Document([*before, text("edit"), shape_text(DRAWN), DRAWN])


@pytest.mark.parametrize(
    ("before", "source"),
    [
        ([A], A),
        ([A, B], B),
        ([B, medium("image", (3, 2), 4), medium("audio", (2, 1), 5)], B),
        ([medium("image", (3, 2), 4)], None),
        ([], None),
    ],
)
def test_the_source_is_the_last_picture_of_the_same_size(
    before: list[Segment], source: MediaSegment | None
) -> None:
    batch = pack_documents([document(*before), Document([A, text("a")])], CONFIG)
    media = batch.targets["image"]
    assert media.sources_NCHW is not None
    assert media.has_source_N is not None
    assert media.has_source_N.tolist() == [source is not None]
    assert np.array_equal(media.sources_NCHW[0].numpy(), 0 * A.array if source is None else source.array)


def test_a_clean_copy_of_what_was_drawn_is_the_source_of_the_next() -> None:
    again = medium("image", (2, 3), 6, noisy=True)
    chain = Document([A, shape_text(DRAWN), DRAWN, text("more"), shape_text(again), again])
    media = pack_documents([chain], CONFIG).targets["image"]
    assert media.sources_NCHW is not None
    assert np.array_equal(media.sources_NCHW.numpy(), np.stack([A.array, DRAWN.array]))


@torch.no_grad()
@pytest.mark.parametrize("open_by", [-40.0, 40.0])
def test_an_open_gate_copies_and_a_closed_one_draws(open_by: float) -> None:
    """In a batch with items of other sizes and without a source."""
    model = random_model(CONFIG)
    head = model.media_heads["image"]
    head.gate.weight.zero_()  # type: ignore[union-attr, operator]
    head.gate.bias.fill_(open_by)  # type: ignore[union-attr, operator]
    chosen = [document(A), *documents(), document(B)]
    batch = pack_documents(chosen, CONFIG)
    noise = noise_for(batch, CONFIG)
    made = predictions(model, model(batch, noise), batch)["image"]
    batch.targets["image"].sources_NCHW = None
    drawn = predictions(model, model(batch, noise), batch)["image"]
    assert len(made) == 4
    for one, without, source in zip(
        made, drawn, [A.array, None, medium("image", (2, 3), 2).array, B.array], strict=True
    ):
        if source is None or open_by < 0:
            assert one.shape == without.shape
        if open_by > 0 and source is not None:
            torch.testing.assert_close(one, torch.from_numpy(source))
        elif source is None:
            torch.testing.assert_close(one, without)


@torch.no_grad()
def test_the_source_is_seen_beside_the_noise() -> None:
    """Another source of the same place changes the noisy tokens; nobody else's does."""
    model = random_model(CONFIG)
    batch, other = (pack_documents([document(source), document(B)], CONFIG) for source in (A, B))
    head, z = model.media_heads["image"], torch.randn(2, 3, 8, 12)
    one, two = (
        head.embed(z, torch.full((2,), 0.5), b.targets["image"]).unflatten(0, (2, 6)) for b in (batch, other)
    )  # type: ignore[operator]
    assert not torch.allclose(one[0], two[0], atol=1e-2)
    assert torch.equal(one[1], two[1])


@torch.no_grad()
@pytest.mark.parametrize("words", [1.0, 3.0])
def test_what_is_edited_in_generation_is_what_training_would_make_of_it(words: float) -> None:
    model, tokenizer = random_model(CONFIG), byte_tokenizer()
    prompt = [A, B, text("edit")]
    options = MediaOptions(num_steps=3, guidance_scale=words, guidance_interval=(0, 1), grid=(2, 3), seed=3)
    without = [A, B]
    request = Request(prompt=prompt, output="image", media=options, without_words=without)
    (answer,) = Engine(model, tokenizer).generate([request])
    full, wordless = (velocity_by_forward(model, [*p, shape_text(DRAWN)], DRAWN) for p in (prompt, without))
    noise = torch.randn(DRAWN.array.shape, generator=torch.Generator().manual_seed(3))
    wanted = integrate(lambda z, t: words * full(z, t) + (1 - words) * wordless(z, t), noise, num_steps=3)
    torch.testing.assert_close(answer.parts[0].array, wanted, atol=1e-4, rtol=1e-3)


def test_every_weight_has_a_gradient_whether_or_not_there_is_a_source() -> None:
    from sensorium.losses import compute_losses

    for chosen in ([document(A)], [document()], [Document([text("a", supervised=True), text("b")])]):
        model = Sensorium(CONFIG)
        batch = pack_documents(chosen, CONFIG)
        losses = compute_losses(model, batch, noise_for(batch, CONFIG))
        sum(loss.sum for loss in losses.values()).backward()
        names = [n for n, p in model.media_heads["image"].named_parameters() if p.grad is None]
        assert not names


def test_a_velocity_cannot_be_copied() -> None:
    with pytest.raises(ValueError, match='only a clean signal can be copied: use target "x"'):
        dataclasses.replace(CONFIG, target="v")
