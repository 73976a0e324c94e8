"""Judges that are not the model: a recogniser of speech, and a classifier whose features pictures are compared by."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr

from sensorium.media.audio import SAMPLE_RATE
from sensorium.media.parts import Audio, Image

_WHISPER_RATE = 16_000
# Speech has about three words a second; a recogniser that goes round in circles is stopped.
_TOKENS_PER_S, _MIN_TOKENS = 10, 24
_FEATURE_BATCH = 32


class Recognizer(Protocol):
    """Writes down what is said. ``fingerprint`` changes with its weights."""

    name: str
    fingerprint: str

    def __call__(self, sound: Audio, language: str | None) -> str:
        """The words of one sound; the language is a two-letter code, None where it is not known."""
        ...


class Features(Protocol):
    """Turns pictures into vectors. ``fingerprint`` changes with its weights."""

    name: str
    fingerprint: str

    def __call__(self, pictures: Sequence[Image]) -> np.ndarray:
        """float32 ``[len(pictures), D]``."""
        ...


@dataclass(frozen=True)
class Judges:
    """Who else has a say in an evaluation; what is None brings no figures."""

    recognizer: Recognizer | None = None
    features: Features | None = None


class WhisperRecognizer:
    """Whisper in the form of CTranslate2, through faster-whisper: greedy in temperature, five beams, no times.

    Args:
        folder: with model.bin, config.json, tokenizer.json and vocabulary.

    Raises:
        ValueError: faster-whisper is not installed, or the folder holds something else.
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        path = _folder(folder, "model.bin", "a Whisper model in the form of CTranslate2")
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ValueError("a recognizer needs faster-whisper: pip install 'sensorium[judges]'") from error
        self.name, self.fingerprint = path.name, _hash(path / "model.bin")
        try:
            self.model: Any = WhisperModel(
                str(path), device="cpu", compute_type="int8", local_files_only=True
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: no Whisper model of CTranslate2 ({error})") from error

    def __call__(self, sound: Audio, language: str | None) -> str:
        """See ``Recognizer``; a language that Whisper does not know is found out from the sound."""
        waveform = sound.waveform()
        samples = soxr.resample(waveform, SAMPLE_RATE, _WHISPER_RATE).astype(np.float32)
        code = (language or "").partition("-")[0]
        pieces, _ = self.model.transcribe(
            samples,
            language=code if code in self.model.supported_languages else None,
            temperature=0.0,
            beam_size=5,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=_MIN_TOKENS + int(_TOKENS_PER_S * waveform.size / SAMPLE_RATE),
        )
        return " ".join(piece.text.strip() for piece in pieces)


class ClassifierFeatures:
    """Pooled features of a public image classifier of the ``transformers`` library, in safetensors.

    Args:
        folder: with config.json, model.safetensors and preprocessor_config.json.

    Raises:
        ValueError: transformers is not installed, or the folder holds something else.
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        path = _folder(folder, "model.safetensors", "an image classifier of transformers")
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise ValueError("a classifier needs transformers: pip install 'sensorium[judges]'") from error
        self.name, self.fingerprint = path.name, _hash(path / "model.safetensors")
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(path, local_files_only=True)
            self.model: Any = AutoModel.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: no image classifier of transformers ({error})") from error

    def __call__(self, pictures: Sequence[Image]) -> np.ndarray:
        """See ``Features``."""
        import torch

        found = []
        for start in range(0, len(pictures), _FEATURE_BATCH):
            pixels = [picture.pixels() for picture in pictures[start : start + _FEATURE_BATCH]]
            with torch.inference_mode():
                out = self.model(**self.processor(pixels, return_tensors="pt"))
            pooled = getattr(out, "pooler_output", None)
            pooled = out.last_hidden_state.mean(dim=1) if pooled is None else pooled
            found.append(pooled.flatten(1).float().numpy())
        return np.concatenate(found)


def hear(recognizer: Recognizer) -> Callable[[list[tuple[Audio, str | None]]], list[str]]:
    """A recogniser of many sounds, each with its language."""
    return lambda batch: [recognizer(sound, language) for sound, language in batch]


def _folder(folder: str | Path, wanted: str, what: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {what}")
    if not (path / wanted).is_file():
        raise ValueError(f"{folder}: there is no {wanted}; expected {what}")
    return path


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
