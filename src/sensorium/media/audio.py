"""Sound: encoded bytes to a mono waveform, waveform to log-mel spectrogram, and both ways back.

The spectrogram is that of the public Vocos 24 kHz vocoder, so that its weights fit.
"""

import functools
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensorium.media.errors import MediaError, describe_bytes
from sensorium.media.image import MIB, too_many_bytes

SAMPLE_RATE = 24_000
N_FFT = 1024
HOP_LENGTH = 256
NUM_MELS = 100

MEL_FLOOR = 1e-7
# The energy of a sound in [-1, 1] bounds its widest band at 7.3; this bounds what a model may ask for.
MAX_LOG_MEL = 8.0
# Measured on 17.6 minutes of real sound: studio speech has mean -2.7 and deviation 4.4, everyday sounds
# -3.7 and 5.5. The floor (-16.1) maps to -2.9, the median to about 0.3, the loudest to 1.8.
MEL_MEAN, MEL_SCALE = -3.0, 4.5

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE, MAX_CHANNELS = 4_000, 384_000, 8
# Decoders of lossy formats overshoot 1 a little and players clip that; far above it, the scale is wrong.
MAX_PEAK = 16.0

_BLOCK = 65_536
_FORMATS = "expected WAV, FLAC, OGG, AIFF, MP3, M4A, WEBM or (by its suffix) G722"
# FFmpeg reads only what it is told to: its other demuxers include playlists that open further files.
_DEMUXERS = {"MP3": "mp3", "AAC": "aac", "MP4": "mov", "WEBM": "matroska", "OGG": "ogg", "G722": "g722"}
_OGG_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC")  # those that libsndfile reads
_DECODERS = "mp3float,mp3,aac,alac,opus,libopus,vorbis,libvorbis,flac,g722,speex,libspeex,pcm_s16le,pcm_s16be"


@dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """What a sound may cost.

    Args:
        max_duration_s: enforced while decoding, so that it bounds memory too.
        max_bytes: size of the encoded file.
    """

    max_duration_s: float = 600.0
    max_bytes: int = 64 * MIB


DEFAULT_LIMITS = AudioLimits()


def decode_audio(
    data: bytes,
    *,
    name: str = "audio",
    limits: AudioLimits = DEFAULT_LIMITS,
    sample_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Decode a sound to mono (the mean of its channels) at one sample rate.

    Args:
        data: the encoded file.
        name: what errors call it; its suffix tells G722, which has no header.
        limits: what the sound may cost.
        sample_rate: of the result, in Hz.

    Returns:
        float32 ``[N]`` in [-1, 1].

    Raises:
        MediaError: empty, too long, of another format, truncated, damaged, or with an impossible header. An
            MP3, AAC or G722 that was cut off is a shorter one; that cannot be told.
    """
    if not data:
        raise MediaError(name, "is empty (0 bytes)", _FORMATS, "write or send the file again")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits.max_bytes)
    kind = _sniff(data, name)
    if not kind:
        found = describe_bytes(data)
        raise MediaError(name, found, _FORMATS, "convert it or choose another file")
    try:
        _check_complete(data, name, kind)
        if kind in _DEMUXERS and not (kind == "OGG" and any(codec in data[:64] for codec in _OGG_CODECS)):
            return _decode_av(data, name, kind, limits, sample_rate)
        return _decode_soundfile(data, name, limits, sample_rate)
    except MediaError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        # libsndfile's and FFmpeg's own words; their exceptions wrap these in addresses and numbers.
        words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        raise _damaged(name, kind, words or type(error).__name__) from error


def to_waveform(
    samples: np.ndarray, rate: int, *, name: str = "audio", limits: AudioLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Turn samples held in memory into float32 ``[N]``, mono, 24 kHz, in [-1, 1].

    Args:
        samples: ``[N]`` or ``[N, channels]``; floats in [-1, 1], or int16.
        rate: their sample rate in Hz.
        name: what errors call them.
        limits: what the sound may cost.
    """
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32_768
    elif not np.issubdtype(samples.dtype, np.floating):
        found = f"holds samples of type {samples.dtype}"
        raise MediaError(name, found, "expected floats in [-1, 1] or int16", "divide by the full scale")
    if samples.ndim not in (1, 2):
        found = f"has shape {list(samples.shape)}"
        raise MediaError(name, found, "expected [samples] or [samples, channels]", "reshape it")
    block = samples.astype(np.float32)
    block = block if block.ndim == 2 else block[:, None]
    collector = _Collector(name, rate, block.shape[1], limits, SAMPLE_RATE)
    for start in range(0, len(block), _BLOCK):
        collector.add(block[start : start + _BLOCK])
    return collector.finish()


class _Collector:
    """Takes blocks ``[n, channels]``, mixes and resamples them, and stops at the limits."""

    def __init__(self, name: str, rate: int, channels: int, limits: AudioLimits, sample_rate: int) -> None:
        import soxr

        _check_header(name, rate, channels)
        self.name, self.rate, self.channels, self.limits = name, rate, channels, limits
        self.num_samples = 0
        self._chunks: list[np.ndarray] = []
        self._resampler = None
        if rate != sample_rate:
            self._resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")

    def add(self, block: np.ndarray) -> None:
        self.num_samples += len(block)
        self.check_duration(self.num_samples)
        peak = float(np.abs(block).max(initial=0.0))
        if not np.isfinite(peak):
            found = "holds NaN or infinite samples"
            raise MediaError(self.name, found, "expected finite ones in [-1, 1]", "export it again")
        if peak > MAX_PEAK:
            found = f"holds samples up to {peak:,.0f}"
            raise MediaError(self.name, found, "expected floats in [-1, 1]", "divide by the full scale")
        mono = block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]
        self._chunks.append(self._resampler.resample_chunk(mono) if self._resampler else mono)

    def check_duration(self, num_samples: int) -> None:
        """Refuse a number of samples, counted or announced, over the limit."""
        if num_samples > self.limits.max_duration_s * self.rate:
            raise MediaError(
                self.name,
                f"lasts longer than {self.limits.max_duration_s:g} s",
                "expected a sound within that limit",
                "cut it into pieces or raise max_duration_s",
            )

    def finish(self) -> np.ndarray:
        if self.num_samples == 0:
            raise MediaError(self.name, "holds no samples", "expected at least one", "export it again")
        if self._resampler:
            self._chunks.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.clip(np.concatenate(self._chunks), -1.0, 1.0)


def _decode_soundfile(data: bytes, name: str, limits: AudioLimits, sample_rate: int) -> np.ndarray:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        collector = _Collector(name, file.samplerate, file.channels, limits, sample_rate)
        # FLAC streams of unknown length announce the largest integer.
        announced = file.frames if file.frames < 2**62 else 0
        collector.check_duration(announced)
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            collector.add(block)
    if collector.num_samples < announced:
        raise _damaged(name, file.format, f"{collector.num_samples:,} of {announced:,} samples can be read")
    return collector.finish()


def _decode_av(data: bytes, name: str, kind: str, limits: AudioLimits, sample_rate: int) -> np.ndarray:
    import av

    options = {"format_whitelist": _DEMUXERS[kind], "protocol_whitelist": "", "codec_whitelist": _DECODERS}
    with av.open(io.BytesIO(data), "r", format=_DEMUXERS[kind], container_options=options) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError(name, "has no sound track", "expected one", "check that it is the right file")
        announced_s = float((stream.duration or 0) * (stream.time_base or 0))
        collector: _Collector | None = None
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _damaged(name, kind, f"packet at {packet.pos} is incomplete")
            for frame in packet.decode():
                block = _frame_samples(frame)
                if collector is None:
                    collector = _Collector(name, frame.sample_rate, block.shape[1], limits, sample_rate)
                if (frame.sample_rate, block.shape[1]) != (collector.rate, collector.channels):
                    raise _damaged(name, kind, "its sample rate or channels change on the way")
                collector.add(block)
    if collector is None:
        raise MediaError(name, "holds no samples", "expected at least one", "export it again")
    decoded_s = collector.num_samples / collector.rate
    if kind == "MP4" and decoded_s < announced_s - 0.5:
        raise _damaged(name, kind, f"{decoded_s:.1f} of {announced_s:.1f} s can be read")
    return collector.finish()


def _frame_samples(frame: Any) -> np.ndarray:
    """One decoded FFmpeg frame as float32 ``[n, channels]``."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)


def _sniff(data: bytes, name: str) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "WAV"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    for magic, kind in ((b"fLaC", "FLAC"), (b"OggS", "OGG"), (b"ID3", "MP3"), (b"\x1a\x45\xdf\xa3", "WEBM")):
        if data.startswith(magic):
            return kind
    if data[4:8] == b"ftyp":
        return "MP4"
    # MPEG frame sync: eleven set bits; layer 0 is AAC in ADTS frames.
    if len(data) > 4 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[:3] != b"\xff\xfe\x00":
        return "AAC" if data[1] & 0x06 == 0 else "MP3"
    return "G722" if name.lower().endswith(".g722") else ""


def _check_complete(data: bytes, name: str, kind: str) -> None:
    """Compare the sizes that the headers announce with the bytes that are there; decoders do not tell."""
    if kind == "OGG":
        _check_ogg(data, name)
    if kind == "WEBM":
        check_webm(data, name)
    if kind not in ("WAV", "AIFF"):
        return
    order = "<" if kind == "WAV" else ">"
    sound_chunk = b"data" if kind == "WAV" else b"SSND"
    at = 12
    while at + 8 <= len(data):
        chunk, size = struct.unpack_from(order + "4sI", data, at)
        if chunk == b"fmt " and at + 16 <= len(data):
            channels, rate = struct.unpack_from("<HI", data, at + 10)
            _check_header(name, rate, channels)
        if chunk == sound_chunk:
            # Programs that write to a pipe announce about the largest size instead of the true one.
            if size < 0x7FFF_0000 and at + 8 + size > len(data):
                raise _damaged(name, kind, f"{len(data) - at - 8:,} of {size:,} bytes of sound are there")
            return
        at += 8 + size + size % 2
    raise _damaged(name, kind, "it ends before the sound begins")


def _check_ogg(data: bytes, name: str) -> None:
    """Walk the pages (RFC 3533, section 6): the last must be whole and carry the end-of-stream flag."""
    at, last = 0, False
    while at < len(data):
        num_segments = data[at + 26] if at + 27 <= len(data) else 255
        header_end = at + 27 + num_segments
        if data[at : at + 4] != b"OggS" or header_end > len(data):
            raise _damaged(name, "OGG", f"no whole page at byte {at:,} of {len(data):,}")
        last = bool(data[at + 5] & 4)
        at = header_end + sum(data[at + 27 : header_end])
    if at > len(data) or not last:
        raise _damaged(name, "OGG", f"the end of the stream is missing after {len(data):,} bytes")


def check_webm(data: bytes, name: str, what: str = "sound") -> None:
    """Read the size of the segment, the element after the EBML header (RFC 8794, section 4)."""
    at = 4
    for ident in (b"", b"\x18\x53\x80\x67"):
        at += len(ident)
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        end = at + width + size
        # All bits set: of unknown size, as written by live recorders.
        if size == (1 << 7 * width) - 1 or (ident and data[at - 4 : at] != ident):
            return
        if end > len(data):
            raise _damaged(name, "WEBM", f"{len(data):,} of {end:,} bytes are there", what)
        at = end


def _check_header(name: str, rate: int, channels: int) -> None:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        expected = f"expected {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,} Hz"
        raise MediaError(name, f"states a sample rate of {rate:,} Hz", expected, "export it again")
    if not 1 <= channels <= MAX_CHANNELS:
        found, expected = f"states {channels:,} channels", f"expected 1 to {MAX_CHANNELS}"
        raise MediaError(name, found, expected, "export it as mono or stereo")


def _damaged(name: str, kind: str, reason: str, what: str = "sound") -> MediaError:
    reason = reason.removeprefix("Error : ").strip().rstrip(".").replace("\n", " ")
    found = f"is a damaged or truncated {kind} {what} ({reason})"
    return MediaError(name, found, "expected one that decodes to its end", "fetch or export it again")


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram: centred frames, periodic Hann window, magnitudes, HTK mel scale, natural log.

    Args:
        waveform: float ``[N]`` at 24 kHz, N at least 1.

    Returns:
        float32 ``[1 + N // 256, 100]``, at least log(1e-7).

    Source: the feature extractor of Vocos (arXiv 2306.00814): torchaudio's MelSpectrogram(24000, n_fft=1024,
    hop_length=256, n_mels=100, center=True, power=1), then log(clip(x, 1e-7)).
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"waveform has shape {list(waveform.shape)}; expected [N], N >= 1; mix it to mono")
    padded = np.pad(waveform.astype(np.float32, copy=False), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    mel = np.empty((len(frames), NUM_MELS), np.float32)
    for start in range(0, len(frames), 1020):  # bounds memory on long sounds
        magnitude = np.abs(np.fft.rfft(frames[start : start + 1020] * _window()))
        # Too little at a time for BLAS to start threads: those of several decoding processes wait for each other.
        for at in range(0, len(magnitude), 5):
            mel[start + at : start + at + 5] = magnitude[at : at + 5] @ mel_filters()
    return np.log(np.maximum(mel, np.float32(MEL_FLOOR)))


def normalize_mel(log_mel: np.ndarray) -> np.ndarray:
    """Map log-mel values to roughly zero mean and unit variance."""
    return ((log_mel - MEL_MEAN) / MEL_SCALE).astype(np.float32)


def denormalize_mel(array: np.ndarray) -> np.ndarray:
    """Undo `normalize_mel`."""
    return (array * MEL_SCALE + MEL_MEAN).astype(np.float32)


def griffin_lim(log_mel: np.ndarray, *, num_iters: int = 32, seed: int = 0) -> np.ndarray:
    """Find a waveform whose log-mel spectrogram is close to the given one.

    Args:
        log_mel: float ``[F, 100]``, F at least 2.
        num_iters: rounds of phase search.
        seed: of the first, random phases.

    Returns:
        float32 ``[(F - 1) * 256]`` in [-1, 1].

    Source: fast Griffin-Lim (Perraudin, Balazs, Sondergaard 2013), momentum 0.99.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != NUM_MELS or len(log_mel) < 2:
        raise ValueError(f"log-mel has shape {list(log_mel.shape)}; expected [F, {NUM_MELS}] with F >= 2")
    if not np.isfinite(log_mel).all():
        raise ValueError("log-mel holds NaN or infinite values; expected finite ones; check what made it")
    mel = np.exp(np.clip(log_mel, np.log(MEL_FLOOR), MAX_LOG_MEL)).astype(np.float32)
    magnitude = _mel_to_magnitude(mel)
    phase = np.random.default_rng(seed).random(magnitude.shape, dtype=np.float32) * np.float32(2 * np.pi)
    spectrum = magnitude * np.exp(1j * phase).astype(np.complex64)
    previous = np.zeros_like(spectrum)
    momentum = np.float32(0.99 / 1.99)
    for _ in range(num_iters):
        rebuilt = _stft(_istft(spectrum))
        spectrum = rebuilt - momentum * previous
        spectrum *= magnitude / np.maximum(np.abs(spectrum), np.float32(1e-12))
        previous = rebuilt
    return np.clip(_istft(spectrum), -1.0, 1.0)


def encode_wav(waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE, comment: str | None = None) -> bytes:
    """Encode float ``[N]`` in [-1, 1] as 16-bit PCM WAV.

    Args:
        waveform: the sound; values outside [-1, 1] are clipped.
        sample_rate: in Hz.
        comment: kept in a LIST/INFO chunk (ICMT); it marks generated media.
    """
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise ValueError(f"waveform has shape {list(waveform.shape)}; expected [N] of finite values")
    samples = np.clip(np.rint(waveform * 32_768.0), -32_768, 32_767).astype("<i2").tobytes()
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16)
    if comment is not None:
        text = comment.encode() + b"\0"
        text += b"\0" * (len(text) % 2)
        chunks += b"LIST" + struct.pack("<I", 12 + len(text)) + b"INFO"
        chunks += b"ICMT" + struct.pack("<I", len(text)) + text
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@functools.cache
def _window() -> np.ndarray:
    """Periodic Hann window, float32 ``[1024]``."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """Triangles of height 1 on the HTK mel scale over 0 to 12 kHz, float32 ``[513, 100]``."""
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = 700 * (10 ** np.linspace(0, np.log10(1 + SAMPLE_RATE / 2 / 700), NUM_MELS + 2) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def _mel_pseudo_inverse() -> np.ndarray:
    return np.linalg.pinv(mel_filters().astype(np.float64)).astype(np.float32)


def _mel_to_magnitude(mel: np.ndarray, num_iters: int = 20) -> np.ndarray:
    """Non-negative ``[F, 513]`` whose mel bands are ``mel`` ``[F, 100]``.

    Source: multiplicative updates (Lee and Seung 2001, eq. 4) from the clipped pseudo-inverse.
    """
    filters = mel_filters()
    target = mel @ filters.T
    magnitude = np.maximum(mel @ _mel_pseudo_inverse(), target * np.float32(1e-3)) + np.float32(1e-10)
    for _ in range(num_iters):
        magnitude *= target / np.maximum(magnitude @ filters @ filters.T, np.float32(1e-12))
    return magnitude


def _stft(waveform: np.ndarray) -> np.ndarray:
    padded = np.pad(waveform, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    return np.fft.rfft(frames * _window()).astype(np.complex64, copy=False)


def _istft(spectrum: np.ndarray) -> np.ndarray:
    """Inverse of `_stft` by windowed overlap-add; each sample lies in four frames."""
    frames = np.fft.irfft(spectrum, n=N_FFT).astype(np.float32, copy=False) * _window()
    overlap = N_FFT // HOP_LENGTH
    total, weight = np.zeros((2, len(frames) + overlap - 1, HOP_LENGTH), np.float32)
    for i in range(overlap):
        part = slice(i * HOP_LENGTH, (i + 1) * HOP_LENGTH)
        total[i : i + len(frames)] += frames[:, part]
        weight[i : i + len(frames)] += _window()[part] ** 2
    signal = (total / np.maximum(weight, np.float32(1e-8))).ravel()
    return signal[N_FFT // 2 : N_FFT // 2 + (len(frames) - 1) * HOP_LENGTH]
