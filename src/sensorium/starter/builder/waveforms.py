"""Recordings to short clips: cutting, fading, levelling and encoding."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.float32]

_FRAME_S = 0.01
_SILENCE_DB = -45.0
_FADE_S = 0.02
# The codec overshoots by up to a third: decoded clips must stay within [-1, 1].
_PEAK = 0.7
# A clip shorter than this is padded: a model's patches of sound are about 64 ms long.
_MIN_DURATION_S = 0.5
_OPUS_COMPRESSION = 0.93
_SERIAL = 1
_QUICK_OPUS = {"compression_level": "5", "application": "audio"}
_QUICK_BIT_RATE = 28_000


def trim_silence(waveform: Waveform, sample_rate: int) -> Waveform:
    """Return the waveform without silence at its ends (quieter than 45 dB below its loudest frame)."""
    frame = round(_FRAME_S * sample_rate)
    num_frames = -(-len(waveform) // frame)
    padded = np.pad(waveform, (0, num_frames * frame - len(waveform)))
    power = np.square(padded.reshape(num_frames, frame), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    return waveform[loud[0] * frame : (loud[-1] + 1) * frame]


def loudest_part(waveform: Waveform, sample_rate: int, duration_s: float) -> Waveform:
    """Return the part of the given duration with the most energy, the earliest of equally good ones."""
    length = round(duration_s * sample_rate)
    if len(waveform) <= length:
        return waveform
    hop = round(_FRAME_S * sample_rate)
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(0, len(waveform) - length + 1, hop)
    window = energy[starts + length] - energy[starts]
    # Earliest within a decibel of the best: a sound's beginning tells most about it.
    start = starts[np.flatnonzero(window >= window.max() * 10**-0.1)[0]]
    return waveform[start : start + length]


def finish(waveform: Waveform, sample_rate: int) -> Waveform:
    """Return the clip without its mean, ends faded, peak at 0.7, padded to half a second at least."""
    clip = waveform - np.float32(waveform.mean())
    fade = min(round(_FADE_S * sample_rate), len(clip) // 4)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    # The attack of a percussive sound is kept: only a few samples at its beginning are ramped.
    short = ramp[:: max(1, fade // 32)]
    clip[: len(short)] *= short
    clip[len(clip) - fade :] *= ramp[::-1]
    clip *= np.float32(_PEAK / max(float(np.abs(clip).max()), 1e-4))
    return np.pad(clip, (0, max(0, round(_MIN_DURATION_S * sample_rate) - len(clip))))


def encode_opus(waveform: Waveform, sample_rate: int) -> bytes:
    """Return the waveform as Ogg Opus; the same samples give the same bytes."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, waveform, sample_rate, format="OGG", subtype="OPUS", compression_level=_OPUS_COMPRESSION
    )
    return _with_fixed_serial(buffer.getvalue())


def encode_opus_quick(waveform: Waveform, sample_rate: int) -> bytes:
    """Return the waveform as Ogg Opus, eight times as quick as `encode_opus` and a third larger.

    For thousands of recordings; the same samples give the same bytes.
    """
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=sample_rate, options=_QUICK_OPUS)
        stream.bit_rate = _QUICK_BIT_RATE
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate = sample_rate
        # Without a time the container counts the codec's delay twice, and readers refuse clips under a second.
        frame.pts, frame.time_base = 0, Fraction(1, sample_rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return _with_fixed_serial(buffer.getvalue())


def _with_fixed_serial(ogg: bytes) -> bytes:
    # The library draws a random serial number for every stream, which no reader of one stream looks at.
    pages, position = [], 0
    while position < len(ogg):
        num_segments = ogg[position + 26]
        header_end = position + 27 + num_segments
        end = header_end + sum(ogg[position + 27 : header_end])
        page = bytearray(ogg[position:end])
        struct.pack_into("<II", page, 14, _SERIAL, int.from_bytes(page[18:22], "little"))
        struct.pack_into("<I", page, 22, 0)
        struct.pack_into("<I", page, 22, _ogg_checksum(page))
        pages.append(bytes(page))
        position = end
    return b"".join(pages)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes | bytearray) -> int:
    """Return the checksum of an Ogg page (RFC 3533, section 6): CRC-32 without reflection, from zero."""
    # The library's CRC-32 has the same polynomial, but reads and gives the bits in the other order.
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
