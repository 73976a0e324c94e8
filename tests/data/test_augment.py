"""What augmentation may change."""

import numpy as np
import pytest

from sensorium.data.augment import augment


def picture(size: int = 32) -> np.ndarray:
    """A blue ring on grey, 9 pixels across: small enough that resampling would blur it away."""
    rows, cols = np.mgrid[:size, :size]
    radius = np.hypot(rows - 16, cols - 12)
    x_CHW = np.full((3, size, size), 0.5, np.float32)
    x_CHW[:, (radius > 2.5) & (radius < 4.8)] = np.array([-1.0, -0.5, 0.9], np.float32)[:, None]
    return x_CHW


def test_a_picture_whose_pixels_are_kept_is_mirrored_and_moved() -> None:
    x_CHW = picture()
    seen = {
        augment(x_CHW, np.random.default_rng(seed), 1.0, keep_pixels=True).tobytes() for seed in range(200)
    }
    assert len(seen) > 50
    crop = x_CHW[:, 10:23, 6:19]  # the ring and what is around it: symmetrical, so mirrored it is the same
    for raw in seen:
        x = np.frombuffer(raw, np.float32).reshape(x_CHW.shape)
        rows, cols = np.nonzero(x[0] < 0)
        top, left = rows.min() - 1, cols.min() - 1
        ring = x_CHW[0] < 0
        first_row, first_col = np.nonzero(ring)[0].min() - 1, np.nonzero(ring)[1].min() - 1
        size = crop.shape[1] - 2
        np.testing.assert_array_equal(
            x[:, top : top + size, left : left + size],
            x_CHW[:, first_row : first_row + size, first_col : first_col + size],
        )
        assert abs(top - first_row) <= 4


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_no_strength_changes_nothing(keep_pixels: bool) -> None:
    x_CHW = picture()
    assert augment(x_CHW, np.random.default_rng(0), 0.0, keep_pixels=keep_pixels) is x_CHW


def test_colours_change_where_pixels_need_not_be_kept() -> None:
    x_CHW = picture()
    colours = {tuple(np.round(augment(x_CHW, np.random.default_rng(n), 1.0)[:, 0, 0], 3)) for n in range(20)}
    assert len(colours) > 10


def test_a_sound_has_no_pixels_to_keep() -> None:
    x_1FM = np.random.default_rng(0).normal(size=(1, 60, 100)).astype(np.float32)
    one, two = (augment(x_1FM, np.random.default_rng(1), 1.0, keep_pixels=keep) for keep in (False, True))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, x_1FM)


def voice() -> np.ndarray:
    """Harmonics every eight bands under one formant at band 40, in 60 frames."""
    bands = np.arange(100)
    row = -1.5 + 2 * np.exp(-(((bands - 40) / 12) ** 2)) + 0.5 * np.cos(2 * np.pi * bands / 8)
    return np.tile(row.astype(np.float32), (1, 60, 1))


def test_a_voice_gets_another_throat_and_another_pitch() -> None:
    throats, pitches = [], []
    for seed in range(40):
        heard = augment(voice(), np.random.default_rng(seed), 1.0)
        assert heard.shape == (1, 60, 100)
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
        row = heard[0].mean(axis=0)
        smooth = np.convolve(np.pad(row, 8, mode="edge"), np.ones(17) / 17, "valid")
        throats.append(int(smooth.argmax()))
        waves = np.abs(np.fft.rfft((row - smooth)[8:-8] * np.hanning(84)))
        pitches.append(int(waves[3:].argmax()) + 3)
    # The formant stands lower and higher than it was, and not always as the harmonics do.
    assert min(throats) < 36
    assert max(throats) > 44
    assert len(set(pitches)) >= 4
    assert abs(np.corrcoef(throats, pitches)[0, 1]) < 0.95


def test_a_sound_of_strength_nothing_stays_and_a_seed_repeats() -> None:
    np.testing.assert_array_equal(augment(voice(), np.random.default_rng(0), 0.0), voice())
    one, two = (augment(voice(), np.random.default_rng(3), 1.0) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    narrow = np.zeros((1, 12, 10), np.float32)
    assert augment(narrow, np.random.default_rng(1), 0.5).shape == narrow.shape


def lengths(num_frames: int, strength: float, longest: int = 120) -> list[int]:
    """Of 300 augmentations in patches of 6 frames."""
    x_1FM = np.zeros((1, num_frames, 10), np.float32)
    return [
        augment(x_1FM, np.random.default_rng(n), strength, num_frames=range(6, longest + 1, 6)).shape[1]
        for n in range(300)
    ]


def test_a_sound_is_played_faster_and_slower_in_whole_patches() -> None:
    # 60 frames at 0.8 to 1.25 times their duration; 66 is the most that there may be.
    assert set(lengths(60, 1.0, longest=66)) == {48, 54, 60, 66}
    assert set(lengths(60, 0.3)) == {54, 60, 66}
    assert set(lengths(12, 1.0)) == {12}
    assert {augment(voice(), np.random.default_rng(n), 1.0).shape[1] for n in range(20)} == {60}
    for num_frames in (36, 60, 90):
        # On the average as long as it was.
        assert np.mean(lengths(num_frames, 1.0)) == pytest.approx(num_frames, rel=0.03)


def test_a_spectrogram_of_few_bands_is_augmented_too() -> None:
    for seed in range(50):
        assert augment(np.zeros((1, 12, 4), np.float32), np.random.default_rng(seed), 1.0).shape == (1, 12, 4)


def test_what_is_played_faster_keeps_its_order() -> None:
    """A tone that rises through the sound still rises through it, from its beginning to its end."""
    x_1FM = np.full((1, 60, 100), -2.0, np.float32)
    for frame in range(60):
        x_1FM[0, frame, 20 + frame : 24 + frame] = 2.0
    for seed in range(20):
        heard_FM = augment(x_1FM, np.random.default_rng(seed), 0.2, num_frames=range(6, 121, 6))[0]
        loudest = heard_FM.argmax(axis=1).astype(float)
        audible = heard_FM.max(axis=1) > heard_FM.min() + 1.5
        at = np.nonzero(audible)[0] / (len(heard_FM) - 1)
        slope, start = np.polyfit(at, loudest[audible], 1)
        assert start == pytest.approx(21, abs=8)
        assert start + slope == pytest.approx(80, abs=10)


def test_times_and_bands_of_a_sound_are_masked() -> None:
    rng = np.random.default_rng(0)
    x_1FM = rng.uniform(0, 1, (1, 120, 100)).astype(np.float32)
    masked: dict[str, list[int]] = {"frames": [], "bands": []}
    for seed in range(60):
        heard_FM = augment(x_1FM, np.random.default_rng(seed), 1.0)[0]
        silent = heard_FM[:, :60] == heard_FM.min()  # above, a line may end
        masked["frames"].append(int(silent.all(axis=1).sum()))
        masked["bands"].append(int(silent.all(axis=0).sum()))
    assert 8 < max(masked["frames"]) <= 14  # two of at most a sixteenth of the sound
    assert 8 < max(masked["bands"]) <= 20
    assert max(min(masked["frames"]), min(masked["bands"])) < 3  # and sometimes next to nothing


def test_a_sound_may_end_at_a_lower_band() -> None:
    tops = []
    for seed in range(60):
        heard_FM = augment(voice(), np.random.default_rng(seed), 1.0)[0]
        heard = np.nonzero((heard_FM > heard_FM.min()).any(axis=0))[0]
        tops.append(int(heard[-1]))
    assert 60 <= min(tops) < 75
    assert sum(top < 85 for top in tops) < 30  # most have all bands
