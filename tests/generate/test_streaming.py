"""Listening and watching: what streams is what the whole gives, certain text never changes, silence says nothing."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import sensorium as sm
from sensorium.data.sample import Medium, Sample
from sensorium.data.templates import build_documents
from sensorium.generate import streaming
from sensorium.generate.requests import Request
from sensorium.generate.streaming import Heard, Listener, ListenOptions, frames_of
from sensorium.media.audio import SAMPLE_RATE, decode_audio, log_mel
from sensorium.media.modality import get_modality
from sensorium.sequence.document import MediaSegment, TextSegment
from sensorium.starter import load_table
from tests.generate.small_model import small_model

WAITING, AGREEING = small_model({"listen": 1}), small_model()


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))).astype(
        np.float32
    )


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def blocks(wave: np.ndarray, seconds: float = 0.1) -> list[np.ndarray]:
    step = round(seconds * SAMPLE_RATE)
    return [wave[at : at + step] for at in range(0, wave.size, step)]


def grouped(events: list[Heard]) -> list[list[Heard]]:
    """Events of each piece, in order."""
    out: list[list[Heard]] = [[]]
    for event in events:
        out[-1].append(event)
        if event.is_final:
            out.append([])
    assert out[-1] == []  # every piece is closed
    return out[:-1]


def check_promises(events: list[Heard]) -> None:
    """Certain text only grows; pieces follow each other in time."""
    end_s = 0.0
    for piece in grouped(events):
        assert piece[0].start_s >= end_s - 1e-9
        before = ""
        for event in piece:
            assert event.text.startswith(before)
            assert event.start_s == piece[0].start_s
            assert event.end_s > event.start_s
            assert not (event.is_final and event.tentative)
            before = event.text
        times = [event.end_s for event in piece[:-1]]
        assert times == sorted(times)
        end_s = piece[-1].end_s


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of what a random model says: a word for every half second of sound."""

    def say(model: sm.Model, prompt: Any, options: Any, *, stop: Any = ()) -> list[int]:
        sounds = [s for s in prompt if isinstance(s, MediaSegment)]
        num_words = [s.grid[0] // 8 for s in sounds]
        words = [f" word{n}" for n in range(sum(num_words))]
        if stop:  # what the last chunk adds
            return model.tokenizer.encode("".join(words[sum(num_words[:-1]) :]))
        given = model.tokenizer.decode(list(prompt[-1].token_ids)).partition("transcribe")[2]
        return model.tokenizer.encode("".join(words)[len(given.rstrip()) :])

    monkeypatch.setattr(streaming, "_say", say)


@given(st.integers(0, 30), st.integers(1, 40), st.integers(2, 60_000))
@settings(max_examples=30, deadline=None)
def test_frames_of_a_part_are_those_of_the_whole(first: int, count: int, more: int) -> None:
    wave = (
        np.random.default_rng(count)
        .standard_normal((first + count - 1) * 256 + 512 + more)
        .astype(np.float32)
    )
    whole = log_mel(wave)[first : first + count]
    np.testing.assert_allclose(frames_of(wave, first, first + count), whole, atol=2e-4)


@pytest.mark.parametrize("seconds", [0.6, 1.0, 1.03, 2.0, 2.4])
def test_waiting_reads_the_document_that_listen_trains(seconds: float) -> None:
    asked: list[Request] = []
    model = small_model({"listen": 1})
    submit = model.engine.submit
    model.engine.submit = lambda request, *a: asked.append(request) or submit(request, *a)  # type: ignore[method-assign]
    wave = noise(seconds)
    hearing = streaming.Waiting(model, ListenOptions(max_tokens=4))
    for size in range(2400, wave.size, 2400):
        hearing.more(wave[:size])
    hearing.close(wave)
    config = model.config.model.modalities["audio"]
    array = get_modality("audio").to_array(wave, config)
    medium = Medium("audio", array, array, config.patch)
    sample = Sample("0", "t", media=[medium], text="x")
    trained = build_documents(sample, "listen", model.tokenizer, np.random.default_rng(0))[0].segments
    ours = [s for s in asked[-1].prompt if isinstance(s, MediaSegment)]
    theirs = [s for s in trained if isinstance(s, MediaSegment)]
    assert [s.grid for s in ours] == [s.grid for s in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.array, other.array, atol=2e-4)
    # Between the chunks there is text that ends in <wait>, and nothing else.
    between = [s for s in asked[-1].prompt if isinstance(s, TextSegment)]
    assert [s.token_ids[-1] for s in between] == [model.tokenizer.wait] * (len(ours) - 1)
    assert asked[-1].text.stop_tokens == (model.tokenizer.wait,)


@pytest.mark.parametrize("model", [WAITING, AGREEING], ids=["wait", "agree"])
@pytest.mark.parametrize("block_s", [0.05, 0.73])
@pytest.mark.usefixtures("scripted")
def test_streamed_events_keep_their_promises(model: sm.Model, block_s: float) -> None:
    wave = np.concatenate(
        [silence(0.7), noise(1.6), silence(1.2), noise(5.3, 1), silence(0.8), noise(0.9, 2)]
    )
    events = list(model.listen(blocks(wave, block_s), detect="sound", max_tokens=5))
    check_promises(events)
    finals = [event for event in events if event.is_final]
    assert 0.3 < finals[0].start_s < 0.8
    assert 2.2 < finals[0].end_s < 2.9
    # The long stretch is longer than the model hears at once: it is cut, without a gap.
    long = [event for event in finals if 3.0 < event.start_s < 8.5]
    assert len(long) >= 3
    assert all(abs(a.end_s - b.start_s) < 1e-6 for a, b in pairwise(long))
    assert all(event.end_s - event.start_s <= 2.57 for event in events)
    assert 9.2 < finals[-1].start_s < 9.7
    assert any(not event.is_final for event in events)
    assert finals[0].text == "word0 word1 word2 word3"


def test_block_sizes_do_not_change_what_waiting_says() -> None:
    wave = np.concatenate([silence(0.7), noise(3.6), silence(1.2), noise(1.3, 1), silence(0.8)])
    finals = [
        [
            (e.text, e.start_s, e.end_s)
            for e in WAITING.listen(blocks(wave, s), detect="sound", max_tokens=5)
            if e.is_final
        ]
        for s in (0.02, 0.1, 20.0)
    ]
    assert finals[0] == finals[1] == finals[2]
    assert finals[0]


def test_agreement_makes_certain_what_two_transcripts_share(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["the cat", "the cap sat", "the cap sat on", "the cap sat on a mat"])
    encode = AGREEING.tokenizer.encode
    prompts: list[Any] = []

    def scripted(model: sm.Model, prompt: Any, options: Any, *, stop: Any = ()) -> list[int]:
        prompts.append(prompt)
        given = len(prompt[-1].token_ids) - len(encode("transcribe")) - 1
        return encode(next(said))[given:]

    monkeypatch.setattr(streaming, "_say", scripted)
    hearing = streaming.Agreeing(AGREEING, ListenOptions(policy="agree"))
    wave = noise(2.5)
    told = [hearing.more(wave[: round(s * SAMPLE_RATE)]) for s in (0.5, 1.0, 1.5, 2.1, 2.2)]
    assert told == [None, ("", "the cat"), None, ("the ca", "p sat"), None]
    assert hearing.more(noise(3.2)) == ("the cap sat", " on")
    assert hearing.close(noise(3.3)) == "the cap sat on a mat"
    # What is certain is given, never asked again.
    assert AGREEING.tokenizer.decode(prompts[-1][-1].token_ids[-11:]) == "the cap sat"


def test_a_long_piece_is_cut_where_it_is_quiet() -> None:
    wave = noise(2.4)
    wave[50_000:52_000] *= 0.01
    cut = streaming.Agreeing(AGREEING, ListenOptions()).cut(wave)
    assert 49_500 < cut < 52_500


@pytest.mark.parametrize("detect", ["speech", "sound"])
def test_a_minute_of_silence_says_nothing(detect: Any) -> None:
    quiet = noise(60, level=5e-4)
    assert list(AGREEING.listen(blocks(quiet), detect=detect)) == []
    assert list(AGREEING.listen([])) == []


def test_real_speech_is_heard_where_it_is() -> None:
    row = load_table("asterisk-en").slice(3, 1).to_pylist()[0]
    spoken = decode_audio(row["audio"]["bytes"], name=row["audio"]["path"])
    wave = np.concatenate([silence(1.0), spoken, silence(1.0)])
    events = list(AGREEING.listen(blocks(wave), max_tokens=4))
    check_promises(events)
    assert events
    assert 0.7 < events[0].start_s < 1.4
    assert events[-1].end_s < 2.3 + spoken.size / SAMPLE_RATE


@pytest.mark.usefixtures("scripted")
def test_every_kind_of_block_is_the_same_sound() -> None:
    wave = np.concatenate([silence(0.5), noise(1.5), silence(1.0)])
    pcm = np.rint(wave * 32_767).astype(np.int16)
    wave = pcm / np.float32(32_768)

    def finals(sound: Any, **options: Any) -> list[tuple[float, str]]:
        events = AGREEING.listen(sound, detect="sound", max_tokens=3, policy="wait", **options)
        return [(round(e.start_s, 2), e.text) for e in events if e.is_final]

    expected = finals(blocks(wave))
    assert len(expected) == 1
    assert finals(blocks(pcm)) == expected  # type: ignore[arg-type]
    assert finals(b.tobytes() for b in blocks(pcm)) == expected
    assert finals((b, SAMPLE_RATE) for b in blocks(wave)) == expected
    assert finals(np.stack([b, b], axis=1) for b in blocks(wave)) == expected
    assert finals(sm.Audio((wave, SAMPLE_RATE))) == expected
    assert finals(sm.Audio((b, SAMPLE_RATE)) for b in blocks(wave)) == expected
    other = soxr.resample(wave, SAMPLE_RATE, 48_000).astype(np.float32)
    [(start_s, _)] = finals([other[:40_000], other[40_000:]], sample_rate=48_000)
    assert abs(start_s - expected[0][0]) < 0.05


def test_mistakes_are_told() -> None:
    for sound, match in (
        ("speech.wav", "sm.Audio"),
        ([np.zeros(10, np.int64)], "int64"),
        ([np.full(10, np.nan, np.float32)], "not finite"),
        ([(noise(0.1), 48_000), (noise(0.1), 44_100)], "changed from 48000 to 44100"),
    ):
        with pytest.raises(ValueError, match=match):
            list(AGREEING.listen(sound, detect="sound"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown option 'foo'"):
        AGREEING.listen([], foo=1)
    with pytest.raises(ValueError, match=r"hears 0\.5 to 2\.56 s"):
        Listener(AGREEING, ListenOptions(window_s=60))


def test_what_is_kept_is_bounded() -> None:
    model = small_model({"listen": 1})
    listener = Listener(model, ListenOptions(detect="sound", max_tokens=2))
    sizes = []
    for number in range(30):
        for block in blocks(noise(1.0, number)):
            list(listener.add(block))
        engine = model.engine
        sizes.append((listener.wave.size, engine.prefixes.num_tokens, engine.num_running, engine.num_waiting))
    assert max(size[0] for size in sizes) <= listener.max_samples
    assert max(size[1] for size in sizes) <= engine.config.prefix_tokens
    assert all(size[2:] == (0, 0) for size in sizes)
    assert isinstance(listener.hearing, streaming.Waiting)
    assert len(listener.hearing.history) < 8


def test_watching_describes_stretch_after_stretch() -> None:
    frames = [np.full((20, 20, 3), 10 * n, np.uint8) for n in range(20)]
    asked: list[Any] = []
    model = small_model()
    generate = model.generate
    model.generate = lambda prompt, **o: asked.append(prompt) or generate(prompt, **o)  # type: ignore[method-assign]
    seen = list(model.watch(iter(frames), fps=4, every_s=2.0, max_frames=4, max_tokens=3))
    assert [(s.start_s, s.end_s) for s in seen] == [(0.0, 2.0), (2.0, 4.0), (4.0, 4.75)]
    assert [p for p in asked[1] if isinstance(p, str)] == ["0.0s", "0.5s", "1.0s", "1.5s", "what happens?"]
    assert [int(p.pixels()[0, 0, 0]) for p in asked[1] if isinstance(p, sm.Image)] == [80, 100, 120, 140]
    assert seen[0].changed
    assert seen[1].changed == (seen[1].text != seen[0].text)
    timed = list(model.watch(((n / 4, frame) for n, frame in enumerate(frames)), max_frames=4, max_tokens=3))
    assert timed == seen
    assert list(model.watch(sm.Video(frames, fps=4), max_frames=4, max_tokens=3)) == seen
    for bad, options, match in (
        (iter(frames), {}, "without a time"),
        ([(1.0, frames[0]), (0.5, frames[0])], {}, "must rise"),
        ([], {"every_s": 0}, "every_s 0"),
    ):
        with pytest.raises(ValueError, match=match):
            list(model.watch(bad, **options))  # type: ignore[arg-type]
