"""A picture that is edited stands beside the noisy one: seen patch by patch, and copied where the gate says so."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sensorium.config import DataConfig, RunConfig, TrainConfig
from sensorium.generate.engine import Engine
from sensorium.generate.requests import MediaOptions, Request
from sensorium.generate.sampling import integrate
from sensorium.model.sensorium import Sensorium
from sensorium.pretrained import load_model, save_model
from sensorium.sequence.document import Document, MediaSegment, Segment
from sensorium.sequence.packing import map_arrays
from tests.model.small import (
    byte_tokenizer,
    documents,
    medium,
    noise_for,
    pack_documents,
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


def copying_model() -> Sensorium:
    """Everything is copied, in its own colours."""
    model = random_model(CONFIG)
    head = model.media_heads["image"]
    torch.nn.init.constant_(head.gate.bias, 100.0)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(head.tint.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(head.tint.bias)  # type: ignore[union-attr, arg-type]
    return model


@pytest.mark.parametrize(
    ("before", "source"),
    [
        ([A], A),
        ([A, B], B),
        ([B, medium("image", (3, 2), 4), medium("audio", (2, 1), 5)], B),
        ([medium("image", (3, 2), 4)], None),
        ([A, dataclasses.replace(B, is_frame=True)], A),
        ([dataclasses.replace(B, is_frame=True)], None),
        ([], None),
    ],
)
def test_the_source_is_the_last_picture_of_the_same_size(
    before: list[Segment], source: MediaSegment | None
) -> None:
    batch = pack_documents([document(*before), Document([A, text("a")])], CONFIG)
    media = batch.targets["image"]
    assert media.sources is not None
    assert media.sources.is_there_N.tolist() == [source is not None]
    assert np.array_equal(
        media.sources.arrays_NCHW[0].numpy(), 0 * A.array if source is None else source.array
    )


def test_a_clean_copy_of_what_was_drawn_is_the_source_of_the_next() -> None:
    again = medium("image", (2, 3), 6, noisy=True)
    chain = Document([A, shape_text(DRAWN), DRAWN, text("more"), shape_text(again), again])
    media = pack_documents([chain], CONFIG).targets["image"]
    assert media.sources is not None
    assert np.array_equal(media.sources.arrays_NCHW.numpy(), np.stack([A.array, DRAWN.array]))


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
def test_each_pixel_is_drawn_or_copied_by_its_gate_in_the_colours_of_its_patch(*, half: bool) -> None:
    """In a batch with items of other sizes and without a source."""
    model = random_model(CONFIG)
    chosen = [document(A), *documents(), document(B)]
    batch = pack_documents(chosen, CONFIG)
    media, head = batch.targets["image"], model.media_heads["image"]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        hidden_PD = model(batch, noise_for(batch, CONFIG)).flatten(0, 1)[media.token_index_P]
        made = head(hidden_PD, media)
        drawn = head(hidden_PD, dataclasses.replace(media, sources=None))
        logits = head.gate(hidden_PD).split(media.num_patches_N.tolist())  # type: ignore[operator, union-attr]
        tints = head.tint(hidden_PD).split(media.num_patches_N.tolist())  # type: ignore[operator, union-attr]
    sources = [A.array, None, documents()[4].segments[1].array, B.array]  # type: ignore[union-attr]
    assert len(made) == 4
    for n, (source, (rows, cols)) in enumerate(zip(sources, media.grids_N2.tolist(), strict=True)):
        own = (n, slice(None), slice(4 * rows), slice(4 * cols))
        if source is None:
            torch.testing.assert_close(made[own], drawn[own].float(), check_dtype=False)
            continue
        gate = (
            logits[n].float().sigmoid().view(rows, cols, 4, 4).transpose(1, 2).reshape(1, 4 * rows, 4 * cols)
        )
        assert gate.std() > 0.1
        tint_34HW = tints[n].float().view(rows, cols, 3, 4).permute(2, 3, 0, 1)
        tint_34HW = tint_34HW.repeat_interleave(4, 2).repeat_interleave(4, 3)
        with_one = torch.from_numpy(np.concatenate([source, np.ones_like(source[:1])]))
        copied = torch.from_numpy(source) + torch.einsum("abhw,bhw->ahw", tint_34HW, with_one)
        torch.testing.assert_close(
            made[own], (1 - gate) * drawn[own].float() + gate * copied, atol=1e-4, rtol=1e-4
        )
        assert not made[n, :, 4 * rows :].any()
        assert not made[n, :, :, 4 * cols :].any()


def test_an_open_gate_can_close_again_in_half_precision() -> None:
    model = random_model(CONFIG)
    batch = pack_documents([document(A)], CONFIG)
    media, head = batch.targets["image"], model.media_heads["image"]
    torch.nn.init.constant_(head.gate.bias, 8.0)  # type: ignore[union-attr, arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        head(torch.zeros(6, CONFIG.dim), media).square().sum().backward()
    assert (head.gate.bias.grad != 0).all()  # type: ignore[union-attr]


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


@torch.no_grad()
def test_drawings_in_company_are_what_they_are_alone() -> None:
    """With a source and without one, guided, and one that names a picture that is not the last."""
    model, tokenizer = random_model(CONFIG), byte_tokenizer()
    plain = MediaOptions(num_steps=2, guidance_scale=1.0, grid=(2, 3), seed=3)
    guided = MediaOptions(num_steps=2, guidance_scale=2.0, guidance_interval=(0, 1), image_guidance_scale=1.5, grid=(2, 3), seed=4)  # fmt: skip
    requests = [
        Request(prompt=[A, text("edit")], output="image", media=plain),
        Request(prompt=[text("draw")], output="image", media=plain),
        Request(
            prompt=[A, text("x")], output="image", media=guided, without_words=[A], without_media=[text("x")]
        ),
        Request(prompt=[A, B, text("x")], output="image", media=plain, source=torch.from_numpy(A.array)),
    ]
    together = Engine(model, tokenizer).generate(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = Engine(model, tokenizer).generate([request])
        torch.testing.assert_close(answer.parts[0].array, alone.parts[0].array, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_what_is_copied_is_the_picture_that_the_user_names() -> None:
    model, tokenizer = copying_model(), byte_tokenizer()
    options = MediaOptions(num_steps=2, guidance_scale=1.0, grid=(2, 3), seed=3, strength=0.9)
    for source, wanted in ((None, B), (torch.from_numpy(A.array), A)):
        request = Request(prompt=[A, B, text("x")], output="image", media=options, source=source)
        (answer,) = Engine(model, tokenizer).generate([request])
        torch.testing.assert_close(
            answer.parts[0].array, torch.from_numpy(wanted.array), atol=1e-3, rtol=1e-3
        )


@torch.no_grad()
def test_a_picture_to_move_away_from_is_not_copied() -> None:
    model = copying_model()
    options = MediaOptions(
        num_steps=2, guidance_scale=3.0, guidance_interval=(0, 1), grid=(2, 3), seed=3, strength=1.0
    )
    request = Request(prompt=[A, text("x")], output="image", media=options, without_words=[A, B])
    (answer,) = Engine(model, byte_tokenizer()).generate([request])
    torch.testing.assert_close(answer.parts[0].array, torch.from_numpy(A.array), atol=1e-3, rtol=1e-3)


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


@pytest.mark.parametrize("item", [0, 1])
def test_nothing_but_its_own_item_depends_on_a_source(item: int) -> None:
    model = random_model(CONFIG)
    batch = pack_documents([document(A), document(B), Document([B, text("b", supervised=True)])], CONFIG)
    media = batch.targets["image"]
    assert media.sources is not None
    media.sources.arrays_NCHW.requires_grad_()
    hidden_BTD = model(batch, noise_for(batch, CONFIG))
    made = model.predict("image", hidden_BTD.flatten(0, 1)[media.token_index_P], media)
    (of_item,) = torch.autograd.grad(made[item].sum(), media.sources.arrays_NCHW, retain_graph=True)
    assert [bool(part.any()) for part in of_item] == [n == item for n in range(2)]
    words = (batch.block_id_BT < 0) & (batch.doc_id_BT >= 0)
    (of_words,) = torch.autograd.grad(hidden_BTD[words].sum(), media.sources.arrays_NCHW)
    assert not of_words.any()


def test_a_batch_and_its_noise_move_together() -> None:
    """As a training step moves them to its device."""
    batch = pack_documents([document(A)], CONFIG)
    moved, noise = map_arrays((batch, noise_for(batch, CONFIG)), lambda t: t.to("meta"), torch.Tensor)
    assert moved.targets["image"].sources.arrays_NCHW.is_meta
    assert moved.token_ids_BT.is_meta
    assert noise["image"].e_NCHW.is_meta


def test_a_model_from_before_copies_in_the_colours_of_its_source(tmp_path: Path) -> None:
    model = copying_model()
    config = RunConfig(
        name="old", tokenizer="bytes", model=CONFIG, data=DataConfig(sources=()), train=TrainConfig()
    )
    old = {name: tensor for name, tensor in model.state_dict().items() if ".tint." not in name}
    save_model(tmp_path, old, config, byte_tokenizer())
    again, *_ = load_model(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    del old["media_heads.image.gate.bias"]
    save_model(tmp_path, old, config, byte_tokenizer())
    with pytest.raises(ValueError, match=r"lacks the tensor 'media_heads.image.gate.bias';"):
        load_model(tmp_path)
