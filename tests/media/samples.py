"""One real picture and one real sound, in every format, for the tests of this folder."""

import functools
import io
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image as pillow

REFERENCE = Path(__file__).parent / "reference"
DOG_PNG = (REFERENCE / "dog.png").read_bytes()
TABLA_FLAC = (REFERENCE / "tabla.flac").read_bytes()


def picture_bytes(kind: str, picture: pillow.Image | None = None, **options: object) -> bytes:
    """The dog on white (or another picture), encoded."""
    if picture is None:
        dog = pillow.open(io.BytesIO(DOG_PNG)).convert("RGBA")
        picture = pillow.new("RGB", dog.size, "white")
        picture.paste(dog, mask=dog.getchannel("A"))
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


@functools.cache
def tabla(rate: int = 24_000) -> np.ndarray:
    """The drum, mono, a little softer so that no codec clips it."""
    import soxr

    samples, original = soundfile.read(io.BytesIO(TABLA_FLAC), dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), original, rate).astype(np.float32) * np.float32(0.9)


def sound_bytes(
    kind: str, subtype: str | None, samples: np.ndarray | None = None, rate: int = 24_000
) -> bytes:
    """Encode with libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tabla(rate) if samples is None else samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def av_bytes(container: str, codec: str, samples: np.ndarray | None = None, rate: int = 24_000) -> bytes:
    """Encode with FFmpeg."""
    samples = tabla(rate) if samples is None else samples
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(samples), 1024):
            pcm = np.rint(np.clip(samples[start : start + 1024], -1, 1) * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@functools.cache
def all_pictures() -> dict[str, bytes]:
    """One encoded picture per accepted format and layout."""
    return {
        "dog.png": DOG_PNG,
        "dog.jpg": picture_bytes("JPEG"),
        "progressive.jpg": picture_bytes("JPEG", progressive=True),
        "dog.webp": picture_bytes("WEBP"),
        "lossless.webp": picture_bytes("WEBP", lossless=True),
        "dog.gif": picture_bytes("GIF"),
        "dog.bmp": picture_bytes("BMP"),
    }


@functools.cache
def all_sounds() -> dict[str, bytes]:
    """One encoded sound per accepted format and codec."""
    return {
        "tabla.flac": TABLA_FLAC,
        "tabla.wav": sound_bytes("WAV", "PCM_16"),
        "float.wav": sound_bytes("WAV", "FLOAT"),
        "tabla.aiff": sound_bytes("AIFF", "PCM_16"),
        "vorbis.ogg": sound_bytes("OGG", "VORBIS"),
        "opus.ogg": sound_bytes("OGG", "OPUS"),
        "tabla.mp3": sound_bytes("MP3", None),
        "tabla.m4a": av_bytes("mp4", "aac"),
        "tabla.aac": av_bytes("adts", "aac"),
        "tabla.webm": av_bytes("webm", "libopus", rate=48_000),
        "tabla.g722": av_bytes("g722", "g722", rate=16_000),
    }
