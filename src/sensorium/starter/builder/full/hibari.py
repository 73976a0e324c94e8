"""A neural voice with any throat: a network tells pulses, spectra and pitch, and what is between them can be bent.

hibari (Apache-2.0, distilled from the voice "heart" of Kokoro-82M) is a source and a filter, as the vocoders of
statistical speech were (Fant 1960, Acoustic Theory of Speech Production): stretching the spectra along frequency makes
the throat shorter or longer, scaling the pitch makes the voice higher or lower, and neither changes what is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import Any

import numpy as np

from sensorium.starter.builder.packages import BuildError
from sensorium.starter.builder.waveforms import Waveform

ACCENTS = ("en-us", "en-gb")
# The network learned American words alone: British vowels are told by the nearest letters that it knows.
_BRITISH = (("ɛː", "ɛə"), ("Q", "əʊ"), ("ɒ", "ɔ"), ("a", "æ"), ("ː", ""))
_UNVOICED_HZ = 40.0


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Who speaks, as factors of the network's own voice (a woman's, about 200 Hz).

    Attributes:
        rate: of speech.
        pitch: its mean.
        melody: how far the pitch moves about its mean, as a power.
        throat: frequencies of the resonances; a shorter throat has higher ones.
        breath: loudness of what is noise.
    """

    rate: float
    pitch: float
    melody: float
    throat: float
    breath: float


def speaker_of(key: str) -> Speaker:
    """Return a speaker between a low man's and a child's voice: a function of the key."""
    digest = sha1(f"speaker {key}".encode()).digest()
    pitch, throat, rate, melody, breath = (byte / 255 for byte in digest[:5])
    pitch = 0.45 * (1.3 / 0.45) ** pitch
    return Speaker(
        rate=round(0.8 + 0.45 * rate, 2),
        pitch=round(pitch, 2),
        melody=round(0.4 + 0.9 * melody, 2),
        # Low voices mostly have long throats, but not all do.
        throat=round(pitch**0.25 * (0.92 + 0.16 * throat), 3),
        breath=round(0.6 * (2.0 / 0.6) ** breath, 2),
    )


class Hibari:
    """The network and its two dictionaries of how English is said.

    Raises:
        BuildError: hibari-tts is missing.
    """

    def __init__(self) -> None:
        try:
            import hibari
            from hibari import dsp
            from hibari.g2p import G2P
        except ModuleNotFoundError as error:
            raise BuildError("hibari-tts is missing; install it: pip install 'sensorium[build]'") from error
        self._voice = hibari.Hibari()
        self._synthesis = dsp
        self._phonemes = {"en-us": G2P(), "en-gb": G2P(british=True)}
        self.sample_rate: int = dsp.SR

    def say(self, text: str, accent: str, speaker: Speaker) -> Waveform:
        """Return what is said, at ``sample_rate``.

        Args:
            accent: one of ``ACCENTS``.
        """
        phonemes = americanised(self._phonemes[accent](text))
        ids = np.array([self._voice.ids(phonemes)], np.int64)
        rate = np.array([speaker.rate], np.float32)
        outputs = self._voice.sess.run(None, {"ids": ids, "speed": rate})
        *spectra, pitch_F = (output[0] for output in outputs)
        harmonics, harmonic_phases, noise, rest, rest_phases = (
            stretched(spectrum_BF, speaker.throat) for spectrum_BF in spectra
        )
        said: Any = self._synthesis.synth(
            harmonics,
            harmonic_phases,
            noise + np.float32(np.log(speaker.breath)),
            rest,
            rest_phases,
            bent(pitch_F, speaker.pitch, speaker.melody),
            np.random.default_rng(int(sha1(text.encode()).hexdigest()[:8], 16)),
        )
        return np.asarray(said, np.float32)


def americanised(phonemes: str) -> str:
    """Return phonemes with British vowels told by the letters that the network knows; American ones stay."""
    for british, known in _BRITISH:
        phonemes = phonemes.replace(british, known)
    return phonemes


def stretched(spectrum_BF: np.ndarray, factor: float) -> np.ndarray:
    """Return what stands at bin b moved to bin b * ``factor``; the last bin stands for all above it."""
    last = len(spectrum_BF) - 1
    places = np.minimum(np.arange(last + 1) / factor, last)
    below = np.minimum(places.astype(int), last - 1)
    share = (places - below).astype(np.float32)[:, None]
    moved: np.ndarray = spectrum_BF[below] * (1 - share) + spectrum_BF[below + 1] * share
    return moved


def bent(pitch_F: np.ndarray, factor: float, power: float) -> np.ndarray:
    """Return a pitch curve in Hz with its mean times ``factor`` and its moves (in octaves) times ``power``.

    Where nothing is voiced it stays 0. What falls under 40 Hz is silenced by the synthesis (at most a twentieth of the
    voiced frames of the lowest speakers).
    """
    voiced = pitch_F > _UNVOICED_HZ
    if not voiced.any():
        return np.zeros_like(pitch_F)
    mean = np.exp(np.log(pitch_F[voiced]).mean())
    curve = mean * factor * (np.maximum(pitch_F, 1.0) / mean) ** power
    return np.where(voiced, curve, 0.0).astype(np.float32)
