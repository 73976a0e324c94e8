"""Speech in pieces: the first sound leaves before the last word is read, and no seam is heard.

A piece is a sentence or part of one. Its document is that of the template ``speak-on``: what was said before, as
words and clean sound, then the words of the piece, then its sound.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.data.templates import shape_tokens
from sensorium.generate.requests import Media, MediaOptions, Request, check_known
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE, denormalize_mel, griffin_lim
from sensorium.media.parts import Audio
from sensorium.sequence.document import EmbSegment, MediaSegment, Segment, TextSegment

if TYPE_CHECKING:
    from sensorium.generate.interface import Model

MelToSound = Callable[[np.ndarray], np.ndarray]  # log-mel [F, 100] -> waveform [(F - 1) * 256]
CHARS_PER_S = 14.0  # of unhurried speech; decides how much text goes into one piece
_SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\n+")
_SAY = "say "
_FADE_FRAMES = 2


class SoundStream:
    """Spectrograms that follow each other -> sound without clicks.

    The end of every piece is held back and made again with what follows it. A vocoder of bounded reach then gives
    what it would have given for the whole; Griffin-Lim, whose phases differ each time, is cross-faded.

    Args:
        to_sound: a vocoder. reach: frames on either side that a sample depends on.
    """

    def __init__(self, to_sound: MelToSound = griffin_lim, *, reach: int = 4) -> None:
        self.to_sound = to_sound
        # The old version is right up to where the fade ends, the new one from where it begins.
        self._num_held, self._num_context = reach + _FADE_FRAMES, 2 * reach + _FADE_FRAMES + 1
        self._context: np.ndarray | None = None  # the last frames that were made
        self._held = np.zeros(0, np.float32)  # the sound of the last of them

    def add(self, log_mel: np.ndarray) -> np.ndarray:
        """float ``[F, 100]`` -> float32 ``[n]``; with the ``end``, 256 samples for every frame but the first."""
        context = self._context
        frames = log_mel if context is None else np.concatenate([context, log_mel])
        if len(frames) < 2:  # no vocoder makes sound of one frame
            self._context = frames
            return np.zeros(0, np.float32)
        wave = self.to_sound(frames)
        if context is not None:
            wave = wave[(len(context) - 1) * HOP_LENGTH - self._held.size :]
            if self._held.size == self._num_held * HOP_LENGTH:  # else nothing has left yet
                fade = _FADE_FRAMES * HOP_LENGTH
                ramp = np.linspace(0, 1, fade, dtype=np.float32)
                wave[:fade] = self._held[:fade] * (1 - ramp) + wave[:fade] * ramp
        keep = min(self._num_held * HOP_LENGTH, wave.size)
        self._context = frames[-self._num_context :]
        self._held = wave[wave.size - keep :]
        return wave[: wave.size - keep]

    def end(self) -> np.ndarray:
        """What is still held back, float32 ``[n]``."""
        held, self._held, self._context = self._held, np.zeros(0, np.float32), None
        return held


def pieces_of(text: str | Iterable[str], max_chars: int) -> Iterator[str]:
    """Text, or pieces of text as they arrive -> sentences or parts of sentences, each as soon as it is whole.

    A sentence is whole once something follows it. Longer ones are broken at a comma or a space.
    """
    waiting = ""
    for part in [text] if isinstance(text, str) else text:
        waiting += part
        *whole, waiting = _SENTENCE.split(waiting)
        for sentence in whole:
            yield from _broken(sentence, max_chars)
        if len(waiting) > max_chars:
            *whole, waiting = _broken(waiting, max_chars) or [""]
            yield from whole
            waiting += " " if part[-1:].isspace() else ""
    yield from _broken(waiting, max_chars)


def _broken(sentence: str, max_chars: int) -> list[str]:
    out, sentence = [], sentence.strip()
    while len(sentence) > max_chars:
        head = sentence[: max_chars + 1]
        comma = head.rfind(", ")
        at = comma + 1 if comma > max_chars // 3 else head.rfind(" ")
        at = at if at > 0 else max_chars
        out.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*out, sentence] if sentence else out


def speak(
    model: "Model",
    text: str | Iterable[str],
    *,
    context: int = 1,
    max_chars: int = 0,
    **options: Any,
) -> Iterator[Audio]:
    """Sounds that together are the spoken text.

    Args:
        text: words, or pieces of words as they arrive. Words that begin with "say " are spoken as the template
            ``speak`` trains it, each piece of them.
        context: pieces before that a piece goes on from.
        max_chars: of a piece; 0 takes what the model's longest sound holds.
        options: fields of ``MediaOptions``; every piece has the same seed.

    Raises:
        ValueError: there is nothing to say, or an unknown option.
    """
    config = model.config.model.modalities["audio"]
    longest_s = config.max_size[0] * HOP_LENGTH / SAMPLE_RATE
    check_known(options, MediaOptions, more=("context", "max_chars"))
    if context < 0 or max_chars < 0:
        raise ValueError(f"context {context}, max_chars {max_chars}: expected 0 or more")
    max_chars = max_chars or max(8, int(longest_s * CHARS_PER_S))
    return _speak(model, pieces_of(text, max_chars), context, MediaOptions(**options))


def _speak(model: "Model", pieces: Iterator[str], context: int, chosen: MediaOptions) -> Iterator[Audio]:
    patch = model.config.model.modalities["audio"].patch
    stream = SoundStream(model.vocoder, reach=model.vocoder_reach)
    marks = {"generator": "sensorium", "model": model.config.name, "seed": str(chosen.seed)}
    said: list[
        tuple[list[Segment], list[Segment]]
    ] = []  # (what the piece says, its sound) of the last pieces
    say = ""
    for number, piece in enumerate(pieces):
        if number == 0:
            say = _SAY if piece.startswith(_SAY) else ""
        words = piece if number == 0 or not say else say + piece
        prompt: list[Segment] = [TextSegment(model.tokenizer.encode(words)), EmbSegment()]
        past = said[-context:] if context else []
        request = Request(
            prompt=[*(s for spoken, sound in past for s in (*spoken, *sound)), *prompt],
            output="audio",
            media=chosen,
            without_words=[*(s for _, sound in past for s in (EmbSegment(), *sound)), EmbSegment()],
        )
        array = _drawn(model, request)
        grid = (array.shape[1] // patch[0], 1)
        clean = MediaSegment("audio", array, grid)
        heard: list[Segment] = [TextSegment(shape_tokens(model.tokenizer, clean)), clean]
        said = [*said, (prompt, heard)][-max(context, 1) :]
        if (sound := stream.add(denormalize_mel(array[0]))).size:
            yield Audio((sound, SAMPLE_RATE), generated=marks)
    if not said:
        raise ValueError("there is nothing to say; give some words")
    yield Audio((stream.end(), SAMPLE_RATE), generated=marks)


def _drawn(model: "Model", request: Request) -> np.ndarray:
    """The array of the one medium that a request makes; leaving early cancels it."""
    handle = model.engine.submit(request)
    try:
        answer = handle.result()
    finally:
        handle.cancel()
    media = next((part for part in answer.parts if isinstance(part, Media)), None)
    if media is None:
        raise ValueError(
            f"no room for a sound behind {answer.num_prompt_tokens} tokens; lower context or max_chars"
        )
    return media.array.float().cpu().numpy()
