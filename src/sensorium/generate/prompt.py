"""What a user hands in -> segments, in the same forms that training uses (see ``data.templates``)."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sensorium.config import ModelConfig
from sensorium.data.templates import frame_time, merge_text
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.media.modality import get_modality, modality_of
from sensorium.media.parts import Audio, Image, Video
from sensorium.sequence.document import EmbSegment, MediaSegment, Segment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

Part = str | Image | Audio | Video
# What asks for the words of a sound, as the template of that name trains it.
TRANSCRIBE = "transcribe"
Prompt = Part | Sequence[Part] | Sequence[dict[str, Any]]


def read_parts(prompt: Prompt, config: ModelConfig, tokenizer: Tokenizer) -> list[Segment]:
    """Parts in order -> text and media segments.

    Raises:
        ValueError: the prompt is empty, a part is of an unknown kind, or the model lacks its modality.
    """
    segments: list[Segment] = []
    for part in _parts(prompt):
        modality = modality_of(part)
        if modality is not None:
            segments.append(_media_segment(part, modality.name, config))
        elif isinstance(part, str):
            segments.append(TextSegment(tokenizer.encode(part)))
        elif isinstance(part, Video):
            segments += _video_segments(part, config, tokenizer)
        else:
            raise ValueError(
                f"a prompt part is a {type(part).__name__}; expected text, sm.Image(...), sm.Audio(...) or "
                "sm.Video(...): wrap it first"
            )
    segments = merge_text(segments)
    if not segments:
        raise ValueError("the prompt is empty; give some text, a picture or a sound")
    return segments


def _parts(prompt: Prompt) -> list[Any]:
    alone = isinstance(prompt, str | Video) or modality_of(prompt) is not None
    if not alone and not isinstance(prompt, Iterable):
        raise ValueError(
            f"the prompt is a {type(prompt).__name__}; expected text, sm.Image(...), sm.Audio(...), sm.Video(...) or a "
            "list of them"
        )
    return [prompt] if alone else list(prompt)  # type: ignore[arg-type]


def _video_segments(video: Video, config: ModelConfig, tokenizer: Tokenizer) -> list[Segment]:
    """The sound track, then every frame after its time: what ``{media}`` makes of a sample with both."""
    segments: list[Segment] = []
    frames, times_s = video.frames()
    wave = video.waveform() if video.sound and "audio" in config.modalities else None
    if wave is not None:
        longest = config.modalities["audio"].max_size[0] * HOP_LENGTH
        if wave.size > longest:
            warnings.warn(
                f"{video!r}: of its sound the model hears the first {longest / SAMPLE_RATE:.2f} of "
                f"{wave.size / SAMPLE_RATE:.2f} s",
                stacklevel=2,
            )
        segments.append(_media_segment(Audio((wave, SAMPLE_RATE)), "audio", config))
    for frame, time_s in zip(frames, times_s, strict=True):
        segments.append(TextSegment(tokenizer.encode(frame_time(float(time_s)))))
        segments.append(replace(_media_segment(Image(frame), "image", config), is_frame=True))
    return segments


def _media_segment(part: Any, name: str, config: ModelConfig) -> MediaSegment:
    if name not in config.modalities:
        raise ValueError(
            f"this model has no modality {name!r}; it knows {', '.join(config.modalities) or 'text only'}"
        )
    modality, modality_config = get_modality(name), config.modalities[name]
    array = modality.to_array(modality.read(part), modality_config)
    grid = (array.shape[1] // modality_config.patch[0], array.shape[2] // modality_config.patch[1])
    return MediaSegment(name, array, grid)


def read_prompt(prompt: Prompt, output: str, config: ModelConfig, tokenizer: Tokenizer) -> list[Segment]:
    """A prompt, up to where the answer begins.

    Media alone are named and text alone is drawn or sounded after ``<emb>``; anything else is a conversation,
    answered after ``<assistant>``. A list of messages (``{"role", "content"}``) is a conversation of turns.
    """
    if (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and prompt
        and isinstance(prompt[0], dict)
    ):
        return _read_messages(prompt, config, tokenizer)  # type: ignore[arg-type]
    parts = _parts(prompt)
    segments = read_parts(parts, config, tokenizer)
    # Parts, not segments: a video's times are text, but nobody has asked anything of it yet.
    has_words = any(isinstance(part, str) and part for part in parts)
    has_media = any(not isinstance(part, str) for part in parts)
    if (not has_words and output == "text") or (not has_media and output not in ("text", "interleaved")):
        return [*segments, EmbSegment()]
    return [*segments, TextSegment([tokenizer.assistant])]


def _read_messages(
    messages: Sequence[dict[str, Any]], config: ModelConfig, tokenizer: Tokenizer
) -> list[Segment]:
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"message {index} has role {role!r}; expected system, user or assistant")
        if role == "assistant":
            segments += [TextSegment([tokenizer.assistant])]
        elif index:
            segments += [TextSegment([tokenizer.user])]
        segments += read_parts(message.get("content", ""), config, tokenizer)
        if role == "assistant":
            segments += [TextSegment([tokenizer.eos])]
    return merge_text([*segments, TextSegment([tokenizer.assistant])])


def transcript(prompt: Sequence[Segment], tokenizer: Tokenizer) -> tuple[MediaSegment, list[int]] | None:
    """The medium of which a prompt wants a transcript, and the tokens of it that are given already; None: it does not."""
    last = merge_text(prompt)[-2:]
    if len(last) < 2:
        return None
    medium, words = last
    if not isinstance(medium, MediaSegment) or not isinstance(words, TextSegment):
        return None
    asked = [*tokenizer.encode(TRANSCRIBE), tokenizer.assistant]
    token_ids = list(words.token_ids)
    return (medium, token_ids[len(asked) :]) if token_ids[: len(asked)] == asked else None


def without_text(segments: Sequence[Segment]) -> list[Segment]:
    """The unconditional prompt of classifier-free guidance: text goes, media and the closing token stay."""
    kept = [s for s in segments[:-1] if not isinstance(s, TextSegment)]
    last = segments[-1]
    return [*kept, TextSegment(last.token_ids[-1:]) if isinstance(last, TextSegment) else last]


def without_media(segments: Sequence[Segment]) -> list[Segment]:
    """The prompt that guidance by media moves away from: media go, the rest stays."""
    return [s for s in segments if not isinstance(s, MediaSegment)]
