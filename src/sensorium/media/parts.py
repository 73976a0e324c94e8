"""What a user hands to ``generate`` and ``embed`` and gets back: a picture, a sound or a video from anywhere."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from sensorium.media import audio, image, video
from sensorium.media.errors import MediaError

SOFTWARE = "sensorium"
EXIF_DESCRIPTION, EXIF_SOFTWARE = 0x010E, 0x0131


class Image:
    """A picture. Files are read when the pixels are asked for, not before.

    Args:
        source: a path, encoded bytes, a Pillow image, or an array: uint8 ``[H, W]``, ``[H, W, 3]`` or
            ``[H, W, 4]`` (transparent parts are laid over white).
        generated: set on a picture that a model made; its entries are written into every saved file.
    """

    def __init__(
        self,
        source: str | Path | bytes | pillow.Image | np.ndarray,
        *,
        generated: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if not isinstance(source, str | Path | bytes | pillow.Image | np.ndarray):
            raise TypeError(
                f"Image was given a {type(source).__name__}; expected a path, bytes, a Pillow image "
                "or a uint8 array"
            )
        if isinstance(source, np.ndarray):
            _check_array(source)
        self.source = source
        self.generated = None if generated is None else dict(generated)

    def pixels(self) -> np.ndarray:
        """Decode to upright RGB, uint8 ``[H, W, 3]``."""
        if isinstance(self.source, np.ndarray):
            if self.source.ndim == 3 and self.source.shape[2] == 3:
                return self.source.copy()
            return image.to_rgb(pillow.fromarray(self.source))
        if isinstance(self.source, pillow.Image):
            return image.to_rgb(self.source)
        data, name = _read(self.source, "picture", image.DEFAULT_LIMITS.max_bytes)
        return image.decode_image(data, name=name)

    def save(self, path: str | Path) -> Path:
        """Write as PNG, JPEG or WebP, by the suffix, and return the path."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in (".png", ".jpg", ".jpeg", ".webp"):
            raise ValueError(f"cannot save a picture as {path.name!r}; use .png, .jpg or .webp")
        mark = _mark(self.generated)
        if suffix == ".png":
            return _write(path, image.encode_png(self.pixels(), text=mark))
        exif = pillow.Exif()
        if mark:
            exif[EXIF_SOFTWARE], exif[EXIF_DESCRIPTION] = SOFTWARE, json.dumps(mark)
        buffer = io.BytesIO()
        kind = "WEBP" if suffix == ".webp" else "JPEG"
        pillow.fromarray(self.pixels()).save(buffer, format=kind, quality=95, exif=exif)
        return _write(path, buffer.getvalue())

    def _repr_png_(self) -> bytes:
        return image.encode_png(self.pixels(), text=_mark(self.generated))

    def __repr__(self) -> str:
        return f"Image({_describe(self.source)})"


class Audio:
    """A sound. Files are read when the waveform is asked for, not before.

    Args:
        source: a path, encoded bytes, or ``(samples, sample_rate)`` with samples ``[N]`` or
            ``[N, channels]``, floats in [-1, 1] or int16.
        generated: set on a sound that a model made; its entries are written into every saved file.
    """

    def __init__(
        self,
        source: str | Path | bytes | tuple[np.ndarray, int],
        *,
        generated: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if isinstance(source, tuple):
            if len(source) != 2 or not isinstance(source[0], np.ndarray):
                raise TypeError(
                    "Audio was given another kind of tuple; expected (samples array, sample_rate)"
                )
        elif not isinstance(source, str | Path | bytes):
            raise TypeError(
                f"Audio was given a {type(source).__name__}; expected a path, bytes, or the pair "
                "(samples array, sample_rate)"
            )
        self.source = source
        self.generated = None if generated is None else dict(generated)

    def waveform(self) -> np.ndarray:
        """Decode to mono at 24 kHz, float32 ``[N]`` in [-1, 1]."""
        if isinstance(self.source, tuple):
            return audio.to_waveform(*self.source)
        data, name = _read(self.source, "sound", audio.DEFAULT_LIMITS.max_bytes)
        return audio.decode_audio(data, name=name)

    def save(self, path: str | Path) -> Path:
        """Write as 16-bit mono WAV or FLAC at 24 kHz, by the suffix, and return the path."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in (".wav", ".flac"):
            raise ValueError(f"cannot save a sound as {path.name!r}; use .wav or .flac")
        if suffix == ".wav":
            return _write(path, self._wav())
        import soundfile

        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", audio.SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
            if mark := _mark(self.generated):
                file.comment = json.dumps(mark)
            file.write(self.waveform())
        return _write(path, buffer.getvalue())

    def _wav(self) -> bytes:
        mark = _mark(self.generated)
        return audio.encode_wav(self.waveform(), comment=json.dumps(mark) if mark else None)

    def _repr_html_(self) -> str:
        wav = base64.b64encode(self._wav()).decode()
        return f'<audio controls src="data:audio/wav;base64,{wav}"></audio>'

    def __repr__(self) -> str:
        return f"Audio({_describe(self.source)})"


class Video:
    """A video, with the sound it has. Files are read when frames or sound are asked for, not before.

    Args:
        source: a path, encoded bytes (MP4, MOV, MKV, WebM, animated GIF, WebP or PNG), or a list of frames of one
            size (``sm.Image``, Pillow pictures or uint8 arrays).
        fps: frames per second of a list of frames.
        max_frames: frames that the model sees, evenly spaced: each one costs as much as a picture.
        max_fps: of them per second, at most.
        sound: whether the model hears the sound track too.
    """

    def __init__(
        self,
        source: str | Path | bytes | Sequence[Any],
        *,
        fps: float = 0.0,
        max_frames: int = 8,
        max_fps: float = 8.0,
        sound: bool = True,
    ) -> None:
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        is_list = not isinstance(source, str | Path | bytes)
        if is_list and (not isinstance(source, list | tuple | np.ndarray) or len(source) == 0):
            raise TypeError(
                f"Video was given a {type(source).__name__}; expected a path, bytes, or a list of frames"
            )
        if is_list != (fps > 0):
            raise ValueError("a list of frames needs fps, their number per second; a file has its own")
        if max_frames < 1 or max_fps <= 0:
            raise ValueError(f"max_frames {max_frames}, max_fps {max_fps}: expected at least 1, and above 0")
        self.source, self.fps, self.sound = source, fps, sound
        self.limits = video.VideoLimits(max_frames=max_frames, max_fps=max_fps)

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 ``[F, H, W, 3]`` and the time of each frame in seconds from the start, float64 ``[F]``."""
        if isinstance(self.source, str | Path | bytes):
            data, name = self._read()
            return video.decode_video(data, name=name, limits=self.limits)
        return video.spaced(self.stream(), "video", self.limits)

    def stream(self) -> Iterator[tuple[float, np.ndarray]]:
        """All frames, one after another, with their times in seconds: none is left out, none is kept."""
        if isinstance(self.source, str | Path | bytes):
            data, name = self._read()
            return video.stream_video(data, name=name, limits=self.limits)
        return ((n / self.fps, _frame(frame)) for n, frame in enumerate(self.source))

    def waveform(self) -> np.ndarray | None:
        """The sound track, mono at 24 kHz, float32 ``[N]``; None where there is none."""
        if not isinstance(self.source, str | Path | bytes):
            return None
        data, name = self._read()
        return video.decode_soundtrack(data, name=name, limits=self.limits)

    def _read(self) -> tuple[bytes, str]:
        assert isinstance(self.source, str | Path | bytes)
        return _read(self.source, "video", self.limits.max_bytes)

    def __repr__(self) -> str:
        if isinstance(self.source, str | Path | bytes):
            return f"Video({_describe(self.source)})"
        return f"Video({len(self.source)} frames at {self.fps:g} a second)"


def _frame(frame: Any) -> np.ndarray:
    picture = frame if isinstance(frame, Image) else Image(frame)
    return picture.pixels()


def _mark(generated: Mapping[str, str] | None) -> dict[str, str]:
    """What a saved file says about having been generated; nothing for media that were not."""
    return {} if generated is None else {"Software": SOFTWARE, "generated": "true", **generated}


def _check_array(array: np.ndarray) -> None:
    channels_last = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not channels_last or array.size == 0:
        raise MediaError(
            "image",
            f"is a {array.dtype} array of shape {list(array.shape)}",
            "expected non-empty uint8 [H, W], [H, W, 3] or [H, W, 4]",
            "scale values to 0..255, channels last",
        )


def _read(source: str | Path | bytes, kind: str, max_bytes: int) -> tuple[bytes, str]:
    """Return the encoded bytes and what errors call them; a file too large is refused unread."""
    if isinstance(source, bytes):
        return source, kind
    if str(source).startswith(("http:", "https:", "data:")):
        shown = str(source)[:80]
        raise ValueError(f"{shown}: is an address; expected a file; download it and give its path")
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such {kind} file; check the path (relative to {Path.cwd()})")
    if not path.is_file():
        raise MediaError(str(path), "is a folder or device", f"expected a {kind} file", "name a file")
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        raise image.too_many_bytes(str(path), num_bytes, max_bytes)
    return path.read_bytes(), str(path)


def _write(path: Path, data: bytes) -> Path:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to save {path.name} in; make it first")
    path.write_bytes(data)
    return path


def _describe(source: Any) -> str:
    if isinstance(source, str | Path):
        return repr(str(source))
    if isinstance(source, bytes):
        return f"{len(source):,} bytes"
    if isinstance(source, tuple):
        return f"{len(source[0]):,} samples at {source[1]:,} Hz"
    if isinstance(source, pillow.Image):
        return f"{source.width} x {source.height} pixels"
    return f"{source.shape[1]} x {source.shape[0]} pixels"
