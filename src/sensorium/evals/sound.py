"""How near two sounds are, and how good a sound can be at all that leaves the model as a spectrogram."""

from collections.abc import Sequence

import numpy as np

from sensorium.generate.speech import MelToSound
from sensorium.media.audio import HOP_LENGTH, log_mel

RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))
_FLOOR = 1e-4  # 80 dB under full scale: what is quieter differs without being heard


def mel_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Absolute difference of two log-mel spectrograms for every frame of the real one, in nepers (1 is 8.7 dB).

    The shorter sound goes on in silence: who stops early is as far from what is missing as silence is, and who goes on
    pays for what is heard too much, without a longer sum to divide it by.

    Args:
        made, real: float ``[N]`` at 24 kHz, N of 0 too. Of two without a sample the distance is 0; where only the real
            one has none, every frame of the made one counts.

    Divided by the length of the reference, as a word error rate is.
    """
    size = max(made.size, real.size)
    if not size:
        return 0.0
    ours_FM, theirs_FM = (_audible(log_mel(_silent_to(wave, size))) for wave in (made, real))
    per_frame_F = np.abs(ours_FM - theirs_FM).mean(axis=1)
    return float(per_frame_F.sum() / (1 + (real.size or size) // HOP_LENGTH))


def stft_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Mean over four resolutions of the spectral convergence and the log-magnitude distance.

    Args:
        made, real: float ``[N]`` at 24 kHz; the shorter one goes on in silence.

    Source: the multi-resolution STFT loss, arXiv 1910.11480, eq. 4 to 6.
    """
    size = max(made.size, real.size)
    total = 0.0
    for window, hop in RESOLUTIONS:
        ours, theirs = (_magnitude(_silent_to(wave, size), window, hop) for wave in (made, real))
        total += float(np.linalg.norm(theirs - ours)) / max(float(np.linalg.norm(theirs)), 1e-6)
        total += float(np.abs(_audible(np.log(ours + 1e-9)) - _audible(np.log(theirs + 1e-9))).mean())
    return total / len(RESOLUTIONS)


def vocoder_ceiling(waveform: np.ndarray, to_sound: MelToSound) -> np.ndarray:
    """A real sound through its spectrogram and back: no model can sound better with this vocoder.

    A score of generated speech says little alone; report the same score of this beside it.

    Args:
        waveform: float ``[N]`` at 24 kHz. to_sound: a vocoder.
    """
    return to_sound(log_mel(waveform))


def score_vocoder(sounds: Sequence[np.ndarray], to_sound: MelToSound) -> dict[str, float]:
    """Means of ``mel_distance`` and ``stft_distance`` over real sounds and what comes back of them."""
    pairs = [(vocoder_ceiling(sound, to_sound), sound) for sound in sounds]
    return {
        "mel_distance": float(np.mean([mel_distance(*pair) for pair in pairs])),
        "stft_distance": float(np.mean([stft_distance(*pair) for pair in pairs])),
    }


def _silent_to(wave: np.ndarray, size: int) -> np.ndarray:
    return np.pad(wave, (0, size - wave.size))


def _audible(log_values: np.ndarray) -> np.ndarray:
    return np.maximum(log_values, np.log(_FLOOR))


def _magnitude(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    padded = np.pad(wave, window // 2, mode="reflect" if wave.size > window // 2 else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(window + 1)[:-1]))
