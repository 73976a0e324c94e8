"""The composed prompts of the full starter data: who says what, and the neural voices."""

import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sensorium.data.splits import split_of
from sensorium.starter.builder.full import composed, hibari, piper

PROMPTS = (
    "press the star key",
    "enter your password followed by the pound key",
    "Monday",
    "You have no new messages.",
    "please try again later",
    "thank you for calling our conference",
    "hello",
)


def test_composed_sentences_keep_their_splits_apart() -> None:
    made = list(composed.sentences(PROMPTS))
    assert made == list(composed.sentences(PROMPTS))
    assert Counter(s.split for s in made) == {"train": 26_400, "validation": 200, "test": 400}
    texts = {split: {s.text for s in made if s.split == split} for split in ("train", "validation", "test")}
    assert not texts["train"] & (texts["test"] | texts["validation"])
    assert not texts["test"] & texts["validation"]
    # Those who are only tested say nothing else, and nobody else is tested; their words are those of training.
    assert {s.voice.is_held_out for s in made if s.split == "test"} == {True}
    assert {s.voice.is_held_out for s in made if s.split != "test"} == {False}
    words = {split: {word for text in found for word in text.split()} for split, found in texts.items()}
    assert words["test"] <= words["train"]
    # A held-out prompt gives no phrase: its own words are in none.
    assert {split_of(text.lower()) for text in PROMPTS} > {"train"}
    heard = {
        word
        for text in PROMPTS
        if split_of(text.lower()) == "train"
        for word in text.lower().strip(".").split()
    }
    assert words["train"] == heard
    # The neural voices speak behind all others and in training alone.
    assert {s.voice.engine for s in made[:16_600]} == {"espeak-ng", "flite", "nanotts"}
    assert {(s.voice.engine, s.split) for s in made[16_600:19_000]} == {("piper", "train")}
    assert {(s.voice.engine, s.split) for s in made[19_000:]} == {("hibari", "train")}
    assert {s.voice.id for s in made[19_000:]} == set(hibari.ACCENTS)
    assert len({s.key for s in made if s.voice.engine == "piper"}) == 2_400


class StandIn:
    """A network that says a tone as long as its phonemes, and shows what it was given."""

    given: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, data: bytes, options: Any, providers: list[str]) -> None:
        assert data == b"network"

    def run(self, _: None, inputs: dict[str, Any]) -> list[np.ndarray]:
        self.given.append(inputs)
        return [np.sin(np.arange(2_000 * inputs["input"].shape[1]) / 9).astype(np.float32)[None, None]]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_neural_voice_says_phonemes_at_a_rate_and_a_pitch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {letter: [number] for number, letter in enumerate("_^$ aeh\u0259lo\u028a\u02c8")}
    config = {
        "audio": {"sample_rate": 22_050},
        "phoneme_id_map": ids,
        "inference": {"noise_scale": 0.5, "noise_w": 0.25},
    }
    with zipfile.ZipFile(tmp_path / "voice.whl", "w") as wheel:
        wheel.writestr("joe/data/joe.onnx", b"network")
        wheel.writestr("joe/data/joe.onnx.json", json.dumps(config))
    monkeypatch.setattr(piper, "fetch", lambda package, folder: tmp_path / "voice.whl")
    monkeypatch.setattr("onnxruntime.InferenceSession", StandIn)
    voice = piper.Piper(tmp_path)
    said = voice.say("hello", "en-us", 1.25)
    inputs = StandIn.given[-1]
    names = {number[0]: letter for letter, number in ids.items()}
    told = "".join(names[number] for number in inputs["input"][0])
    assert told.startswith("^_h_")
    assert told.endswith("_$")
    assert told.replace("_", "")[1:-1] == "h\u0259l\u02c8o\u028a"
    assert inputs["input_lengths"].tolist() == [len(told)]
    np.testing.assert_allclose(inputs["scales"], [0.5, 0.8, 0.25])
    assert said.shape == (2_000 * len(told),)
    monkeypatch.setattr(composed, "Piper", lambda folder: voice)
    monkeypatch.setattr(composed, "fetch", lambda package, folder: folder)
    monkeypatch.setattr(composed, "transcripts", lambda package: dict(enumerate(PROMPTS)))
    rows = list(islice(composed.piper_rows(tmp_path), 5))
    assert len(rows) == 5
    for row in rows:
        assert (row["source"], row["split"]) == ("composed-prompts-piper", "train")
        assert row["id"].startswith("composed-prompts-piper/train/")
        assert row["metadata"]["engine"] == "piper"
        assert "CC0" in row["attribution"]


def test_speakers_are_between_a_low_man_and_a_child() -> None:
    speakers = [hibari.speaker_of(f"train/{number}") for number in range(500)]
    assert speakers[0] == hibari.speaker_of("train/0")
    assert len(set(speakers)) == 500
    for name, low, high in (
        ("rate", 0.8, 1.25),
        ("pitch", 0.45, 1.3),
        ("melody", 0.4, 1.3),
        ("throat", 0.75, 1.16),
        ("breath", 0.6, 2.0),
    ):
        values = [getattr(speaker, name) for speaker in speakers]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.15])
def test_a_throat_moves_resonances_and_nothing_else(factor: float) -> None:
    bins = np.arange(601.0, dtype=np.float32)[:, None]
    bump = np.exp(-(((bins - 200) / 20) ** 2)) * np.ones((1, 3), np.float32)
    np.testing.assert_allclose(
        hibari.stretched(bump, factor), np.exp(-(((bins / factor - 200) / 20) ** 2)) * [[1, 1, 1]], atol=2e-3
    )


def test_a_pitch_curve_is_moved_and_flattened() -> None:
    curve = np.array([0, 100, 200, 400, 0], np.float32)
    np.testing.assert_allclose(hibari.bent(curve, 0.5, 1.0), curve / 2, rtol=1e-6)
    np.testing.assert_allclose(
        hibari.bent(curve, 1.0, 0.5), [0, 200 * 0.5**0.5, 200, 200 * 2**0.5, 0], rtol=1e-6
    )
    np.testing.assert_array_equal(hibari.bent(np.zeros(3, np.float32), 0.5, 1.0), 0)


def pitch_of(samples: np.ndarray, sample_rate: int) -> float:
    """The median of the voiced frames' pitch in Hz, by autocorrelation."""
    found = []
    for start in range(0, len(samples) - 2048, 512):
        frame = samples[start : start + 2048] * np.hanning(2048)
        power = np.fft.irfft(np.abs(np.fft.rfft(frame, 4096)) ** 2)[:1024]
        lags = slice(sample_rate // 400, sample_rate // 60)
        if frame.std() > 0.02 and power[lags].max() > 0.5 * power[0]:
            found.append(sample_rate / (lags.start + int(power[lags].argmax())))
    return float(np.median(found))


def test_a_voice_speaks_with_any_pitch_at_any_rate() -> None:
    voice = hibari.Hibari()
    own = hibari.Speaker(rate=1.0, pitch=1.0, melody=1.0, throat=1.0, breath=1.0)
    text = "please leave your message after the tone"
    plain = voice.say(text, "en-us", own)
    assert 1.5 < len(plain) / voice.sample_rate < 4
    np.testing.assert_array_equal(plain, voice.say(text, "en-us", own))
    low = voice.say(text, "en-us", replace(own, pitch=0.5, throat=0.85))
    assert len(low) == len(plain)
    ratio = pitch_of(low, voice.sample_rate) / pitch_of(plain, voice.sample_rate)
    assert ratio == pytest.approx(0.5, rel=0.1)
    assert len(voice.say(text, "en-us", replace(own, rate=1.25))) < 0.9 * len(plain)
    british = voice.say(text, "en-gb", own)
    assert british.shape != plain.shape or not np.allclose(british, plain)


def test_british_vowels_are_told_by_letters_that_the_network_knows() -> None:
    assert hibari.americanised("hˈQm ðˈɛː nˌɒt stˈand fˈɑː") == "hˈəʊm ðˈɛə nˌɔt stˈænd fˈɑ"
    known = "hˈOm ðˈɛɹ nˌɑt stˈænd fˈɑɹ"
    assert hibari.americanised(known) == known


def test_rows_of_many_speakers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composed, "fetch", lambda package, folder: folder)
    monkeypatch.setattr(composed, "transcripts", lambda package: dict(enumerate(PROMPTS)))
    rows = list(islice(composed.hibari_rows(tmp_path), 4))
    assert [row["id"] for row in rows] == [f"composed-prompts-hibari/train/{n}" for n in range(4)]
    for number, row in enumerate(rows):
        speaker = hibari.speaker_of(f"train/{number}")
        assert row["metadata"]["throat"] == str(speaker.throat)
        assert row["metadata"]["voice"].removeprefix("hibari ") in hibari.ACCENTS
        assert "Kokoro" in row["attribution"]
