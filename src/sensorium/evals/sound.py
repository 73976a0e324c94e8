"""How near two sounds are, and how good a sound can be at all that leaves the model as a spectrogram."""

from collections.abc import Sequence

import numpy as np

from sensorium.generate.speech import MelToSound
from sensorium.media.audio import log_mel

RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))
_FLOOR = 1e-4  # 80 dB under full scale: what is quieter differs without being heard


def mel_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of two log-mel spectrograms, in nepers (1 is 8.7 dB).

    Args:
        made, real: float ``[N]`` at 24 kHz; the longer one is cut.
    """
    size = min(made.size, real.size)
    return float(np.abs(_audible(log_mel(made[:size])) - _audible(log_mel(real[:size]))).mean())


def stft_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Mean over four resolutions of the spectral convergence and the log-magnitude distance.

    Source: the multi-resolution STFT loss, arXiv 1910.11480, eq. 4 to 6.
    """
    size = min(made.size, real.size)
    total = 0.0
    for window, hop in RESOLUTIONS:
        ours, theirs = (_magnitude(wave[:size], window, hop) for wave in (made, real))
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


def _audible(log_values: np.ndarray) -> np.ndarray:
    return np.maximum(log_values, np.log(_FLOOR))


def _magnitude(wave: np.ndarray, window: int, hop: int) -> np.ndarray:
    padded = np.pad(wave, window // 2, mode="reflect" if wave.size > window // 2 else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(window + 1)[:-1]))
