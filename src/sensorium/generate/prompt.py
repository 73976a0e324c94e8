"""What a user hands in -> segments, in the same forms that training uses (see ``data.templates``)."""

from collections.abc import Sequence
from typing import Any

from sensorium.config import ModelConfig
from sensorium.data.templates import merge_text
from sensorium.media.modality import get_modality, modality_of
from sensorium.media.parts import Audio, Image
from sensorium.sequence.document import EmbSegment, MediaSegment, Segment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

Part = str | Image | Audio
Prompt = Part | Sequence[Part] | Sequence[dict[str, Any]]


def read_parts(prompt: Prompt, config: ModelConfig, tokenizer: Tokenizer) -> list[Segment]:
    """Parts in order -> text and media segments.

    Raises:
        ValueError: the prompt is empty, a part is of an unknown kind, or the model lacks its modality.
    """
    parts = [prompt] if isinstance(prompt, str) or modality_of(prompt) else list(prompt)  # type: ignore[arg-type]
    segments: list[Segment] = []
    for part in parts:
        modality = modality_of(part)
        if modality is not None:
            segments.append(_media_segment(part, modality.name, config))
        elif isinstance(part, str):
            segments.append(TextSegment(tokenizer.encode(part)))
        else:
            raise ValueError(
                f"a prompt part is a {type(part).__name__}; expected text, sm.Image(...) or sm.Audio(...): "
                "wrap it first"
            )
    segments = merge_text(segments)
    if not segments:
        raise ValueError("the prompt is empty; give some text, a picture or a sound")
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
    segments = read_parts(prompt, config, tokenizer)
    media = [isinstance(s, MediaSegment) for s in segments]
    if (all(media) and output == "text") or (not any(media) and output not in ("text", "interleaved")):
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


def without_text(segments: Sequence[Segment]) -> list[Segment]:
    """The unconditional prompt of classifier-free guidance: text goes, media and the closing token stay."""
    kept = [s for s in segments[:-1] if not isinstance(s, TextSegment)]
    last = segments[-1]
    return [*kept, TextSegment(last.token_ids[-1:]) if isinstance(last, TextSegment) else last]


def without_media(segments: Sequence[Segment]) -> list[Segment]:
    """The prompt that guidance by media moves away from: media go, the rest stays."""
    return [s for s in segments if not isinstance(s, MediaSegment)]
