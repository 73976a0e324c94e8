"""Small real videos with sound, written by PyAV."""

import functools
import io
from typing import Any

import av
import numpy as np
from PIL import Image

SECONDS, FPS, RATE = 2, 10, 48_000


def tone(frequency_hz: float = 440.0, seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A soft tone, float32 ``[N]``."""
    return (0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pictures(num: int = SECONDS * FPS) -> list[np.ndarray]:
    """Ever redder."""
    return [np.full((48, 64, 3), (250 * n // num, 0, 0), np.uint8) for n in range(num)]


@functools.cache
def clip(kind: str = "mp4", *, with_sound: bool = True) -> bytes:
    """Two seconds, ever redder, with a tone of 440 Hz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream: Any = container.add_stream({"mp4": "h264", "webm": "vp9"}[kind], rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound: Any = None
        if with_sound:
            sound = container.add_stream({"mp4": "aac", "webm": "libopus"}[kind], rate=RATE, layout="mono")
        for picture in pictures():
            container.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(picture))))
        container.mux(stream.encode())
        if with_sound:
            pcm = np.rint(tone() * 32_767).astype(np.int16)
            for start in range(0, len(pcm), 1024):
                frame = av.AudioFrame.from_ndarray(
                    pcm[None, start : start + 1024], format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts = RATE, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return buffer.getvalue()
