"""A video as a part of a prompt: its frames with their times, and its sound, as training shows them."""

from pathlib import Path

import numpy as np
import pytest

import sensorium as sm
from sensorium.data.sample import sample_of_row
from sensorium.data.templates import build_documents, merge_text
from sensorium.generate.prompt import read_parts, read_prompt
from sensorium.sequence.document import EmbSegment, MediaSegment, TextSegment
from tests.generate.small_model import small_model
from tests.media.clips import SECONDS, clip, pictures, tone

MODEL = small_model()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(clip())
    return tmp_path / "clip.mp4"


def test_the_prompt_is_the_document_that_watch_trains(path: Path) -> None:
    row = {"id": "0", "source": "t", "text": "it reddens", "video": {"bytes": clip(), "path": "clip.mp4"}}
    sample = sample_of_row(row, MODEL.config.model, max_frames=8)
    [document] = build_documents(sample, "watch", MODEL.tokenizer, np.random.default_rng(0))
    asks = ("what happens?", "describe this clip", "what is this?", "what do you see?")
    found = []
    for ask in asks:
        prompt = read_prompt([sm.Video(path, sound=False), ask], "text", MODEL.config.model, MODEL.tokenizer)
        found.append(same(prompt, document.segments))
    assert any(found)
    assert not all(found)
    # A video of nothing to ask about is named, as a picture is.
    alone = read_prompt(sm.Video(path), "text", MODEL.config.model, MODEL.tokenizer)
    assert isinstance(alone[-1], EmbSegment)


def same(prompt: list, segments: list) -> bool:  # type: ignore[type-arg]
    """Whether a prompt is the beginning of a document."""
    prompt = merge_text(prompt)
    flat: list[object] = []
    for segment in segments[: len(prompt)]:
        flat.append(list(segment.token_ids) if isinstance(segment, TextSegment) else segment.array)
    ours = [list(s.token_ids) if isinstance(s, TextSegment) else s.array for s in prompt]
    return len(ours) == len(flat) and all(np.array_equal(a, b) for a, b in zip(ours, flat, strict=True))  # type: ignore[arg-type]


def test_the_sound_comes_with_the_frames(path: Path) -> None:
    segments = read_parts([sm.Video(path, max_frames=4), "what?"], MODEL.config.model, MODEL.tokenizer)
    kinds = [s.modality for s in segments if isinstance(s, MediaSegment)]
    assert kinds[0] == "audio"
    assert 2 <= kinds.count("image") <= 4
    row = {
        "id": "0",
        "source": "t",
        "audio": {"bytes": clip(), "path": "a.mp4"},
        "video": {"bytes": clip(), "path": "v.mp4"},
    }
    sample = sample_of_row(row, MODEL.config.model, max_frames=4)
    # `{media}` of a sample with both: the sound, then the frames.
    [document, _] = build_documents(
        sample_with_text(sample), "align", MODEL.tokenizer, np.random.default_rng(0), pair_key="p"
    )
    assert same(segments[:-1], document.segments)
    words = MODEL.tokenizer.decode([t for s in segments if isinstance(s, TextSegment) for t in s.token_ids])
    assert words.startswith("0.0s")
    assert words.endswith("what?")


def sample_with_text(sample):  # type: ignore[no-untyped-def]
    sample.text = "x"
    return sample


def test_a_long_sound_track_is_cut_aloud() -> None:
    model = small_model(audio_frames=48)
    with pytest.warns(UserWarning, match="hears the first 0.51 of 2"):
        segments = read_parts(sm.Video(clip()), model.config.model, model.tokenizer)
    [sound] = [s for s in segments if isinstance(s, MediaSegment) and s.modality == "audio"]
    assert sound.grid == (8, 1)


def test_it_is_answered_through_the_door(path: Path) -> None:
    answer = MODEL.generate([sm.Video(path), "what happens?"], max_tokens=4)
    assert isinstance(answer, str)
    frames = sm.Video(pictures(), fps=10)
    turns = [
        {"role": "user", "content": [frames, "what happens?"]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "and then?"},
    ]
    assert isinstance(MODEL.generate(turns, max_tokens=4), str)
    latents = MODEL.embed([[sm.Video(path)], frames, "red"])
    assert latents.shape == (3, MODEL.config.model.latent_dim)
    assert not np.allclose(latents[0], latents[1], atol=1e-3)
    seen = list(MODEL.watch(sm.Video(path), every_s=1.0, max_tokens=2))
    assert [(round(s.start_s, 1), round(s.end_s, 1)) for s in seen] == [(0.0, 1.0), (1.0, 1.9)]
    assert tone().size == SECONDS * 48_000
