"""Templates: how a sample becomes documents. A template is data, a tuple of lines, one line a document.

    {media}        the sample's medium as context            {target}  its medium as something to generate
    {text}         the sample's text                         {language} {name}  a language drawn from ``names``,
    {chat}         the sample's messages, media and all                          and the name in it
    <emb:a>        the token whose state embeds the media side of a pair; <emb:b> the text side
    <eos> <user> <assistant>  control tokens                 anything else is text as it stands

A trailing ``!`` supervises what it marks: ``{text!}`` is predicted, ``{text}`` is only read. ``{target}`` opens
with its modality and its size in patches (``<image> <h> <w>``), which are predicted too.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

TEMPLATES: dict[str, tuple[str, ...]] = {
    # A pair gives two documents: one embeds the medium and then names it, one embeds the text and then draws
    # or sounds it. Both sides meet in the alignment loss.
    "pair": ("{media}<emb:a>{text!}<eos!>", "{text}<emb:b>{target}"),
    # The same without generating the medium, and without generating at all: cheaper, for more pairs in a step.
    "align": ("{media}<emb:a>{text!}<eos!>", "{text}<emb:b>"),
    "embed": ("{media}<emb:a>", "{text}<emb:b>"),
    "translate": ("{media}name in {language}<assistant>{name!}<eos!>",),
    "transcribe": ("{media}transcribe<assistant>{text!}<eos!>",),
    "speak": ("say {text}<emb>{target}",),
    "chat": ("{chat}",),
    "text": ("{text!}<eos!>",),
}
LANGUAGE_NAMES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French", "ru": "Russian"}
_SLOT = re.compile(r"(\{[a-z]+!?\}|<[a-z]+(?::[ab])?!?>)")


@dataclass
class Medium:
    """A medium ready for a segment: the clean signal, and what the model sees of it (augmented) as context."""

    modality: str
    clean_CHW: np.ndarray
    seen_CHW: np.ndarray
    patch: tuple[int, int]

    def segment(self, *, noisy: bool) -> MediaSegment:
        """A segment of the clean signal (noisy) or of what is seen (context)."""
        array = self.clean_CHW if noisy else self.seen_CHW
        grid = (array.shape[1] // self.patch[0], array.shape[2] // self.patch[1])
        return MediaSegment(self.modality, array, grid, noisy)


@dataclass
class Sample:
    """A row with its media decoded, as the templates see it."""

    id: str
    source: str
    text: str = ""
    concept: str = ""
    names: dict[str, str] = field(default_factory=dict)
    media: list[Medium] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)


def shape_tokens(tokenizer: Tokenizer, medium: MediaSegment) -> list[int]:
    """``<image> <h> <w>`` or ``<audio> <n>``: what opens a generated medium."""
    sizes = medium.grid if medium.grid[1] > 1 else medium.grid[:1]
    return [tokenizer.open_token(medium.modality), *(tokenizer.size_token(s) for s in sizes)]


def build_documents(
    sample: Sample,
    template: str,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    pair_key: str = "",
    condition_dropout: float = 0.0,
    media_dropout: float = 0.0,
) -> list[Document]:
    """Fill a template with a sample.

    Args:
        pair_key: unique to this visit of the sample; joins the two sides of a pair.
        condition_dropout: chance that a document with a ``{target}`` loses its text (guidance training).
        media_dropout: chance that a chat loses its media.
    """
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}; known are {', '.join(TEMPLATES)}")
    group_keys = tuple(
        f"{kind}:{value}" for kind, value in (("t", sample.text.lower()), ("c", sample.concept)) if value
    )
    language = str(rng.choice(sorted(sample.names))) if sample.names else ""
    documents = []
    for line in TEMPLATES[template]:
        dropped = "{target}" in line and rng.random() < condition_dropout
        filled: list[Segment | str] = []
        for piece in _SLOT.split(line):
            if piece:
                filled += _fill(piece, sample, tokenizer, language, dropped, rng.random() < media_dropout)
        segments = _encode_text(filled, tokenizer)
        documents.append(
            Document(merge_text(segments), sample.id, f"{sample.source}/{template}", pair_key, group_keys)
        )
    return documents


def _fill(
    piece: str, sample: Sample, tokenizer: Tokenizer, language: str, dropped: bool, blind: bool
) -> list[Segment | str]:
    """One piece of a template; text that is only read stays a string until its neighbours have joined it."""
    supervised = piece.endswith(("!}", "!>"))
    slot = piece.strip("{}<>!")
    if not _SLOT.fullmatch(piece):
        return [] if dropped else [piece]
    if piece.startswith("<"):
        if slot.startswith("emb"):
            return [EmbSegment("" if dropped else slot.partition(":")[2])]
        return [TextSegment([tokenizer.id_of(f"<{slot}>")], supervised)]
    if slot == "media":
        return [medium.segment(noisy=False) for medium in sample.media]
    if slot == "target":
        target = sample.media[0].segment(noisy=True)
        return [TextSegment(shape_tokens(tokenizer, target), supervised=True), target]
    if slot == "chat":
        media = [] if blind else [medium.segment(noisy=False) for medium in sample.media]
        return [*chat_segments(sample.messages, media, tokenizer)]
    text = {
        "text": sample.text,
        "language": LANGUAGE_NAMES.get(language, language),
        "name": sample.names.get(language, ""),
    }
    if slot not in text:
        raise ValueError(
            f"template slot {piece!r} is unknown; known are media, target, chat, text, language, name"
        )
    if dropped:
        return []
    return [TextSegment(tokenizer.encode(text[slot]), supervised=True)] if supervised else [text[slot]]


def _encode_text(filled: Sequence[Segment | str], tokenizer: Tokenizer) -> list[Segment]:
    """Encode runs of strings as one text, as a user would type it: merges cross the borders of slots."""
    segments: list[Segment] = []
    for is_text, run in itertools.groupby(filled, key=lambda item: isinstance(item, str)):
        items = list(run)
        segments += (
            [TextSegment(tokenizer.encode("".join(map(str, items))))]
            if is_text
            else cast(list[Segment], items)
        )
    return segments


def chat_segments(
    messages: Sequence[dict[str, Any]], media: Sequence[MediaSegment], tokenizer: Tokenizer
) -> list[Segment]:
    """Messages -> segments; answers are supervised. ``media`` are taken in order of the media parts.

    With an empty ``media`` the media parts are left out (a blind question).
    """
    segments: list[Segment] = []
    waiting = list(media)
    for index, message in enumerate(messages):
        answer = message["role"] == "assistant"
        if answer:
            segments.append(TextSegment([tokenizer.assistant]))
        elif index:
            segments.append(TextSegment([tokenizer.user]))
        for part in message["content"]:
            if part["type"] == "text":
                segments.append(TextSegment(tokenizer.encode(part["text"]), supervised=answer))
            elif waiting:
                segments.append(waiting.pop(0))
            elif media:
                raise ValueError(
                    f"the messages have more media parts than the {len(media)} media of the sample"
                )
        if answer:
            segments.append(TextSegment([tokenizer.eos], supervised=True))
    if waiting:
        raise ValueError(f"{len(waiting)} of the sample's {len(media)} media have no part in its messages")
    return segments


def merge_text(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbouring text segments of the same supervision; drop empty ones."""
    out: list[Segment] = []
    for segment in segments:
        last = out[-1] if out else None
        if isinstance(segment, TextSegment):
            if not segment.token_ids:
                continue
            if isinstance(last, TextSegment) and last.supervised == segment.supervised:
                out[-1] = TextSegment([*last.token_ids, *segment.token_ids], segment.supervised)
                continue
        out.append(segment)
    return out
