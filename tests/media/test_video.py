"""Videos: the frames that are taken, their times, and what is refused."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.media.errors import MediaError
from sensorium.media.video import VideoLimits, decode_video

NUM_FRAMES = 60


def frames() -> list[Image.Image]:
    """Ever redder."""
    return [Image.new("RGB", (64, 48), (4 * n, 0, 0)) for n in range(NUM_FRAMES)]


def animation(kind: str, duration_ms: int) -> bytes:
    buffer = io.BytesIO()
    first, *rest = frames()
    options = {"WEBP": {"lossless": True}, "PNG": {}, "GIF": {}}[kind]
    first.save(buffer, kind, save_all=True, append_images=rest, duration=duration_ms, **options)
    return buffer.getvalue()


def movie(kind: str, seconds: int = 4) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream: Any = container.add_stream({"mp4": "h264", "webm": "vp9"}[kind], rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(15 * seconds):
            frame = av.VideoFrame.from_image(frames()[number % NUM_FRAMES])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


FILES = {
    "webp": animation("WEBP", 50),
    "gif": animation("GIF", 50),
    "png": animation("PNG", 50),
    "mp4": movie("mp4"),
    "webm": movie("webm"),
}
SECONDS = {"webp": 3.0, "gif": 3.0, "png": 3.0, "mp4": 4.0, "webm": 4.0}


@pytest.mark.parametrize("kind", FILES)
def test_frames_are_evenly_spaced_and_in_order(kind: str) -> None:
    pixels, times_s = decode_video(FILES[kind], limits=VideoLimits(max_frames=16, max_fps=4))
    assert pixels.shape[1:] == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert 8 <= len(pixels) == len(times_s) <= 16
    steps = np.diff(times_s)
    assert times_s[0] == 0
    assert steps.max() - steps.min() < 0.07  # a frame's duration
    assert times_s[-1] + steps.mean() >= SECONDS[kind] - 0.1  # to the end
    red = pixels[:, 24, 32, 0].astype(int)
    assert np.all(np.diff(red) > 5)
    rate = {"mp4": 15, "webm": 15}.get(kind, 20)
    assert np.abs(red - 4 * np.rint(times_s * rate)).max() <= 12  # the frame of that time


@pytest.mark.parametrize("max_frames", [1, 2, 5, 7, 64])
def test_the_budget_of_frames_is_kept(max_frames: int) -> None:
    pixels, times_s = decode_video(FILES["mp4"], limits=VideoLimits(max_frames=max_frames, max_fps=15))
    assert max_frames / 2 <= len(pixels) <= max_frames
    assert times_s[0] == 0


def test_large_frames_are_shrunk_and_stills_are_one_frame() -> None:
    pixels, _ = decode_video(FILES["mp4"], limits=VideoLimits(max_side=32))
    assert pixels.shape[1:] == (24, 32, 3)
    buffer = io.BytesIO()
    frames()[3].save(buffer, "PNG")
    pixels, times_s = decode_video(buffer.getvalue())
    assert (pixels.shape, times_s.tolist()) == ((1, 48, 64, 3), [0.0])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_truncated_file_is_refused_by_name(kind: str, share: float) -> None:
    data = FILES[kind]
    with pytest.raises(MediaError, match=r"a\.b: .*(truncated|damaged)") as error:
        decode_video(data[: int(len(data) * share)], name="a.b")
    assert "sound" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"hello there", "is a text file"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "is a JPEG picture; expected a video"),
        (b"PK\x03\x04" + b"\0" * 40, "ZIP archive"),
        (b"GIF89a\xff\xff\xff\xff\0\0\0;", "damaged or truncated GIF"),
        (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + b"\xff" * 20, "16,777,216 x 16,777,216"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 200, "damaged or truncated MP4"),
    ],
)
def test_what_is_no_video_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(MediaError, match=match):
        decode_video(data)


def test_limits_hold_while_decoding() -> None:
    with pytest.raises(MediaError, match="longer than 1 s"):
        decode_video(FILES["mp4"], limits=VideoLimits(max_duration_s=1))
    with pytest.raises(MediaError, match="64 x 48 pixels"):
        decode_video(FILES["webm"], limits=VideoLimits(max_pixels=1000))
    with pytest.raises(MediaError, match="at most 100"):
        decode_video(FILES["gif"], limits=VideoLimits(max_bytes=100))


def test_a_sound_in_a_container_is_no_video() -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=24_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 24_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 24_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="has no picture track"):
        decode_video(buffer.getvalue())
