"""A vocoder against Griffin-Lim, on real sounds that the recipe ``vocoder`` never hears.

    python benchmarks/vocoder.py runs/vocoder --json vocoder.json

Real spectrograms are turned back into sound (the ceiling of everything generated). Distances: smaller is nearer. With
the packages pesq and pystoi installed, their scores of the speech too: larger is better.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import machine, report, result

from sensorium.evals.sound import mel_distance, stft_distance
from sensorium.generate.speech import MelToSound
from sensorium.media.audio import SAMPLE_RATE, griffin_lim, log_mel
from sensorium.pretrained.vocos import load_vocoder
from sensorium.train.vocoder import STARTER_SOUNDS, read_sounds

LONGEST_S = 5
Score = Callable[[np.ndarray, np.ndarray], float]


def perceptual() -> dict[str, Score]:
    """Wideband PESQ (ITU-T P.862.2) and STOI, where their packages are installed."""
    import soxr

    found: dict[str, Score] = {}
    try:
        pesq, stoi = importlib.import_module("pesq"), importlib.import_module("pystoi")
    except ImportError:
        print("pesq and pystoi are not installed: distances only")
        return found

    def at_16k(wave: np.ndarray) -> np.ndarray:
        return soxr.resample(wave, SAMPLE_RATE, 16_000)

    found["PESQ"] = lambda made, real: pesq.pesq(16_000, at_16k(real), at_16k(made), "wb")
    found["STOI"] = lambda made, real: stoi.stoi(real, made, SAMPLE_RATE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vocoder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    vocoders: tuple[MelToSound, MelToSound] = (load_vocoder(options.vocoder).sound, griffin_lim)
    about, results = machine(), []
    for name, sources in (("speech", STARTER_SOUNDS[:2]), ("effects", STARTER_SOUNDS[2:])):
        sounds = [
            s[: LONGEST_S * SAMPLE_RATE]
            for split in ("validation", "test")
            for s in read_sounds(sources, split)
        ]
        scores: dict[str, Score] = {"mel distance": mel_distance, "stft distance": stft_distance}
        if name == "speech":
            scores |= perceptual()
        made, factors = zip(*(revived(sounds, vocoder) for vocoder in vocoders), strict=True)
        for metric, score in scores.items():
            ours, theirs = (
                [score(m[: r.size], r[: m.size]) for m, r in zip(one, sounds, strict=True)] for one in made
            )
            means = [float(np.mean(ours))], [float(np.mean(theirs))]
            results.append(result(f"{name}: {metric}, against", "", means[0], "Griffin-Lim", means[1]))
        results.append(
            result(f"{name}: real-time factor, against", "s/s", [factors[0]], "Griffin-Lim", [factors[1]])
        )
    report(results, options.json, about)


def revived(sounds: Sequence[np.ndarray], vocoder: MelToSound) -> tuple[list[np.ndarray], float]:
    """Every sound through its spectrogram and back, and seconds of work per second of sound."""
    mels = [log_mel(sound) for sound in sounds]
    vocoder(mels[0])
    started = time.perf_counter()
    made = [vocoder(mel) for mel in mels]
    return made, (time.perf_counter() - started) / (sum(s.size for s in sounds) / SAMPLE_RATE)


if __name__ == "__main__":
    main()
