"""Sound and pictures that are still arriving: captions of speech as it is spoken, a running description of a video.

What is kept is bounded: silence is forgotten, and a stretch of speech is heard in documents no longer than the
model's longest sound. Text that has been given out as certain never changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from sensorium.data.templates import CHUNK_PATCHES
from sensorium.generate.prompt import TRANSCRIBE
from sensorium.generate.requests import Request, TextOptions
from sensorium.media import vad
from sensorium.media.audio import HOP_LENGTH, N_FFT, SAMPLE_RATE, log_mel, normalize_mel
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image, Video
from sensorium.sequence.document import MediaSegment, Segment, TextSegment

if TYPE_CHECKING:
    from sensorium.generate.interface import Model

Policy = Literal["wait", "agree"]
Block = np.ndarray | tuple[np.ndarray, int] | bytes | Audio
_FILE_BLOCK_S = 0.1


@dataclass(frozen=True)
class Heard:
    """What is known of a piece of speech.

    Args:
        text: certain: as long as ``is_final`` is False the next event of this piece begins with it.
        tentative: what may follow it, and may still change; empty in a final event.
        is_final: whether this was the last event of the piece.
        start_s, end_s: what has been heard of it, in seconds from the first sample.
    """

    text: str
    tentative: str
    is_final: bool
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """How a model listens.

    Args:
        policy: "wait": the model says after each second what is certain by now, as the template ``listen`` trains it
            (``[chunk] text <wait> ...``). "agree": everything so far is transcribed again and again, and what two
            transcripts in a row agree on is certain (local agreement, arXiv 2307.14743). None: "wait" for models
            that were trained with ``listen``, else "agree".
        ask: what "agree" asks about the sound.
        detect: "speech" (Silero VAD, the extra ``listen``) or "sound" (anything above -50 dB); the rest is not heard.
        window_s: the longest piece; None is the model's longest sound. Speech without a pause is cut there.
        step_s: between two transcripts of "agree".
        max_tokens: of what is said after a chunk, or of a transcript.
    """

    policy: Policy | None = None
    ask: str = TRANSCRIBE
    detect: vad.Detect = "speech"
    window_s: float | None = None
    step_s: float = 1.0
    max_tokens: int = 48

    def __post_init__(self) -> None:
        if self.policy not in ("wait", "agree", None) or self.detect not in ("speech", "sound"):
            raise ValueError(
                f"policy {self.policy!r}, detect {self.detect!r}; expected 'wait' or 'agree', and 'speech' or 'sound'"
            )


class Hearing(Protocol):
    """One piece of speech, growing."""

    def more(self, wave: np.ndarray) -> tuple[str, str] | None:
        """All samples so far -> what is certain and what is not; None where there is nothing new."""

    def close(self, wave: np.ndarray) -> str:
        """All samples of the piece -> its text."""

    def cut(self, wave: np.ndarray) -> int:
        """Where to end a piece that has reached its full length, in samples."""


class Waiting:
    """``[chunk] text <wait> [chunk] text <wait> ... [chunk] text <eos>``: the document that ``listen`` trains.

    Every request is the last one with one chunk more, so the engine reads no more than that chunk.
    """

    def __init__(self, model: "Model", options: ListenOptions) -> None:
        self.model, self.options = model, options
        self.patch = model.config.model.modalities["audio"].patch[0]
        self.num_frames = CHUNK_PATCHES * self.patch
        self.history: list[Segment] = []
        self.token_ids: list[int] = []
        self.num_chunks = 0

    def more(self, wave: np.ndarray) -> tuple[str, str] | None:
        """See ``Hearing``."""
        before = self.num_chunks
        # The last frame of a chunk reaches half a window beyond its centre.
        while wave.size >= ((self.num_chunks + 1) * self.num_frames - 1) * HOP_LENGTH + N_FFT // 2:
            first = self.num_chunks * self.num_frames
            self._hear(frames_of(wave, first, first + self.num_frames), last=False)
        return None if self.num_chunks == before else (_text(self.model, self.token_ids), "")

    def close(self, wave: np.ndarray) -> str:
        """See ``Hearing``."""
        self.more(wave)
        done = self.num_chunks * self.num_frames
        num_frames = -(-(1 + wave.size // HOP_LENGTH) // self.patch) * self.patch
        if num_frames > done:
            samples = (num_frames - 1) * HOP_LENGTH
            frames = log_mel(np.pad(wave[:samples], (0, max(0, samples - wave.size))))
            for first in range(done, num_frames, self.num_frames):
                chunk = frames[first : first + self.num_frames]
                self._hear(chunk, last=first + self.num_frames >= num_frames)
        return _text(self.model, self.token_ids)

    def cut(self, wave: np.ndarray) -> int:
        """See ``Hearing``."""
        return wave.size

    def _hear(self, frames: np.ndarray, *, last: bool) -> None:
        array = normalize_mel(frames)[None]
        chunk = MediaSegment("audio", array, (len(frames) // self.patch, 1))
        tokenizer = self.model.tokenizer
        said = _say(self.model, [*self.history, chunk], self.options, stop=(tokenizer.wait,))
        closing = tokenizer.eos if last else tokenizer.wait
        self.history += [chunk, TextSegment([*said, closing])]
        self.token_ids += said
        self.num_chunks += 1


class Agreeing:
    """Local agreement of two transcripts in a row; every transcript goes on from what is certain."""

    def __init__(self, model: "Model", options: ListenOptions) -> None:
        self.model, self.options = model, options
        self.certain: list[int] = []
        self.before: list[int] = []
        self.num_heard = 0

    def more(self, wave: np.ndarray) -> tuple[str, str] | None:
        """See ``Hearing``."""
        if wave.size - self.num_heard < self.options.step_s * SAMPLE_RATE:
            return None
        self.num_heard = wave.size
        said = self._transcribe(wave)
        agreed = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(said, self.before, strict=False))
        )
        self.certain = said[: max(agreed, len(self.certain))]
        self.before = said
        certain, whole = _text(self.model, self.certain), _text(self.model, said)
        return certain, whole[len(certain) :]

    def close(self, wave: np.ndarray) -> str:
        """See ``Hearing``."""
        return _text(self.model, self._transcribe(wave))

    def cut(self, wave: np.ndarray) -> int:
        """See ``Hearing``: the quietest twentieth of a second in the last third, so that no word is cut."""
        size = SAMPLE_RATE // 20
        first = wave.size * 2 // 3 // size
        frames = wave[first * size : wave.size // size * size].reshape(-1, size)
        quietest = int(np.square(frames).mean(axis=1).argmin()) if len(frames) else 0
        end = (first + quietest) * size + size // 2
        return end if 0 < end < wave.size else wave.size

    def _transcribe(self, wave: np.ndarray) -> list[int]:
        modality, config = get_modality("audio"), self.model.config.model.modalities["audio"]
        array = modality.to_array(wave, config)
        grid = (array.shape[1] // config.patch[0], 1)
        tokenizer = self.model.tokenizer
        begin = [*tokenizer.encode(self.options.ask), tokenizer.assistant, *self.certain]
        prompt: list[Segment] = [MediaSegment("audio", array, grid), TextSegment(begin)]
        return [*self.certain, *_say(self.model, prompt, self.options)]


class Listener:
    """Takes blocks of sound, gives events. One listener is one endless sound.

    Args:
        model: with the modality "audio".

    Raises:
        ValueError: the model does not hear, or an option cannot be.
    """

    def __init__(self, model: "Model", options: ListenOptions | None = None) -> None:
        self.options = options or ListenOptions()
        config = model.config.model.modalities.get("audio")
        if config is None:
            raise ValueError(
                "this model has no modality 'audio': it cannot listen; use one that was trained to"
            )
        longest_s = config.max_size[0] * HOP_LENGTH / SAMPLE_RATE
        window_s = longest_s if self.options.window_s is None else self.options.window_s
        if not 0.5 <= window_s <= longest_s:
            raise ValueError(f"window_s is {window_s}; this model hears 0.5 to {longest_s:.2f} s at once")
        # A chunk's frames are whole patches: the last sample that belongs to the last of them.
        self.max_samples = (
            int(window_s * SAMPLE_RATE) // HOP_LENGTH // config.patch[0] * config.patch[0] * HOP_LENGTH
        )
        self.max_samples -= HOP_LENGTH
        self.model = model
        self.policy = self.options.policy or ("wait" if _knows_listen(model) else "agree")
        detector = vad.SpeechDetector() if self.options.detect == "speech" else vad.LevelDetector()
        self.activity = vad.Activity(detector)
        self.wave = np.zeros(0, np.float32)  # of the piece that is open
        self.start_s = 0.0
        self.hearing: Hearing | None = None
        self.told = ("", "")

    def add(self, block: np.ndarray, *, last: bool = False) -> Iterator[Heard]:
        """Take float32 ``[n]`` at 24 kHz; ``last`` ends what is open."""
        for stretch in self.activity.add(block, last=last):
            if self.hearing is None:
                self._open(stretch.start_s)
            self.wave = np.concatenate([self.wave, stretch.samples])
            while self.wave.size > self.max_samples:
                assert self.hearing is not None
                yield from self._close(self.hearing.cut(self.wave[: self.max_samples]))
                self._open(self.start_s)
            assert self.hearing is not None
            if stretch.last:
                yield from self._close(self.wave.size)
            elif (known := self.hearing.more(self.wave)) is not None and known != self.told:
                self.told = known
                yield Heard(*known, False, self.start_s, self._end_s(self.wave.size))

    def _open(self, start_s: float) -> None:
        self.start_s, self.told = start_s, ("", "")
        kind = Waiting if self.policy == "wait" else Agreeing
        self.hearing = kind(self.model, self.options)

    def _close(self, size: int) -> Iterator[Heard]:
        """End the piece after ``size`` samples; what is left begins the next one."""
        assert self.hearing is not None
        text = self.hearing.close(self.wave[:size]) if size else ""
        end_s = self._end_s(size)
        # Silence in words too: a piece in which nothing was understood is not worth an event.
        if text or self.told != ("", ""):
            yield Heard(text, "", True, self.start_s, end_s)
        self.wave, self.start_s, self.hearing = self.wave[size:], end_s, None

    def _end_s(self, size: int) -> float:
        return self.start_s + size / SAMPLE_RATE


def listen(
    model: "Model", sound: Iterable[Block] | Audio, options: ListenOptions, *, sample_rate: int = SAMPLE_RATE
) -> Iterator[Heard]:
    """See ``Model.listen``."""
    return _hear(Listener(model, options), sound, sample_rate)


def _hear(listener: Listener, sound: Iterable[Block] | Audio, sample_rate: int) -> Iterator[Heard]:
    resampler: vad.Resampler | None = None
    first_rate = sample_rate
    for samples, rate in _blocks(sound, sample_rate):
        if resampler is None:
            resampler, first_rate = vad.Resampler(rate, SAMPLE_RATE), rate
        elif rate != first_rate:
            raise ValueError(
                f"the sample rate changed from {first_rate} to {rate} Hz on the way; resample it first"
            )
        yield from listener.add(resampler.add(samples))
    rest = np.zeros(0, np.float32)
    yield from listener.add(rest if resampler is None else resampler.add(rest, last=True), last=True)


@dataclass(frozen=True)
class Seen:
    """What a stretch of video shows.

    Args:
        start_s, end_s: the stretch, in seconds.
        changed: whether the text differs from that of the stretch before.
    """

    text: str
    start_s: float
    end_s: float
    changed: bool


def watch(
    model: "Model",
    video: Video | Iterable[Any],
    *,
    fps: float = 0.0,
    every_s: float = 2.0,
    max_frames: int = 8,
    ask: str = "what happens?",
    max_tokens: int = 48,
) -> Iterator[Seen]:
    """See ``Model.watch``."""
    if every_s <= 0 or max_frames < 1:
        raise ValueError(f"every_s {every_s}, max_frames {max_frames}: expected above 0, and at least 1")
    kept: list[tuple[float, Any]] = []
    start_s, last_s, before = 0.0, 0.0, ""

    def describe(end_s: float) -> Seen:
        first_s = kept[0][0]
        prompt: list[Any] = []
        for time_s, frame in kept:  # times begin with the stretch, as clips do in training
            prompt += [f"{time_s - first_s:.1f}s", frame]
        text = model.generate([*prompt, ask], max_tokens=max_tokens)
        return Seen(text, start_s, end_s, text != before)

    for time_s, frame in _timed(video, fps):
        if time_s < last_s:
            raise ValueError(f"a frame at {time_s} s comes after one at {last_s} s; times must rise")
        last_s = time_s
        if time_s >= start_s + every_s - 1e-6 and kept:
            seen = describe(time_s)
            yield seen
            start_s, before, kept = time_s, seen.text, []
        if not kept or time_s - kept[-1][0] >= every_s / max_frames - 1e-6:
            kept.append((time_s, frame if isinstance(frame, Image) else Image(frame)))
    if kept:
        yield describe(last_s)


def frames_of(wave: np.ndarray, first: int, end: int) -> np.ndarray:
    """Frames ``first`` to ``end`` of the log-mel spectrogram of a sound, without computing the others.

    The samples must reach half a window beyond the centre of the last frame.
    """
    lead = min(first, N_FFT // HOP_LENGTH // 2)
    start, stop = (first - lead) * HOP_LENGTH, (end - 1) * HOP_LENGTH + N_FFT // 2
    assert stop <= wave.size
    return log_mel(wave[start:stop])[lead : lead + end - first]


def _say(
    model: "Model", prompt: list[Segment], options: ListenOptions, *, stop: tuple[int, ...] = ()
) -> list[int]:
    """Tokens of the answer, without what ended it."""
    text = TextOptions(max_tokens=options.max_tokens, stop_tokens=stop)
    answer = model.engine.submit(Request(prompt=prompt, text=text)).result()
    ends = {model.tokenizer.eos, *stop}
    return [token for token in answer.token_ids if token not in ends]


def _text(model: "Model", token_ids: list[int]) -> str:
    # Half a character shows as U+FFFD until its other bytes arrive, and no text ends in a space.
    return model.tokenizer.decode(token_ids).rstrip("\ufffd").strip()


def _knows_listen(model: "Model") -> bool:
    data = model.config.data
    return any("listen" in source.templates for source in (*data.sources, *data.clean_sources))


def _blocks(sound: Iterable[Block] | Audio, sample_rate: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of any kind as (float32 ``[n]``, rate)."""
    if isinstance(sound, Audio):
        wave = sound.waveform()
        step = round(_FILE_BLOCK_S * SAMPLE_RATE)
        yield from ((wave[at : at + step], SAMPLE_RATE) for at in range(0, wave.size, step))
        return
    if isinstance(sound, str | bytes | np.ndarray):
        raise ValueError("listen takes an iterator of blocks or an sm.Audio; wrap a file in sm.Audio(...)")
    for block in sound:
        if isinstance(block, Audio):
            yield block.waveform(), SAMPLE_RATE
            continue
        samples, rate = block if isinstance(block, tuple) else (block, sample_rate)
        if isinstance(samples, bytes):
            samples = np.frombuffer(samples, "<i2")
        samples = np.asarray(samples)
        if samples.dtype == np.int16:
            samples = samples / np.float32(32_768)
        elif not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"a block holds {samples.dtype} samples; expected floats in [-1, 1] or int16")
        if samples.ndim == 2:
            samples = samples.mean(axis=1)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(
                f"a block has shape {list(samples.shape)} or values that are not finite; expected [samples]"
            )
        yield samples.astype(np.float32), int(rate)


def _timed(video: Video | Iterable[Any], fps: float) -> Iterator[tuple[float, Any]]:
    """Frames with their times: given with each frame, counted by ``fps``, or the file's own."""
    if isinstance(video, Video):
        yield from video.stream()
        return
    for number, item in enumerate(video):
        if isinstance(item, tuple) and len(item) == 2:
            yield float(item[0]), item[1]
        elif fps > 0:
            yield number / fps, item
        else:
            raise ValueError("a frame came without a time; give pairs (seconds, frame), or fps")
