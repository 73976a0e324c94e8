"""Listening and speaking on two cores: real-time factors, and whether the lag of listening grows.

    python benchmarks/listen.py --json listen.json [--minutes 10] [--recipes tiny small]

Real speech with its pauses arrives in blocks of a tenth of a second. The clock is simulated: a block cannot be heard
before it has arrived, nor before the one before it is done with; the time that hearing takes is measured. The lag of a
block is how long after its arrival it is done with. Its slope over ten minutes is fitted to means of ten seconds,
which are nearly independent. Weights are random: what is said is nonsense and mostly as long as is allowed, which costs
more than sense. After that a minute of a quiet room must say nothing.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, report, result, run_alone

BLOCK_S, BIN_S = 0.1, 10.0
MAX_TOKENS = 16  # after a second of sound, or of a transcript of 2.5 s: three times what is spoken
SPOKEN = (
    "say This is a sentence of some length. Here is another one, a little longer than the first! And a third?"
)


def build(recipe: str, template: str) -> Any:
    """A random model of a recipe that says it was trained with a template."""
    import dataclasses

    import torch

    from sensorium import recipes
    from sensorium.generate.interface import Model
    from sensorium.model.sensorium import Sensorium
    from sensorium.sequence.tokenizer import Tokenizer

    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = recipes.get(recipe)
    source = dataclasses.replace(config.data.sources[0], templates={template: 1})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=(source,)))
    return Model(Sensorium(config.model).eval(), Tokenizer.load(config.tokenizer), config)


def speech(minutes: float) -> np.ndarray:
    """Real utterances with pauses of half a second to two seconds."""
    from sensorium.media.audio import SAMPLE_RATE, decode_audio
    from sensorium.starter import load_table

    rng = np.random.default_rng(0)
    rows = load_table("asterisk-en", "asterisk-fr").to_pylist()
    parts: list[np.ndarray] = []
    num_samples, wanted = 0, round(minutes * 60 * SAMPLE_RATE)
    while num_samples < wanted:
        row = rows[int(rng.integers(len(rows)))]
        sound = decode_audio(row["audio"]["bytes"], name=row["audio"]["path"])
        pause = np.zeros(round(rng.uniform(0.5, 2.0) * SAMPLE_RATE), np.float32)
        parts += [sound, pause]
        num_samples += sound.size + pause.size
    return np.concatenate(parts)[:wanted]


def hear(recipe: str, template: str, minutes: float) -> dict[str, Any]:
    """Lag of every block, share of real time, and events."""
    from sensorium.generate.streaming import Listener, ListenOptions
    from sensorium.media.audio import SAMPLE_RATE

    listener = Listener(build(recipe, template), ListenOptions(max_tokens=MAX_TOKENS))
    wave = speech(minutes)
    step = round(BLOCK_S * SAMPLE_RATE)
    for at in range(0, 20 * step, step):  # warm up
        list(listener.add(wave[at : at + step]))
    clock, busy, lags, num_events = 0.0, 0.0, [], 0
    for number, at in enumerate(range(0, wave.size, step), start=1):
        arrived = number * BLOCK_S
        started = time.perf_counter()
        num_events += len(list(listener.add(wave[at : at + step])))
        took = time.perf_counter() - started
        busy += took
        clock = max(clock, arrived) + took
        lags.append(clock - arrived)
    num_events += len(list(listener.add(np.zeros(2 * SAMPLE_RATE, np.float32))))  # ends what is open
    room = 5e-4 * np.random.default_rng(1).standard_normal(60 * SAMPLE_RATE)
    silent = sum(
        len(list(listener.add(room[at : at + step].astype(np.float32)))) for at in range(0, room.size, step)
    )
    slope, half = slope_of(lags)
    return {
        "lag_s": statistics.median(lags),
        "lag_p95_s": float(np.quantile(lags, 0.95)),
        "slope_ms_per_min": slope * 60_000,
        "half_ms_per_min": half * 60_000,
        "real_time_factor": busy / (wave.size / SAMPLE_RATE),
        "num_events": num_events,
        "silent_events": silent,
    }


def slope_of(lags: list[float]) -> tuple[float, float]:
    """Slope of the lag in seconds per second, and half its 95% interval, from means of ten seconds."""
    from scipy import stats

    size = round(BIN_S / BLOCK_S)
    means = np.array([np.mean(lags[at : at + size]) for at in range(0, len(lags) - size + 1, size)])
    fit = stats.linregress(np.arange(len(means)) * BIN_S, means)
    return float(fit.slope), float(stats.t.ppf(0.975, len(means) - 2) * fit.stderr)


def say(recipe: str) -> dict[str, Any]:
    """Seconds to the first sound, and share of real time."""
    from sensorium.media.audio import SAMPLE_RATE

    model = build(recipe, "speak-on")
    list(model.generate("say One.", output="audio", stream=True, num_steps=2))  # warm up
    started = time.perf_counter()
    first_s, num_samples = 0.0, 0
    for sound in model.generate(SPOKEN, output="audio", stream=True):
        first_s = first_s or time.perf_counter() - started
        num_samples += sound.waveform().size
    duration_s = num_samples / SAMPLE_RATE
    return {"first_sound_s": first_s, "real_time_factor": (time.perf_counter() - started) / duration_s}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--recipes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--runs", type=int, default=3, help="of speaking, and of listening to a minute")
    options = parser.parse_args()
    about, results = machine(), []
    for recipe in options.recipes:
        for policy, template in (("wait", "listen"), ("agree", "transcribe")):
            heard = run_alone(__file__, "hear", recipe, template, str(options.minutes))
            name = f"{recipe}, {policy}:"
            results += [
                result(f"{name} median lag", "s", [heard["lag_s"]]),
                result(f"{name} 95th percentile of the lag", "s", [heard["lag_p95_s"]]),
                result(f"{name} slope of the lag", "ms/min", [heard["slope_ms_per_min"]]),
                result(f"{name} half of its 95% interval", "ms/min", [heard["half_ms_per_min"]]),
                result(f"{name} real-time factor of listening", "s/s", [heard["real_time_factor"]]),
                result(f"{name} events", "", [heard["num_events"]]),
                result(f"{name} events in a minute of silence", "", [heard["silent_events"]]),
                result(f"{name} peak memory", "MB", [heard["peak_mb"]]),
            ]
        said = [run_alone(__file__, "say", recipe) for _ in range(options.runs)]
        results.append(
            result(f"{recipe}: real-time factor of speaking", "s/s", [r["real_time_factor"] for r in said])
        )
        results.append(result(f"{recipe}: to the first sound", "s", [r["first_sound_s"] for r in said]))
    report(results, options.json, about)


if __name__ == "__main__":
    if sys.argv[1:2] == ["hear"]:
        print(json.dumps(hear(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
    elif sys.argv[1:2] == ["say"]:
        print(json.dumps(say(sys.argv[2])))
    else:
        main()
