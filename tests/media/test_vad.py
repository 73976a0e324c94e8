"""Where somebody speaks: real speech between silences, whatever the sizes of the blocks it arrives in."""

from itertools import pairwise

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.media.audio import SAMPLE_RATE, decode_audio
from sensorium.media.errors import MediaError
from sensorium.media.vad import Activity, LevelDetector, Resampler, SpeechDetector, Stretch
from sensorium.starter import load_table


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """Three real utterances of a second or more."""
    rows = load_table("asterisk-en").to_pylist()
    sounds = (decode_audio(row["audio"]["bytes"], name=row["audio"]["path"]) for row in rows)
    found = [sound for sound in sounds if 24_000 < sound.size < 60_000]
    return found[:3]


def between_silences(
    sounds: list[np.ndarray], pause_s: float = 1.5
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """All of them with pauses around, and where each lies, in seconds."""
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    parts, places, at = [pause], [], pause.size
    for sound in sounds:
        places.append((at / SAMPLE_RATE, (at + sound.size) / SAMPLE_RATE))
        parts += [sound, pause]
        at += sound.size + pause.size
    return np.concatenate(parts), places


def hear(activity: Activity, wave: np.ndarray, sizes: list[int]) -> list[tuple[float, np.ndarray]]:
    """Stretches put together: (start in seconds, samples)."""
    pieces: list[Stretch] = []
    at = 0
    while at < wave.size:
        size = sizes[len(pieces) % len(sizes)]
        pieces += activity.add(wave[at : at + size])
        at += size
    pieces += activity.add(np.zeros(0, np.float32), last=True)
    out: list[tuple[float, np.ndarray]] = []
    open_ = False
    for piece in pieces:
        if open_:
            start, before = out[-1]
            assert abs(piece.start_s - start - before.size / SAMPLE_RATE) < 1e-6  # without a gap
            out[-1] = (start, np.concatenate([before, piece.samples]))
        else:
            out.append((piece.start_s, piece.samples))
        open_ = not piece.last
    assert not open_
    return out


def test_it_finds_what_is_spoken(spoken: list[np.ndarray]) -> None:
    wave, places = between_silences(spoken)
    found = hear(Activity(SpeechDetector()), wave, [2400])
    assert len(found) == len(places)
    for (start, samples), (begin, end) in zip(found, places, strict=True):
        assert begin - 0.3 < start < begin + 0.35
        assert end - 0.5 < start + samples.size / SAMPLE_RATE < end + 0.5
        first = round(start * SAMPLE_RATE)
        np.testing.assert_array_equal(samples, wave[first : first + samples.size])


@given(sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=5))
@settings(max_examples=8, deadline=None)
def test_block_sizes_change_nothing(spoken: list[np.ndarray], sizes: list[int]) -> None:
    wave, _ = between_silences(spoken[:2])
    sizes = [*sizes, 6000]  # not sample by sample all the way
    whole = hear(Activity(LevelDetector()), wave, [wave.size])
    parts = hear(Activity(LevelDetector()), wave, sizes)
    assert len(whole) == len(parts) > 0
    for (start, samples), (other_start, other) in zip(whole, parts, strict=True):
        assert start == other_start
        np.testing.assert_array_equal(samples, other)


@pytest.mark.parametrize("kind", ["zeros", "hiss", "hum"])
def test_silence_is_silent_and_takes_no_memory(kind: str) -> None:
    rng = np.random.default_rng(0)
    size = 60 * SAMPLE_RATE
    wave = {
        "zeros": np.zeros(size, np.float32),
        "hiss": (1e-3 * rng.standard_normal(size)).astype(np.float32),
        "hum": (2e-3 * np.sin(2 * np.pi * 50 * np.arange(size) / SAMPLE_RATE)).astype(np.float32),
    }[kind]
    for detector in (SpeechDetector(), LevelDetector()):
        activity = Activity(detector)
        assert [piece for at in range(0, size, 2400) for piece in activity.add(wave[at : at + 2400])] == []
        assert activity._held.size < SAMPLE_RATE


def test_a_click_is_no_stretch(spoken: list[np.ndarray]) -> None:
    wave = np.zeros(3 * SAMPLE_RATE, np.float32)
    wave[SAMPLE_RATE : SAMPLE_RATE + 200] = 0.9
    assert hear(Activity(LevelDetector()), wave, [2400]) == []


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_resampling_in_blocks_is_resampling_the_whole(rate: int) -> None:
    wave = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    resampler = Resampler(rate, SAMPLE_RATE)
    cuts = [0, 1, 100, 2000, rate // 2, rate]
    parts = [resampler.add(wave[a:b], last=b == rate) for a, b in pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(parts), soxr.resample(wave, rate, SAMPLE_RATE), atol=1e-4)


def test_an_impossible_rate_is_refused() -> None:
    with pytest.raises(MediaError, match="100 Hz"):
        Resampler(100, SAMPLE_RATE)
