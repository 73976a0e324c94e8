"""The spectrogram against an independent implementation, and its way back to sound.

``reference/log_mel.npz`` holds a waveform (int16, 24 kHz: chirp, noise, silence, decaying harmonics) and,
computed in float64 by librosa 0.11.0 in an environment of its own::

    mel = librosa.feature.melspectrogram(
        y=waveform / 32768, sr=24000, n_fft=1024, hop_length=256, window="hann", center=True,
        pad_mode="reflect", power=1.0, n_mels=100, fmin=0.0, fmax=12000.0, htk=True, norm=None)
    log_mel = np.log(np.maximum(mel.T, 1e-7)).astype(np.float32)
"""

import time

import numpy as np
import pytest

from sensorium.media import audio
from sensorium.media.audio import denormalize_mel, griffin_lim, log_mel, normalize_mel

from .samples import REFERENCE, tabla


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "log_mel.npz") as file:
        return file["waveform"].astype(np.float32) / 32_768, file["log_mel"]


def test_log_mel_matches_the_reference(reference):
    waveform, want = reference
    got = log_mel(waveform)
    assert got.dtype == np.float32
    assert got.shape == want.shape == (1 + waveform.size // 256, 100)
    # Rounding in float32 is relative to the loudest bin (here 453): tight where there is sound, looser below.
    np.testing.assert_allclose(np.exp(got), np.exp(want), rtol=1e-5, atol=5e-4)
    for quietest, tolerance in ((-5, 2e-4), (-9, 1e-2)):
        audible = want > quietest
        assert audible.mean() > 0.4
        np.testing.assert_allclose(got[audible], want[audible], atol=tolerance)
    assert got.min() == want.min() == np.float32(np.log(1e-7))


def test_log_mel_in_pieces_is_the_whole():
    sound = np.random.default_rng(0).standard_normal(1500 * 256).astype(np.float32) * 0.1
    whole = log_mel(sound)
    late = log_mel(sound[1100 * 256 :])
    np.testing.assert_allclose(whole[1110:1400], late[10:300], atol=1e-4)


@pytest.mark.parametrize("num_samples", [1, 2, 100, 512, 513])
def test_log_mel_of_very_short_sounds(num_samples):
    mel = log_mel(np.full(num_samples, 0.5, np.float32))
    assert mel.shape == (1 + num_samples // 256, 100)
    assert np.isfinite(mel).all()


def test_log_mel_refuses_nothing_and_stereo():
    for shape in ((0,), (10, 2)):
        with pytest.raises(ValueError, match="expected \\[N\\], N >= 1"):
            log_mel(np.zeros(shape, np.float32))


def test_two_seconds_take_a_few_milliseconds():
    sound = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    log_mel(sound)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        log_mel(sound)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.008  # about 2.6 ms on the reference machine; the rest is room for a busy one


def test_normalize_round_trip_and_range(reference):
    _, mel = reference
    np.testing.assert_allclose(denormalize_mel(normalize_mel(mel)), mel, atol=1e-5)
    array = normalize_mel(log_mel(tabla()))
    assert array.dtype == np.float32
    assert np.percentile(array, 5) > -2.5
    assert np.percentile(array, 99) < 2


def test_griffin_lim_brings_a_real_sound_back():
    mel = log_mel(tabla())
    sound = griffin_lim(mel)
    assert sound.dtype == np.float32
    assert sound.shape == ((len(mel) - 1) * 256,)
    again = log_mel(sound)
    convergence = np.linalg.norm(np.exp(again) - np.exp(mel)) / np.linalg.norm(np.exp(mel))
    assert convergence < 0.15
    assert np.abs(again - mel).mean() < 0.2
    few = log_mel(griffin_lim(mel, num_iters=2))
    assert np.abs(few - mel).mean() > 1.2 * np.abs(again - mel).mean()


def test_griffin_lim_is_seeded():
    mel = log_mel(tabla())[:20]
    np.testing.assert_array_equal(griffin_lim(mel, seed=3), griffin_lim(mel, seed=3))
    assert not np.array_equal(griffin_lim(mel, seed=3), griffin_lim(mel, seed=4))


def test_griffin_lim_survives_what_a_model_may_ask_for():
    for value in (-1e6, 0.0, 1e6):
        sound = griffin_lim(np.full((8, 100), value, np.float32), num_iters=4)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() <= 1
    assert np.abs(griffin_lim(np.full((8, 100), -20.0), num_iters=4)).max() < 1e-4
    with pytest.raises(ValueError, match="NaN"):
        griffin_lim(np.full((8, 100), np.nan))
    with pytest.raises(ValueError, match="F >= 2"):
        griffin_lim(np.zeros((1, 100)))


def test_filters_cover_every_audible_bin():
    filters = audio.mel_filters()
    assert filters.shape == (513, 100)
    assert filters.min() == 0
    assert (filters[1:-1].sum(axis=1) > 0).all()
