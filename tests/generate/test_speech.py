"""Speech in pieces: early, without clicks, and behind the document that training knows."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sensorium as sm
from sensorium.data.sample import Medium, Sample
from sensorium.data.templates import build_documents
from sensorium.generate.requests import Request
from sensorium.generate.speech import SoundStream, pieces_of
from sensorium.media.audio import SAMPLE_RATE, griffin_lim, log_mel
from sensorium.media.parts import SOFTWARE
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained.vocos import save_vocoder
from sensorium.sequence.document import EmbSegment, MediaSegment, Segment, TextSegment
from tests.generate.small_model import small_model

TEXT = "say The first sentence is here. The second, which is longer, follows it! And a third?"


def sung(seconds: float = 2.0) -> np.ndarray:
    """A tone that rises, so that no two frames are alike."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 100 * t) * t)).astype(np.float32)


@given(st.lists(st.sampled_from(list("abc .,!?\n")), max_size=80).map("".join), st.integers(5, 30), st.data())
def test_pieces_hold_all_words_and_are_short(text: str, max_chars: int, data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    for found in (list(pieces_of(text, max_chars)), list(pieces_of(iter(parts), max_chars))):
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(0 < len(piece) <= max_chars and piece == piece.strip() for piece in found)


def test_pieces_are_sentences_as_soon_as_they_are_whole() -> None:
    read = []

    def words() -> Iterator[str]:
        for word in ["One two. ", "Three, ", "four ", "five. ", "Six"]:
            read.append(word)
            yield word

    pieces = pieces_of(words(), 40)
    assert next(pieces) == "One two."
    assert len(read) <= 2
    assert list(pieces) == ["Three, four five.", "Six"]
    assert list(pieces_of("one two three, four five six seven", 20)) == [
        "one two three,",
        "four five six seven",
    ]
    for parts in (["  a"], [" ", " " * 9, "x y"], ["\u2003\u2003 ab"], [" " * 30]):
        assert all(pieces_of(iter(parts), 3))


def test_a_prompt_that_leaves_no_room_is_told() -> None:
    model = small_model(max_position=24)
    with pytest.raises(ValueError, match=r"no room for a sound behind .* tokens; lower context or max_chars"):
        list(model.generate("a" * 22, "audio", stream=True, num_steps=1, max_chars=40))


def test_a_vocoder_in_pieces_gives_what_it_gives_for_the_whole() -> None:
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(dim=12, mlp_dim=16, num_layers=2)).eval()
    for parameter in vocoder.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    mel = log_mel(sung())
    whole = vocoder.sound(mel)
    for cuts in ([40, 90], [1, 2, 3, 150], [100], []):
        stream = SoundStream(vocoder.sound, reach=vocoder.reach)
        parts = [stream.add(mel[a:b]) for a, b in pairwise([0, *cuts, len(mel)])]
        joined = np.concatenate([*parts, stream.end()])
        assert joined.shape == whole.shape
        np.testing.assert_allclose(joined, whole, atol=2e-4 * np.abs(whole).max())
    # With too short a reach the pieces differ: the comparison can fail.
    stream = SoundStream(vocoder.sound, reach=1)
    joined = np.concatenate([stream.add(mel[:60]), stream.add(mel[60:]), stream.end()])
    assert np.abs(joined - whole).max() > 1e-2 * np.abs(whole).max()


def test_griffin_lim_in_pieces_has_no_click_at_its_seams() -> None:
    wave = sung()
    mel = log_mel(wave)
    stream = SoundStream(griffin_lim)
    parts = [stream.add(mel[a:b]) for a, b in pairwise([0, 40, 90, 140, len(mel)])]
    joined = np.concatenate([*parts, stream.end()])
    assert joined.size == (len(mel) - 1) * 256
    jumps = np.abs(np.diff(joined))
    seams = np.cumsum([part.size for part in parts])
    inside = np.delete(jumps, [at + d for at in seams for d in range(-300, 300) if 0 <= at + d < jumps.size])
    for at in seams:
        assert jumps[max(0, at - 300) : at + 300].max() < 1.5 * inside.max()
    # Sounds that are merely put together do click.
    plain = np.concatenate([griffin_lim(mel[a:b], seed=a) for a, b in pairwise([0, 40, 90, 140, len(mel)])])
    assert np.abs(np.diff(plain)).max() > 1.5 * inside.max()


def test_the_first_sound_leaves_before_the_last_words_are_read() -> None:
    model = small_model()
    read = []

    def words() -> Iterator[str]:
        for word in TEXT.split(" "):
            read.append(word)
            yield word + " "

    sounds = model.generate(words(), output="audio", stream=True, num_steps=1, max_chars=32)  # type: ignore[arg-type]
    first = next(sounds)
    assert isinstance(first, sm.Audio)
    assert len(read) < len(TEXT.split(" ")) - 5
    rest = list(sounds)
    assert len(rest) >= 3
    assert read[-1] == "third?"
    assert all(sound.generated and sound.generated["generator"] == SOFTWARE for sound in [first, *rest])
    joined = np.concatenate([sound.waveform() for sound in [first, *rest]])
    assert np.isfinite(joined).all()
    again = list(model.generate(TEXT, output="audio", stream=True, num_steps=1, max_chars=32))
    # Griffin-Lim magnifies what rounds differently behind a prefix that is known already.
    np.testing.assert_allclose(np.concatenate([s.waveform() for s in again]), joined, atol=2e-2)
    other = list(model.generate(TEXT, output="audio", stream=True, num_steps=1, max_chars=32, seed=1))
    assert not np.allclose(other[0].waveform()[:500], first.waveform()[:500], atol=1e-3)


def recorded(**options: Any) -> tuple[sm.Model, list[Request]]:
    """What speaking asks of the engine."""
    model = small_model()
    asked: list[Request] = []
    submit = model.engine.submit
    model.engine.submit = lambda request, *a: asked.append(request) or submit(request, *a)  # type: ignore[method-assign]
    list(model.generate(TEXT, output="audio", stream=True, num_steps=1, max_chars=32, **options))
    return model, asked


def kinds(segments: Any) -> list[Any]:
    return [
        tuple(s.token_ids) if isinstance(s, TextSegment) else s.grid if isinstance(s, MediaSegment) else "emb"
        for s in segments
    ]


def test_every_piece_goes_on_from_the_clean_one_before_as_training_shows_it() -> None:
    model, asked = recorded(context=1)
    assert len(asked) == 4  # the second sentence is too long for one piece
    second = list(asked[1].prompt)
    sound = next(s for s in second if isinstance(s, MediaSegment))
    assert not sound.noisy
    # The document of the template, made of the first two pieces: the same up to what is to be generated.
    patch_s = 6 * 256 / SAMPLE_RATE
    array = np.concatenate([sound.array, np.zeros_like(sound.array)], axis=1)
    medium = Medium("audio", array, array, (6, 100))
    segments = [
        {"start_s": 0.0, "end_s": sound.grid[0] * patch_s, "text": "The first sentence is here."},
        {"start_s": 0.0, "end_s": 99.0, "text": "The second, which is longer,"},
    ]
    sample = Sample("0", "t", media=[medium], segments=segments)
    rng = np.random.default_rng(0)
    [document] = build_documents(sample, "speak-on", model.tokenizer, rng)
    assert kinds(second) == kinds(document.segments[: len(second)])
    np.testing.assert_array_equal(sound.array, document.segments[3].array)  # type: ignore[union-attr]
    # Without its words, as a document whose condition was dropped.
    [dropped] = build_documents(sample, "speak-on", model.tokenizer, rng, condition_dropout=1.0)
    assert asked[1].without_words is not None
    assert kinds(asked[1].without_words) == kinds(dropped.segments[: len(asked[1].without_words)])
    third: list[Segment] = list(asked[2].prompt)
    assert sum(isinstance(s, MediaSegment) for s in third) == 1
    assert sum(isinstance(s, EmbSegment) for s in third) == 2


def test_without_context_pieces_stand_alone() -> None:
    _, asked = recorded(context=0)
    assert all(not any(isinstance(s, MediaSegment) for s in request.prompt) for request in asked)


def test_other_prompts_still_stream_as_media() -> None:
    model = small_model()
    picture = sm.Image(np.zeros((8, 8, 3), np.uint8))
    [sound] = model.generate([picture, "aloud"], output="audio", stream=True, num_steps=1)
    assert isinstance(sound, sm.Audio)
    [whole] = model.generate("moo", output="audio", stream=True, num_steps=1, duration_s=0.25)
    assert whole.waveform().size == 23 * 256
    with pytest.raises(ValueError, match="unknown option 'foo'"):
        model.generate("moo", output="audio", stream=True, foo=1)
    with pytest.raises(ValueError, match="nothing to say"):
        list(model.generate(iter(["  "]), output="audio", stream=True))  # type: ignore[arg-type]


def test_a_vocoder_is_used_where_it_is_named(tmp_path: Any) -> None:
    model = small_model()
    griffin = model.generate("moo", output="audio", num_steps=2, duration_s=0.5)
    torch.manual_seed(0)
    save_vocoder(tmp_path / "vocoder.safetensors", Vocoder(VocoderConfig(dim=8, mlp_dim=8, num_layers=1)))
    model.use_vocoder(tmp_path)
    vocoded = model.generate("moo", output="audio", num_steps=2, duration_s=0.5)
    assert vocoded.waveform().size == griffin.waveform().size
    assert not np.allclose(vocoded.waveform(), griffin.waveform(), atol=1e-3)
    with pytest.raises(FileNotFoundError, match="no such vocoder"):
        model.use_vocoder(tmp_path / "other")
