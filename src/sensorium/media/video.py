"""Videos: encoded bytes to a bounded number of RGB frames with their times, and to their sound.

Frames are decoded one after another and only those that are kept stay in memory: when the budget of frames is
reached, every second one is dropped and the distance between the rest doubles, so a video of any length gives
between half the budget and the whole of it, evenly spaced.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from sensorium.media.audio import AudioLimits, check_webm, decode_audio
from sensorium.media.errors import MediaError, describe_bytes
from sensorium.media.image import MIB, read_animation, to_rgb, too_many_bytes


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What a video may cost, and how many frames are taken from it.

    Args:
        max_bytes: size of the encoded file.
        max_duration_s: in seconds.
        max_pixels: height times width of a frame, judged before the first one is decoded.
        max_frames: frames that are kept.
        max_fps: frames kept per second of video, at most.
        max_side: longer side of a kept frame in pixels; larger ones are shrunk, keeping their shape.
    """

    max_bytes: int = 512 * MIB
    max_duration_s: float = 3600.0
    max_pixels: int = 4096 * 4096
    max_frames: int = 64
    max_fps: float = 8.0
    max_side: int = 512


DEFAULT_LIMITS = VideoLimits()
_FORMATS = "expected a video in MP4, WebM, or an animated WebP, GIF or PNG"
_MEND = "fetch or export it again"
_DEMUXERS = {"MP4": "mov", "WEBM": "matroska"}
_DECODERS = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,mpeg4,mjpeg"


def decode_video(
    data: bytes, *, name: str = "video", limits: VideoLimits = DEFAULT_LIMITS
) -> tuple[np.ndarray, np.ndarray]:
    """Decode evenly spaced frames of a video; a still picture is a video of one frame.

    Args:
        data: the encoded file.
        name: what errors call it.
        limits: what it may cost, and how many frames are taken.

    Returns:
        uint8 ``[F, H, W, 3]`` and float64 ``[F]``, the time of each frame in seconds from the start.

    Raises:
        MediaError: empty, too large, of another format, without a picture track, truncated or damaged.
    """
    return spaced(stream_video(data, name=name, limits=limits), name, limits)


def stream_video(
    data: bytes, *, name: str = "video", limits: VideoLimits = DEFAULT_LIMITS
) -> Iterator[tuple[float, np.ndarray]]:
    """All frames of a video, each with its time in seconds from the start, one at a time.

    Args and errors: as of ``decode_video``; of the limits, those on frames do not count.
    """
    if not data:
        raise MediaError(name, "is empty (0 bytes)", _FORMATS, "write or send the file again")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits.max_bytes)
    kind = _sniff(data)
    if not kind:
        raise MediaError(name, describe_bytes(data), _FORMATS, "convert it or choose another file")
    try:
        if kind == "GIF" and not data.rstrip(b"\0").endswith(b";"):  # its reader stops at what is there
            raise EOFError("the end of the file is missing")
        if kind == "WEBM":
            check_webm(data, name, "video")
        yield from (
            _av_frames(data, name, kind, limits) if kind in _DEMUXERS else _still_frames(data, name, limits)
        )
    except MediaError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = words.strip().rstrip(".").replace("\n", " ")
        found = f"is a damaged or truncated {kind} video ({reason})"
        raise MediaError(name, found, "expected one that decodes to its end", _MEND) from error


def decode_soundtrack(
    data: bytes, *, name: str = "video", limits: VideoLimits = DEFAULT_LIMITS
) -> np.ndarray | None:
    """The sound of a video, float32 ``[N]`` at 24 kHz; None where it has no sound track.

    Raises:
        MediaError: the sound track is damaged, too long or too large.
    """
    if not count_tracks(data)[1]:
        return None
    kept = AudioLimits(max_duration_s=limits.max_duration_s, max_bytes=limits.max_bytes)
    return decode_audio(data, name=name, limits=kept)


def count_tracks(data: bytes) -> tuple[int, int]:
    """Picture and sound tracks of an MP4 or WebM; (0, 0) for anything else."""
    import av

    kind = _sniff(data)
    if kind not in _DEMUXERS:
        return 0, 0
    options = {"format_whitelist": _DEMUXERS[kind], "protocol_whitelist": "", "codec_whitelist": _DECODERS}
    try:
        with av.open(io.BytesIO(data), "r", format=_DEMUXERS[kind], container_options=options) as container:
            return len(container.streams.video), len(container.streams.audio)
    except av.FFmpegError:  # whoever decodes it will say what is wrong with it
        return 0, 0


def _sniff(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "MP4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "WEBM"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((k for m, k in ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF")) if data.startswith(m)), "")


def spaced(
    frames: Iterator[tuple[float, np.ndarray]], name: str, limits: VideoLimits
) -> tuple[np.ndarray, np.ndarray]:
    """Keep frames evenly spaced within the limits: at least ``step`` seconds apart, doubled whenever there are too many.

    Args:
        frames: times in seconds, rising, and uint8 ``[H, W, 3]``.

    Returns:
        uint8 ``[F, H, W, 3]`` and float64 ``[F]``.
    """
    step = 1 / limits.max_fps
    kept: list[tuple[float, np.ndarray]] = []
    due = 0.0
    for time_s, pixels in frames:
        if time_s > limits.max_duration_s:
            found = f"lasts longer than {limits.max_duration_s:g} s"
            raise MediaError(
                name, found, "expected a video within that limit", "cut it or raise max_duration_s"
            )
        # Times are rounded in files: a frame that is due within a millisecond is due.
        if time_s + 1e-3 < due:
            continue
        if kept and pixels.shape != kept[0][1].shape:
            raise MediaError(
                name, "changes its size on the way", "expected frames of one size", "encode it again"
            )
        kept.append((time_s, pixels))
        due = max(due + step, time_s + step / 2)
        if len(kept) > limits.max_frames:
            kept = kept[::2]
            # Frames may lie further apart than the step that was asked for.
            step = max(step * 2, kept[-1][0] - kept[-2][0]) if len(kept) > 1 else step * 2
            due = kept[-1][0] + step
    if not kept:
        raise MediaError(
            name, "holds no picture", "expected at least one frame", "check that it is the right file"
        )
    return np.stack([pixels for _, pixels in kept]), np.array([time_s for time_s, _ in kept])


def _still_frames(data: bytes, name: str, limits: VideoLimits) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of an animated picture; the stated duration of each is how long it is shown, in milliseconds."""
    time_ms = 0.0
    with read_animation(data, name, limits.max_pixels) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield time_ms / 1000, _shrink(Image.fromarray(to_rgb(frame.copy())), limits.max_side)
            # Viewers show frames without a duration for a tenth of a second.
            time_ms += float(frame.info.get("duration") or 100)


def _av_frames(data: bytes, name: str, kind: str, limits: VideoLimits) -> Iterator[tuple[float, np.ndarray]]:
    import av

    options = {"format_whitelist": _DEMUXERS[kind], "protocol_whitelist": "", "codec_whitelist": _DECODERS}
    with av.open(io.BytesIO(data), "r", format=_DEMUXERS[kind], container_options=options) as container:
        stream: Any = next(iter(container.streams.video), None)
        if stream is None:
            raise MediaError(name, "has no picture track", "expected one", "check that it is the right file")
        _check_frame(name, stream.codec_context.width, stream.codec_context.height, limits)
        announced_s = float((stream.duration or 0) * (stream.time_base or 0))
        first: float | None = None
        last = 0.0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise MediaError(
                    name,
                    f"is a damaged or truncated {kind} video (a packet is incomplete)",
                    "expected one that decodes to its end",
                    _MEND,
                )
            for frame in packet.decode():
                _check_frame(name, frame.width, frame.height, limits)
                at = float(frame.time or 0.0)
                first = at if first is None else first
                last = at - first
                yield last, _shrink(frame.to_image(), limits.max_side)
        rate = float(stream.average_rate or 0)
        if first is not None and last + (2 / rate if rate else 1.0) < announced_s - 0.5:
            found = f"is a truncated {kind} video: {last:.1f} of {announced_s:.1f} s can be read"
            raise MediaError(name, found, "expected one that decodes to its end", _MEND)


def _check_frame(name: str, width: int, height: int, limits: VideoLimits) -> None:
    if width < 1 or height < 1 or width * height > limits.max_pixels:
        raise MediaError(
            name,
            f"has frames of {width:,} x {height:,} pixels",
            f"expected 1 to {limits.max_pixels:,} in all",
            "make it smaller or raise max_pixels",
        )


def _shrink(picture: Image.Image, max_side: int) -> np.ndarray:
    scale = max_side / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)
