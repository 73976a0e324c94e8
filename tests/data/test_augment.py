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
