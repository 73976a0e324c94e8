import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from sensorium.media.audio import AudioLimits, decode_audio, encode_wav, to_waveform
from sensorium.media.errors import MediaError

from .samples import TABLA_FLAC, all_sounds, av_bytes, sound_bytes, tabla


def wav(samples: bytes, *, rate=24_000, channels=1, bits=16, kind=1, announced=None):
    head = struct.pack("<IHHIIHH", 16, kind, channels, rate, 0, max(1, channels * bits // 8) & 0xFFFF, bits)
    size = len(samples) if announced is None else announced
    chunks = b"fmt " + head + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", (4 + len(chunks)) & 0xFFFFFFFF) + b"WAVE" + chunks


@pytest.mark.parametrize("name", all_sounds())
def test_every_format_decodes_to_the_same_drum(name):
    sound = decode_audio(all_sounds()[name], name=name)
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    want = tabla()
    # Lossy formats add up to some thousand samples of padding in front and behind.
    assert abs(sound.size - want.size) < 3000
    full = 2 ** int(np.ceil(np.log2(sound.size + want.size)))
    correlation = np.fft.irfft(np.fft.rfft(sound, full) * np.conj(np.fft.rfft(want, full)))
    alike = correlation.max() / (np.linalg.norm(sound) * np.linalg.norm(want))
    lossless = name in ("tabla.flac", "tabla.wav", "float.wav", "tabla.aiff")
    assert alike > (0.9999 if lossless else 0.9)


def test_channels_are_averaged_and_rates_converted():
    t = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32) * 0.5
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1)
    sound = decode_audio(sound_bytes("WAV", "PCM_24", stereo, rate=44_100))
    assert abs(sound.size - 24_000) <= 1
    want = 0.25 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    np.testing.assert_allclose(sound[500:-500], want[500 : sound.size - 500], atol=2e-3)
    assert (
        abs(decode_audio(sound_bytes("WAV", "PCM_24", stereo, 44_100), sample_rate=16_000).size - 16_000) <= 1
    )


def test_resampling_in_blocks_is_resampling_the_whole():
    import soxr

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 300_000).astype(np.float32)
    whole = soxr.resample(noise, 44_100, 24_000)
    blocks = decode_audio(sound_bytes("WAV", "FLOAT", noise, rate=44_100))
    assert blocks.size == whole.size
    np.testing.assert_allclose(blocks, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is empty (0 bytes)"),
        (b"just some words", "is a text file"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "is a playlist (M3U)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture"),
    ],
)
def test_other_files_are_named(data, found):
    with pytest.raises(MediaError) as error:
        decode_audio(data, name="memo.wav")
    assert str(error.value).startswith(f"memo.wav: {found}; expected WAV, FLAC, OGG,")


@pytest.mark.parametrize(
    "name", [n for n in all_sounds() if n not in ("tabla.mp3", "tabla.g722", "tabla.aac")]
)
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_truncated_sounds_are_refused(name, keep):
    data = all_sounds()[name]
    with pytest.raises(
        MediaError, match=rf"^{name}: is a damaged or truncated \w+ sound \(.+\); .+; .+ again$"
    ):
        decode_audio(data[: int(len(data) * keep)], name=name)


def test_truncation_is_told_in_bytes():
    with pytest.raises(MediaError, match=r"WAV sound \(1,000 of 48,000 bytes of sound are there\)"):
        decode_audio(wav(bytes(1000), announced=48_000))


def test_wav_from_a_pipe_announces_no_size():
    assert decode_audio(wav(bytes(2000), announced=0xFFFFFFFF)).size == 1000


@pytest.mark.parametrize("rate", [0, 1, 4_000_000_000])
def test_forged_sample_rates_are_refused(rate):
    with pytest.raises(
        MediaError, match=f"states a sample rate of {rate:,} Hz; expected 4,000 to 384,000 Hz"
    ):
        decode_audio(wav(bytes(100), rate=rate))


@pytest.mark.parametrize("channels", [0, 9, 65_535])
def test_forged_channel_counts_are_refused(channels):
    with pytest.raises(MediaError, match=f"states {channels:,} channels; expected 1 to 8"):
        decode_audio(wav(bytes(100), channels=channels))


def test_forged_flac_header_is_refused():
    data = bytearray(TABLA_FLAC)
    data[18:21] = (0xFF, 0xFF, 0xF0 | data[20] & 0x0F)  # 20 bits of sample rate
    with pytest.raises(MediaError):
        decode_audio(bytes(data))


@pytest.mark.parametrize(
    "data",
    [wav(b""), wav(b"")[:30], b"RIFF\x04\0\0\0WAVE", TABLA_FLAC[:42]],
)
def test_no_samples(data):
    with pytest.raises(MediaError, match=r"holds no samples|ends before the sound begins|damaged"):
        decode_audio(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(bad):
    samples = np.zeros(5000, np.float32)
    samples[4321] = bad
    with pytest.raises(MediaError, match="holds NaN or infinite samples"):
        decode_audio(wav(samples.tobytes(), bits=32, kind=3))


def test_wrong_scale_is_refused_and_slight_overshoot_clipped():
    with pytest.raises(MediaError, match=r"holds samples up to 32,000; .*divide by the full scale"):
        decode_audio(wav(np.full(50, 32_000, np.float32).tobytes(), bits=32, kind=3))
    assert decode_audio(wav(np.full(50, 1.5, np.float32).tobytes(), bits=32, kind=3)).max() == 1


def test_duration_limit_is_exact():
    limits = AudioLimits(max_duration_s=1.0)
    assert (
        decode_audio(sound_bytes("WAV", "PCM_16", np.zeros(24_000, np.float32)), limits=limits).size == 24_000
    )
    for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        data = sound_bytes(kind, subtype, np.zeros(24_001, np.float32))
        with pytest.raises(MediaError, match="lasts longer than 1 s"):
            decode_audio(data, limits=limits)
    with pytest.raises(MediaError, match="at most 100 are accepted"):
        decode_audio(TABLA_FLAC, limits=AudioLimits(max_bytes=100))


@pytest.mark.parametrize("form", ["ogg", "webm", "mp3"])
def test_compressed_silence_stops_at_the_limit(form):
    """Three minutes of silence in a small file: decoding must stop after ten seconds of it."""
    silence = np.zeros(24_000 * 180, np.float32)
    if form == "ogg":
        data = sound_bytes("OGG", "OPUS", silence)
    else:
        data = av_bytes(form, "libopus" if form == "webm" else "libmp3lame", silence)
    tracemalloc.start()
    with pytest.raises(MediaError, match="lasts longer than 10 s"):
        decode_audio(data, limits=AudioLimits(max_duration_s=10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**20  # all of it would be 17 MB


def test_playlists_hidden_in_a_container_open_nothing():
    for name in ("a.g722", "a.mp3"):
        with pytest.raises(MediaError):
            decode_audio(b"ID3\x04\0\0\0\0\0\0#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", name=name)


def test_samples_in_memory():
    stereo = np.stack([np.full(480, 16_384), np.zeros(480)], axis=1).astype(np.int16)
    np.testing.assert_allclose(to_waveform(stereo, 24_000), np.full(480, 0.25))
    assert abs(to_waveform(np.zeros(48_000), 48_000).size - 24_000) <= 1
    for samples, rate, found in (
        (np.zeros(10, np.int64), 24_000, "type int64"),
        (np.zeros((2, 3, 4)), 24_000, "shape"),
        (np.zeros((2, 48_000)), 24_000, "channels"),
        (np.zeros(0), 24_000, "no samples"),
        (np.zeros(10), 0, "sample rate of 0"),
        (np.full(10, np.nan), 24_000, "NaN"),
    ):
        with pytest.raises(MediaError, match=found):
            to_waveform(samples, rate)


def test_wav_round_trip_and_comment():
    sound = tabla()
    for comment in (None, "odd", "even", 'ünïcode {"model": "nano"}'):
        data = encode_wav(sound, comment=comment)
        np.testing.assert_allclose(decode_audio(data), sound, atol=1 / 65_000)
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            assert file.subtype == "PCM_16"
            assert file.comment == (comment or "")
    with pytest.raises(ValueError, match="finite"):
        encode_wav(np.array([np.nan]))
