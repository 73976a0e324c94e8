"""Pictures: sizes, guidance, previews, variations, edits and what they leave alone."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.config import DataConfig, RunConfig, TrainConfig
from sensorium.generate.denoising import Drawing
from sensorium.generate.interface import Model
from sensorium.generate.pictures import EDITING, keep_source
from sensorium.generate.requests import Media, MediaOptions
from sensorium.generate.sequences import TokenSequence
from sensorium.media.image import resize_image
from sensorium.media.parts import Audio, Image
from tests.model.small import byte_tokenizer, random_model, small_config

TOKENIZER = byte_tokenizer()
CONFIG = RunConfig(
    name="small",
    tokenizer="bytes",
    model=small_config(bands=100),
    data=DataConfig(sources=()),
    train=TrainConfig(),
)
MODEL = Model(random_model(CONFIG.model), TOKENIZER, CONFIG)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@settings(max_examples=12)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(0, 99), st.sampled_from([1.0, 0.5]))
def test_a_masked_edit_leaves_every_pixel_outside_as_it_was(
    height: int, width: int, seed: int, strength: float
) -> None:
    pixels = picture(height, width, seed)
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    mask[height // 2, width // 2] = True
    prompt: list[Any] = [Image(pixels), "make it blue"]
    made = MODEL.generate(prompt, "image", mask=mask, num_steps=2, strength=strength).pixels()
    assert made.shape == pixels.shape
    assert np.array_equal(made[~mask], pixels[~mask])
    assert not np.array_equal(made[mask], pixels[mask]) or mask.sum() < 3


def test_a_saved_edit_keeps_its_bytes_and_a_mask_may_be_a_picture(tmp_path: Any) -> None:
    pixels = picture(30, 20)
    Image(pixels).save(tmp_path / "a.png")
    white = np.zeros((30, 20), np.uint8)
    white[10:20, 5:15] = 255
    Image(white).save(tmp_path / "mask.png")
    made = MODEL.generate(
        "a hat",
        "image",
        source=Image(tmp_path / "a.png"),
        mask=Image(tmp_path / "mask.png"),
        num_steps=2,
    )
    again = Image(made.save(tmp_path / "b.png")).pixels()
    assert np.array_equal(again[white == 0], pixels[white == 0])
    assert not np.array_equal(again[white == 255], pixels[white == 255])
    assert made.generated["generator"] == "sensorium"


def drawing(options: MediaOptions, **more: Any) -> Drawing:
    config = CONFIG.model.modalities["image"]
    branches = {name: TokenSequence(TOKENIZER) for name in more.pop("branches", ["full"])}
    generator = torch.Generator().manual_seed(options.seed)
    return Drawing("image", (2, 3), config, options, branches, generator=generator, **more)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_outside_the_mask_the_signal_goes_straight_from_the_noise_to_the_source(
    solver: Any, strength: float
) -> None:
    source = torch.randn(3, 8, 12)
    mask = torch.zeros(8, 12, dtype=torch.bool)
    mask[2:5, 3:7] = True
    drawn = drawing(MediaOptions(num_steps=5, solver=solver, strength=strength), source=source, mask=mask)
    noise = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))
    times = []
    while drawn.result is None:
        times.append(drawn.t)
        straight = drawn.t * source + (1 - drawn.t) * noise
        torch.testing.assert_close(drawn.z[:, ~mask], straight[:, ~mask])
        drawn.take("full", torch.randn(3, 8, 12))
    assert min(times) == pytest.approx(1 - strength)
    assert (
        len(times)
        == {("euler", 1.0): 5, ("heun", 1.0): 9, ("euler", 0.4): 2, ("heun", 0.4): 3}[solver, strength]
    )
    assert torch.equal(drawn.result[:, ~mask], source[:, ~mask])
    assert not torch.isclose(drawn.result[:, mask], source[:, mask]).any()


def test_a_variation_is_nearer_to_its_source_the_weaker_it_is() -> None:
    pixels = picture(16, 16)
    # An untrained model is steady only where it says velocities.
    config = dataclasses.replace(CONFIG, model=small_config(bands=100, target="v"))
    model = Model(random_model(config.model), TOKENIZER, config)
    distances = []
    for strength in (0.05, 0.3, 1.0):
        made = model.generate(
            "a house", "image", source=Image(pixels), strength=strength, num_steps=20, guidance_scale=1.0
        )
        distances.append(float(np.abs(made.pixels().astype(int) - pixels).mean()))
    assert distances[0] < distances[1] < distances[2]


def test_guidance_weighs_the_branches_as_the_papers_do() -> None:
    full, words, none = torch.randn(3, 3, 8, 12)
    given_v = {"full": full, "words": words, "none": none}

    def combined(options: MediaOptions, branches: list[str]) -> torch.Tensor:
        drawn = drawing(options, branches=branches)
        z = drawn.z
        for branch in list(drawn.todo):
            drawn.take(branch, given_v[branch])
        assert drawn.result is not None
        return drawn.result - z

    plain = MediaOptions(num_steps=1, guidance_scale=1.0, guidance_interval=(0.0, 1.0))
    assert list(drawing(plain, branches=["full", "words", "none"]).todo) == ["full"]
    torch.testing.assert_close(combined(plain, ["full", "words"]), full)
    one = MediaOptions(num_steps=1, guidance_scale=3.0, guidance_interval=(0.0, 1.0))
    torch.testing.assert_close(combined(one, ["full", "words"]), words + 3 * (full - words))
    two = MediaOptions(
        num_steps=1, guidance_scale=3.0, image_guidance_scale=1.5, guidance_interval=(0.0, 1.0)
    )
    expected = none + 1.5 * (words - none) + 3 * (full - words)
    torch.testing.assert_close(combined(two, ["full", "words", "none"]), expected)
    outside = MediaOptions(num_steps=1, guidance_scale=3.0, guidance_interval=(0.1, 1.0))
    assert drawing(outside, branches=["full", "words"]).todo == {"full": 1.0}


def pixels_of(prompt: Any, **options: Any) -> np.ndarray:
    return MODEL.generate(prompt, "image", num_steps=3, grid=(3, 3), **options).pixels().astype(int)


def test_guidance_changes_what_is_drawn_and_1_is_the_plain_model() -> None:
    plain = pixels_of("red", guidance_scale=1.0)
    assert np.array_equal(plain, pixels_of("red", guidance_scale=1.0, negative_prompt="blue"))
    guided = pixels_of("red", guidance_scale=4.0)
    assert np.abs(guided - plain).max() > 1
    assert np.abs(pixels_of("red", guidance_scale=4.0, negative_prompt="blue") - guided).max() > 1
    edit: list[Any] = [Image(picture(16, 16)), "red"]
    once = pixels_of(edit, guidance_scale=4.0)
    assert np.abs(pixels_of(edit, guidance_scale=4.0, image_guidance_scale=3.0) - once).max() > 1
    # Without words there is nothing that words could pull.
    alone = [Image(picture(16, 16))]
    assert np.abs(pixels_of(alone, guidance_scale=4.0) - pixels_of(alone, guidance_scale=1.0)).max() <= 1


def test_a_negative_prompt_of_an_edit_keeps_its_picture() -> None:
    edit: list[Any] = [Image(picture(16, 16)), "red"]
    options: dict[str, Any] = {"guidance_scale": 4.0, "negative_prompt": "blue"}
    request = MODEL.request(edit, "image", **options)
    assert request.without_words is not None
    assert request.without_media is not None
    kinds = [type(segment).__name__ for segment in request.without_words]
    assert "MediaSegment" in kinds
    assert len(request.without_media) < len(request.without_words)
    once, thrice = (pixels_of(edit, image_guidance_scale=scale, **options) for scale in (1.0, 3.0))
    assert np.abs(once - thrice).max() > 1


def test_a_step_is_drawn_at_the_least_strength() -> None:
    made = MODEL.generate("a", "image", source=Image(picture(8, 8)), strength=0.001, num_steps=30)
    assert made.pixels().shape == (8, 8, 3)
    source = torch.zeros(3, 8, 12)
    assert drawing(MediaOptions(num_steps=10, strength=0.3), source=source).num_steps == 3


def test_a_guidance_interval_saves_the_work_outside_it() -> None:
    rows = []
    hook = MODEL.model.layers[0].register_forward_hook(
        lambda module, args, out: rows.append(out.shape[0] * (out.shape[1] == 4))
    )
    for interval in ((0.0, 1.0), (0.5, 1.0)):
        MODEL.generate("x", "image", grid=(2, 2), num_steps=4, guidance_interval=interval)
    hook.remove()
    assert sum(rows) == 4 * 2 + (2 * 1 + 2 * 2)


def test_previews_come_on_the_way_and_whoever_streams_gets_the_picture_at_last() -> None:
    options: dict[str, Any] = {"num_steps": 6, "grid": (2, 2), "seed": 3}
    whole = MODEL.generate("a", "image", **options).pixels()
    seen = list(MODEL.generate("a", "image", stream=True, preview_every=2, **options))
    assert [part.pixels().shape for part in seen] == [(8, 8, 3)] * 3
    assert np.array_equal(seen[-1].pixels(), whole)
    assert len(list(MODEL.generate("a", "image", stream=True, **options))) == 1


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("num_steps", "every", "shown"), [(6, 2, [2, 4, 6]), (2, 1, [1, 2]), (4, 3, [3, 4])])
def test_a_preview_comes_after_every_so_many_steps(
    solver: str, num_steps: int, every: int, shown: list[int]
) -> None:
    handle = MODEL.submit("a", "image", preview_every=every, num_steps=num_steps, solver=solver, grid=(2, 2))
    events = [event for event in handle if isinstance(event, Media)]
    assert [event.progress * num_steps for event in events] == pytest.approx(shown)
    assert [event.is_preview for event in events] == [True] * (len(shown) - 1) + [False]


@pytest.mark.parametrize("size", [(16, 16), (1, 16), (9, 5), (13, 16)])
def test_a_size_in_pixels_is_kept_exactly(size: tuple[int, int]) -> None:
    width, height = size
    made = MODEL.generate("a", "image", width=width, height=height, num_steps=1)
    assert made.pixels().shape == (height, width, 3)


def test_samples_are_the_pictures_of_the_seeds_that_follow() -> None:
    options: dict[str, Any] = {"num_steps": 2, "grid": (2, 2)}
    made = MODEL.generate("a", "image", n=3, seed=4, **options)
    for seed, part in enumerate(made, 4):
        alone = MODEL.generate("a", "image", seed=seed, **options).pixels().astype(int)
        assert np.abs(alone - part.pixels()).max() <= 1
    assert not np.array_equal(made[0].pixels(), made[1].pixels())


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("image", {"width": 17, "height": 4}, "a picture of 17 x 4 pixels; this model draws up to 16 x 16"),
        ("image", {"width": 4}, "width and height go together"),
        ("audio", {"width": 4, "height": 4}, "they belong to pictures"),
        ("audio", {"source": Image(picture(4, 4))}, "they belong to pictures"),
        ("image", {"mask": np.ones((4, 4), bool)}, "mask needs a picture to change"),
        ("image", {"source": picture(4, 4)}, "source is a ndarray; expected sm.Image"),
        (
            "image",
            {"source": Image(picture(4, 5)), "mask": np.ones((4, 4), bool)},
            "the mask has 4 x 4 pixels and the picture 5 x 4",
        ),
        (
            "image",
            {"source": Image(picture(4, 4)), "mask": np.zeros((4, 4), bool)},
            "the mask chooses nothing",
        ),
        ("image", {"source": Image(picture(4, 4)), "mask": np.ones((4, 4))}, "mask is a float64 array"),
        *(
            (
                "image",
                {"source": Image(picture(4, 4)), "strength": strength},
                "strength is .*expected from 0.001",
            )
            for strength in (0.0, 1e-4, 1.1, float("nan"))
        ),
        ("image", {"strength": 0.5}, "strength without source"),
        ("image", {"source": Image(picture(4, 4)), "grid": (1, 1)}, "source and mask give the size"),
        ("audio", {"duration_s": 0.1, "grid": (1, 1)}, "both give the length"),
        *(("audio", {"duration_s": s}, "duration_s is .*finite") for s in (0.0, -1.0, float("inf"))),
        ("interleaved", {"grid": (1, 1)}, "there the model chooses sizes"),
        *(("image", {"grid": grid}, "grid is .*two integers") for grid in ((1,), (1.5, 2), 3)),
        ("image", {"num_steps": 10_001}, "num_steps is 10001; expected 1 to"),
        ("image", {"seed": 2**63}, "expected an integer of 64 bits"),
        ("image", {"guidance_interval": (0.5, 0.1)}, "two noise levels, rising"),
        ("image", {"guidance_scale": float("inf")}, "a finite number"),
        ("image", {"n": 1025}, "n is 1025; expected 1 to 1024"),
        ("image", {"solver": "rk4"}, "solver is 'rk4'; expected euler or heun"),
        ("text", {"mask": np.ones((4, 4), bool)}, "unknown option 'mask'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(output: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODEL.generate("x", output, **options)


def test_words_and_media_in_turn() -> None:
    """A model that is made to open a picture draws it, reads it and goes on."""

    class Eager:
        """Says "ab", opens a picture, and says "cd" and the end after it."""

        trunk = staticmethod(MODEL.model.trunk)

        def __init__(self) -> None:
            say = TOKENIZER.encode("ab cd")
            self.script = [say[0], say[1], TOKENIZER.open_token("image"), 0, 0, say[3], say[4], TOKENIZER.eos]

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            said = MODEL.model.logits(hidden)
            token = self.script.pop(0)
            if token:
                said[:, token] = 1e3
            return said

    model = Model(MODEL.model, TOKENIZER, CONFIG)
    for _ in range(2):
        model.engine.runtime = model.engine.reader.runtime = Eager()
        parts = model.generate("x", "interleaved", num_steps=2, guidance_scale=3.0)
        assert [type(part) for part in parts] == [str, Image, str]
        assert (parts[0], parts[2]) == ("ab", "cd")
    assert model.engine.cache.lengths == []
    model.engine.runtime = model.engine.reader.runtime = Eager()
    streamed = list(model.generate("x", "interleaved", num_steps=2, guidance_scale=3.0, stream=True))
    assert "".join(p for p in streamed if isinstance(p, str)) == "abcd"
    # What was drawn stands in the sequence as a clean medium, at the positions of its noise.
    kept = max((keys for keys, _ in model.engine.prefixes.entries.values()), key=len)
    patches = (parts[1].pixels().shape[0] // 4) * (parts[1].pixels().shape[1] // 4)
    assert (kept < 0).sum() == patches
    assert not isinstance(parts[1], Audio)


def test_what_a_drawing_left_alone_is_the_source_itself() -> None:
    pixels = picture(60, 90)
    seen = resize_image(pixels, 20, 30)
    drawn = seen.copy()
    drawn[:8, :10] = (255, 0, 0)
    kept = keep_source(pixels, drawn)
    assert kept.shape == pixels.shape
    # A pixel of the drawing is three of the source's, and colours are matched over four to each side.
    assert np.array_equal(kept[40:], pixels[40:])
    assert np.array_equal(kept[:, 46:], pixels[:, 46:])
    assert np.abs(kept[:20, :26].astype(int) - (255, 0, 0)).mean() < 12
    assert np.array_equal(keep_source(pixels, seen), pixels)


def test_a_change_of_colours_keeps_every_edge() -> None:
    """What is drawn is grey and eight times as coarse as what comes out."""
    rows, cols = np.mgrid[:96, :96]
    shapes = ((rows - 40) ** 2 + (cols - 50) ** 2 < 900)[..., None]
    pixels = np.where(shapes, (250, 220, 60), (20, 40, 120)).astype(np.uint8)
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    drawn = resize_image(np.rint(grey).astype(np.uint8), 12, 12)
    error = np.abs(keep_source(pixels, drawn) - grey).mean()
    assert error < 0.3 * np.abs(resize_image(drawn, 96, 96) - grey).mean()


@pytest.mark.parametrize("options", [{}, {"source": Image(picture(24, 36, 1)), "strength": 0.5}])
def test_an_edit_has_the_size_of_what_was_copied(options: dict[str, Any]) -> None:
    shown = Image(picture(50, 70))
    made = MODEL.generate([Image(picture(9, 9, 2)), shown, "make it blue"], "image", num_steps=1, **options)
    assert made.pixels().shape == options.get("source", shown).pixels().shape
    assert made.generated["generator"] == "sensorium"


def test_a_size_that_is_asked_for_and_a_model_that_does_not_copy_leave_the_source_alone() -> None:
    prompt: list[Any] = [Image(picture(50, 70)), "make it blue"]
    assert MODEL.generate(prompt, "image", num_steps=1, width=7, height=5).pixels().shape == (5, 7, 3)
    image = dataclasses.replace(CONFIG.model.modalities["image"], copies_source=False)
    modalities = {**CONFIG.model.modalities, "image": image}
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, modalities=modalities))
    made = Model(random_model(config.model), TOKENIZER, config).generate(prompt, "image", num_steps=1)
    assert made.pixels().shape[0] <= image.max_size[0]


def test_a_picture_of_the_prompt_is_edited_in_few_steps_unless_more_are_asked_for() -> None:
    shown = Image(picture(50, 70))
    edit: list[Any] = [shown, "make it blue"]
    chosen = MODEL.request(edit, "image").media
    assert {name: getattr(chosen, name) for name in EDITING} == EDITING
    assert MODEL.request(edit, "image", num_steps=30).media.num_steps == 30
    for media in (
        MODEL.request("a cat", "image").media,
        MODEL.request("a cat", "image", source=shown).media,
        MODEL.request(edit, "image", width=7, height=5).media,
        MODEL.request(edit, "audio").media,
    ):
        assert (media.num_steps, media.guidance_scale) == (30, 2.5)
