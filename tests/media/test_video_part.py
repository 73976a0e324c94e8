"""``sm.Video``: frames and sound of one file, lists of frames, budgets, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

import sensorium as sm
from sensorium.media.errors import MediaError
from sensorium.media.video import count_tracks
from tests.media.clips import SECONDS, clip, pictures
from tests.media.samples import TABLA_FLAC, all_sounds


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_frames_and_sound_come_from_one_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(clip(kind))
    video = sm.Video(path, max_frames=5)
    frames, times = video.frames()
    assert frames.shape[1:] == (48, 64, 3)
    assert 3 <= len(frames) <= 5
    assert times[0] == 0
    assert times[-1] < SECONDS
    assert np.all(np.diff(frames[:, 24, 32, 0].astype(int)) > 20)  # redder and redder, in order
    wave = video.waveform()
    assert wave is not None
    assert abs(wave.size / 24_000 - SECONDS) < 0.1
    loudest = np.abs(np.fft.rfft(wave[:24_000])).argmax()
    assert abs(loudest - 440) <= 2
    assert count_tracks(clip(kind)) == (1, 1)


def test_a_silent_file_has_no_waveform() -> None:
    video = sm.Video(clip(with_sound=False))
    assert video.waveform() is None
    assert len(video.frames()[0]) > 1
    assert count_tracks(all_sounds()["tabla.webm"]) == (0, 1)
    assert count_tracks(TABLA_FLAC) == (0, 0)


def test_a_list_of_frames_is_a_video() -> None:
    arrays = pictures(20)
    mixed = [sm.Image(arrays[0]), pillow.fromarray(arrays[1]), *arrays[2:]]
    frames, times = sm.Video(mixed, fps=10, max_frames=8, max_fps=5).frames()
    assert len(frames) <= 8
    np.testing.assert_array_equal(frames[0], arrays[0])
    steps = np.diff(times)
    assert steps.min() >= 0.2 - 1e-6
    for frame, time_s in zip(frames, times, strict=True):
        np.testing.assert_array_equal(frame, arrays[round(time_s * 10)])
    assert sm.Video(np.stack(arrays), fps=10).waveform() is None


def test_mistakes_are_told() -> None:
    with pytest.raises(TypeError, match="list of frames"):
        sm.Video([])
    with pytest.raises(TypeError, match="given a int"):
        sm.Video(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs fps"):
        sm.Video(pictures(2))
    with pytest.raises(ValueError, match="a file has its own"):
        sm.Video("clip.mp4", fps=3)
    with pytest.raises(ValueError, match="max_frames 0"):
        sm.Video("clip.mp4", max_frames=0)
    with pytest.raises(FileNotFoundError, match="no such video file"):
        sm.Video("nothing.mp4").frames()
    with pytest.raises(MediaError, match="changes its size"):
        sm.Video([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], fps=1).frames()
    broken = clip()[:-2000]
    with pytest.raises(MediaError):
        sm.Video(broken).frames()
