"""How late live captions come, in the three ways in which whisper_streaming logs them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Update:
    """One run of the model on a stream.

    Args:
        heard_s: how much of the sound it had when it began, in seconds from the start of the stream.
        compute_s: how long it ran.
        ends_s: when each word (or segment) that it settled ends in the sound; empty where it settled none. An end
            later than what was heard is taken as that: guessed times must not make a caption early.
    """

    heard_s: float
    compute_s: float
    ends_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Latency:
    """Seconds from the end of a word in the sound to its appearance, over all words.

    Args:
        mean_s, median_s, p95_s, max_s: nan where there was no word.
        lags_N: of each word.
    """

    mean_s: float
    median_s: float
    p95_s: float
    max_s: float
    lags_N: np.ndarray


@dataclass(frozen=True)
class CaptionLatency:
    """The three ways.

    Args:
        aware: computing counts: a run begins when its sound is there and the run before has ended.
        unaware: computing takes no time; what is left is what the method itself waits for.
        offline: all is heard first, then one run; ``compute_s`` of it counts.
        realtime_factor: seconds of computing for each second of sound; above 1 the aware lag grows without end.
    """

    aware: Latency
    unaware: Latency
    offline: Latency
    realtime_factor: float


def caption_latency(
    updates: Sequence[Update], *, duration_s: float, offline_compute_s: float, offline_ends_s: Sequence[float]
) -> CaptionLatency:
    """Latency of captions of one stream.

    Args:
        updates: in order; the last one, after the end of the sound, settles what is left.
        duration_s: of the sound.
        offline_compute_s: of one run on the whole sound. offline_ends_s: ends of the words that it found.

    Raises:
        ValueError: times are negative or run backwards.

    Source: Machacek, Dabre and Bojar, IJCNLP 2023 (arXiv 2307.14743), section 4; emission times as logged by
    whisper_online.py: by the clock, with --comp_unaware by the sound that was heard, with --offline by the clock
    after the whole sound (whose duration, in which a listener waits, is counted here and not in its log).
    """
    if duration_s <= 0:
        raise ValueError(f"a sound of {duration_s} s; expected more than 0")
    aware, unaware, clock_s, heard_s = [], [], 0.0, 0.0
    for number, update in enumerate(updates):
        if not heard_s <= update.heard_s <= duration_s or update.compute_s < 0:
            raise ValueError(
                f"update {number} heard {update.heard_s} s after {heard_s} s, of {duration_s} s, and computed "
                f"{update.compute_s} s; expected times in order, within the sound, not negative"
            )
        heard_s = update.heard_s
        clock_s = max(clock_s, heard_s) + update.compute_s
        aware += [clock_s - min(end_s, heard_s) for end_s in update.ends_s]
        unaware += [heard_s - min(end_s, heard_s) for end_s in update.ends_s]
    whole_s = duration_s + offline_compute_s
    return CaptionLatency(
        _latency(aware),
        _latency(unaware),
        _latency([whole_s - min(end_s, duration_s) for end_s in offline_ends_s]),
        sum(update.compute_s for update in updates) / duration_s,
    )


def read_log(text: str) -> list[tuple[float, float, float, str]]:
    """Lines of a whisper_streaming log ("emitted start end words", milliseconds) as seconds and words.

    Raises:
        ValueError: a line that is none; the message shows it.
    """
    rows = []
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        fields = line.split(maxsplit=3)
        try:
            emitted, start, end = (float(field) / 1000 for field in fields[:3])
        except ValueError:
            raise ValueError(
                f"line {number} is {line[:80]!r}; expected three times in milliseconds, then words"
            ) from None
        rows.append((emitted, start, end, fields[3] if len(fields) > 3 else ""))
    return rows


def log_latency(text: str) -> Latency:
    """Latency of a whisper_streaming log: of each line, when it was emitted minus when its words end."""
    return _latency([emitted_s - end_s for emitted_s, _, end_s, _ in read_log(text)])


def _latency(lags: Sequence[float]) -> Latency:
    lags_N = np.array(lags, dtype=float)
    if not lags_N.size:
        nan = float("nan")
        return Latency(nan, nan, nan, nan, lags_N)
    return Latency(
        float(lags_N.mean()),
        float(np.median(lags_N)),
        float(np.percentile(lags_N, 95)),
        float(lags_N.max()),
        lags_N,
    )
