"""Whisper base as it is, through faster-whisper."""

from pathlib import Path
from typing import Any

import numpy as np
import soxr

from sensorium.media.audio import SAMPLE_RATE

from .work import Asked

WHISPER_RATE = 16_000


def transcripts(folder: Path, asked: Asked, num_threads: int) -> dict[str, np.ndarray]:
    """What Whisper hears in the sounds, in English, with its own beam search.

    Args:
        folder: model.bin, config.json, tokenizer.json and vocabulary.txt of a CTranslate2 model.
    """
    from faster_whisper import WhisperModel

    model: Any = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=num_threads)
    heard = []
    for sound in asked.sounds:
        wave = soxr.resample(sound.waveform(), SAMPLE_RATE, WHISPER_RATE).astype(np.float32)
        segments, _ = model.transcribe(wave, language="en", condition_on_previous_text=False)
        heard.append(" ".join(segment.text.strip() for segment in segments))
    return {"heard": np.array(heard, dtype=np.str_)}
