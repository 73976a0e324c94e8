"""Templates: how a sample becomes documents. They are data: `templates.json`, and a run's own beside them.

A template is a list of lines, one line a document, and words to choose from.

    {media}        all media of the sample as context        {image} {audio} {video}  those of one kind
    {target}       its first medium as something to generate {target:image} {target:audio}  the first of one kind
    {text}         the sample's text                         {language} {name}  a language drawn from ``names``,
    {chat}         the sample's messages, media and all;     and the name in it
                   media in an assistant's turn are generated
    {chunks}       its sound in pieces of a second; after each what has been said by its end, and <wait>
    {spoken}       its sound in pieces as its segments say, each to be generated after its words
    {timeline}     its segments as lines "1.5s text"         {ask}  any other name: drawn from the template's words
    <emb:a>        the token whose state embeds the media side of a pair; <emb:b> the text side
    <eos> <user> <assistant>  control tokens                 anything else is text as it stands

A trailing ``!`` supervises what it marks: ``{text!}`` is predicted, ``{text}`` is only read. ``{target}`` opens
with its modality and its size in patches (``<image> <h> <w>``), which are predicted too. A video is its frames,
each after its time ("1.5s") as text.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

import numpy as np

from sensorium.config import Template, from_dict
from sensorium.data.sample import Clip, Medium, Sample
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, Segment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

LANGUAGE_NAMES = {
    "en": "English", "de": "German", "es": "Spanish", "fr": "French", "ru": "Russian", "it": "Italian",
    "pt": "Portuguese", "nl": "Dutch", "pl": "Polish", "tr": "Turkish", "ja": "Japanese", "zh": "Chinese",
    "ko": "Korean", "ar": "Arabic", "hi": "Hindi", "uk": "Ukrainian", "cs": "Czech", "sv": "Swedish",
    "fi": "Finnish", "da": "Danish", "el": "Greek", "ro": "Romanian", "hu": "Hungarian", "ca": "Catalan",
}  # fmt: skip
CHUNK_PATCHES = 16  # about a second of sound: what a live caption waits for
_PIECE = re.compile(r"(\{[a-z_]+(?::[a-z]+)?!?\}|<[a-z]+(?::[ab])?!?>)")
_SLOTS = (
    *(
        "media",
        "image",
        "audio",
        "video",
        "target",
        "text",
        "language",
        "name",
        "chat",
        "chunks",
        "timeline",
        "spoken",
    ),
)


@lru_cache(maxsize=1)
def built_in() -> dict[str, Template]:
    """The templates of `templates.json`."""
    text = files("sensorium.data").joinpath("templates.json").read_text(encoding="utf-8")
    return {name: from_dict(Template, value, where=f"{name}.") for name, value in json.loads(text).items()}


def find_template(name: str, own: Mapping[str, Template] | None = None) -> Template:
    """A template by name, a run's own first.

    Raises:
        ValueError: nobody knows it, or it has a slot that is neither known nor among its words.
    """
    known = {**built_in(), **(own or {})}
    if name not in known:
        raise ValueError(f"unknown template {name!r}; known are {', '.join(known)}")
    template = known[name]
    for word, choices in template.words.items():
        if word in _SLOTS or not choices:
            raise ValueError(
                f"template {name!r}: the words {word!r} are " + ("a slot's own name" if choices else "empty")
            )
    for line in template.documents:
        odd = re.findall(r"\{[^{}]*\}", _PIECE.sub("", line))
        if odd:
            raise ValueError(f"template {name!r}: slot {odd[0]} is unknown; slots are written in lower case")
        for _, slot, _, _ in _parse(line):
            if slot and slot not in (*_SLOTS, *template.words):
                raise ValueError(
                    f"template {name!r}: slot {{{slot}}} is unknown; known are {', '.join(_SLOTS)} and its words "
                    f"({', '.join(template.words) or 'none'})"
                )
    return template


@lru_cache(maxsize=1024)
def _parse(line: str) -> tuple[tuple[str, str, str, bool], ...]:
    """Pieces of a line: (text or control token, slot, what follows its colon, supervised)."""
    out = []
    for piece in filter(None, _PIECE.split(line)):
        if not _PIECE.fullmatch(piece):
            out.append((piece, "", "", False))
            continue
        name, _, kind = piece.strip("{}<>!").partition(":")
        slot = "" if piece.startswith("<") else name
        out.append((f"<{name}>" if not slot else "", slot, kind, piece.endswith(("!}", "!>"))))
    return tuple(out)


@dataclass
class _Filling:
    """One document being filled."""

    sample: Sample
    tokenizer: Tokenizer
    texts: dict[str, str]
    dropped: bool  # the condition of a document that generates is emptied
    blind: bool  # a conversation loses its media

    def piece(self, literal: str, slot: str, kind: str, supervised: bool) -> list[Segment | str]:
        """Text that is only read stays a string until its neighbours have joined it."""
        if slot:
            return self._slot(slot, kind, supervised)
        if literal == "<emb>":
            return [EmbSegment("" if self.dropped else kind)]
        if literal.startswith("<") and _PIECE.fullmatch(literal):
            return [TextSegment([self.tokenizer.id_of(literal)], supervised)]
        return [] if self.dropped else [literal]

    def _slot(self, slot: str, kind: str, supervised: bool) -> list[Segment | str]:
        if slot in ("media", "image", "audio", "video"):
            found = [m for m in self.sample.media if slot in ("media", m.modality)]
            if not found:
                raise self._lacks(f"{{{slot}}}", slot)
            return [piece for medium in found for piece in _context(medium)]
        if slot == "target":
            target = next((m for m in self.sample.media if kind in ("", m.modality)), None)
            if target is None or isinstance(target, Clip):
                raise self._lacks("{target}", kind or "medium to generate")
            return _generated(target, self.tokenizer)
        if slot == "chat":
            return self._chat()
        if slot == "chunks":
            return self._chunks()
        if slot == "spoken":
            return self._spoken()
        text = self._timeline() if slot == "timeline" else self.texts[slot]
        if not text and slot in ("text", "name"):  # the model would learn to say nothing
            raise ValueError(
                f"the template's {{{slot}}} needs words, the sample has none; choose another template"
            )
        if self.dropped and not supervised:
            return []
        return [TextSegment(self.tokenizer.encode(text), supervised=True)] if supervised else [text]

    def _chat(self) -> list[Segment | str]:
        if not self.sample.messages:
            raise self._lacks("{chat}", "messages")
        media = [] if self.blind else self.sample.media
        return list(chat_segments(self.sample.messages, media, self.tokenizer, without_text=self.dropped))

    def _chunks(self) -> list[Segment | str]:
        """``[chunk] text <wait> [chunk] text <wait> ... [chunk] text <eos>`` (design, 2.3)."""
        sound = next((m for m in self.sample.media if m.modality == "audio"), None)
        if sound is None:
            raise self._lacks("{chunks}", "audio")
        step = CHUNK_PATCHES * sound.patch[0]
        starts = range(0, sound.seen_CHW.shape[1], step)
        seconds_per_frame = HOP_LENGTH / SAMPLE_RATE
        # Without times, all of the text comes after the last chunk.
        said = self.sample.segments or [{"end_s": float("inf"), "text": self.sample.text}]
        said = sorted(said, key=lambda segment: segment["end_s"])  # they may overlap
        out: list[Segment | str] = []
        told, begun = 0, False
        for start in starts:
            part = sound.seen_CHW[:, start : start + step]
            grid = (part.shape[1] // sound.patch[0], part.shape[2] // sound.patch[1])
            out.append(MediaSegment("audio", np.ascontiguousarray(part), grid))
            last = start + step >= sound.seen_CHW.shape[1]
            end_s = float("inf") if last else (start + step) * seconds_per_frame
            now = [s["text"].strip() for s in said[told:] if s["end_s"] <= end_s]
            told += len(now)
            text = (" " if now and begun else "") + " ".join(now)
            begun = begun or bool(now)
            closing = self.tokenizer.eos if last else self.tokenizer.wait
            out.append(TextSegment([*self.tokenizer.encode(text), closing], supervised=True))
        return out

    def _spoken(self) -> list[Segment | str]:
        """``say words <emb> <audio> <n> [sound] say words <emb> <audio> <n> [sound] ...``: speech in pieces."""
        sound = next((m for m in self.sample.media if m.modality == "audio"), None)
        if sound is None:
            raise self._lacks("{spoken}", "audio")
        num_frames, patch_s = sound.clean_CHW.shape[1], sound.patch[0] * HOP_LENGTH / SAMPLE_RATE
        said = self.sample.segments or [{"end_s": float("inf"), "text": self.sample.text}]
        out: list[Segment | str] = []
        start = 0
        for index, segment in enumerate(sorted(said, key=lambda s: s["end_s"])):
            last = index + 1 == len(said)
            end = num_frames if last else min(num_frames, round(segment["end_s"] / patch_s) * sound.patch[0])
            if end <= start or not segment["text"].strip():
                continue
            piece = Medium("audio", sound.clean_CHW[:, start:end], sound.seen_CHW[:, start:end], sound.patch)
            words = [] if self.dropped else [f"say {segment['text'].strip()}"]
            out += [*words, EmbSegment(), *_generated(piece, self.tokenizer)]
            start = end
        if not out:
            raise self._lacks("{spoken}", "words")
        return out

    def _timeline(self) -> str:
        if not self.sample.segments:
            raise self._lacks("{timeline}", "segments")
        return "\n".join(f"{s['start_s']:.1f}s {s['text']}" for s in self.sample.segments)

    def _lacks(self, slot: str, wanted: str) -> ValueError:
        kinds = ", ".join(m.modality for m in self.sample.media) or "no medium"
        return ValueError(
            f"the template's {slot} needs {wanted}, the sample has {kinds}; choose another template"
        )


def _context(medium: Medium) -> list[Segment | str]:
    if not isinstance(medium, Clip):
        return [medium.segment(noisy=False)]
    out: list[Segment | str] = []
    for frame, time_s in zip(medium.frames, medium.times_s, strict=True):
        out += [frame_time(time_s), replace(frame.segment(noisy=False), is_frame=True)]
    return out


def frame_time(time_s: float) -> str:
    """What stands before a frame of a video."""
    return f"{time_s:.1f}s"


def _generated(medium: Medium, tokenizer: Tokenizer) -> list[Segment | str]:
    target = medium.segment(noisy=True)
    return [TextSegment(shape_tokens(tokenizer, target), supervised=True), target]


def shape_tokens(tokenizer: Tokenizer, medium: MediaSegment) -> list[int]:
    """``<image> <h> <w>`` or ``<audio> <n>``: what opens a generated medium."""
    sizes = medium.grid if medium.grid[1] > 1 else medium.grid[:1]
    return [tokenizer.open_token(medium.modality), *(tokenizer.size_token(s) for s in sizes)]


def build_documents(
    sample: Sample,
    template: str | Template,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    pair_key: str = "",
    condition_dropout: float = 0.0,
    media_dropout: float = 0.0,
    task: str = "",
) -> list[Document]:
    """Fill a template with a sample.

    Args:
        template: a built-in name, or a template.
        pair_key: unique to this visit of the sample; joins the two sides of a pair.
        condition_dropout: chance that a document with something to generate loses its text (guidance training).
        media_dropout: chance that a chat that generates nothing loses its media.
        task: what logs call the documents; the source and the template's name by default.

    Raises:
        ValueError: the template asks for what the sample does not have.
    """
    if isinstance(template, str):
        task = task or f"{sample.source}/{template}"
        template = find_template(template)
    group_keys = tuple(
        f"{kind}:{value}" for kind, value in (("t", sample.text.lower()), ("c", sample.concept)) if value
    )
    language = str(rng.choice(sorted(sample.names))) if sample.names else ""
    texts = {
        "text": sample.text,
        "language": LANGUAGE_NAMES.get(language, language),
        "name": sample.names.get(language, ""),
    }
    for slot, choices in template.words.items():
        texts[slot] = choices[int(rng.integers(len(choices)))]
    generates_chat = any(
        part["type"] != "text" for m in sample.messages if m["role"] == "assistant" for part in m["content"]
    )
    documents = []
    for line in template.documents:
        generates = "{target" in line or "{spoken" in line or ("{chat}" in line and generates_chat)
        dropped = generates and rng.random() < condition_dropout
        blind = not generates and "{chat}" in line and rng.random() < media_dropout
        filling = _Filling(sample, tokenizer, texts, dropped, blind)
        filled: list[Segment | str] = []
        for piece in _parse(line):
            filled += filling.piece(*piece)
        segments = merge_text(_encode_text(filled, tokenizer))
        spelled = sample.text if template.spells else ""
        documents.append(Document(segments, sample.id, task or sample.source, pair_key, group_keys, spelled))
    return documents


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
    messages: Sequence[dict[str, Any]],
    media: Sequence[Medium],
    tokenizer: Tokenizer,
    *,
    without_text: bool = False,
) -> list[Segment]:
    """Messages -> segments; answers are supervised. ``media`` are taken in order of the media parts.

    With an empty ``media`` the media parts are left out (a blind question). ``without_text`` leaves out what the
    user says, for guidance. Media in an assistant's turn are generated; where one ends the conversation, it is
    its own end and needs no <eos>.
    """
    filled: list[Segment | str] = []
    waiting = list(media)
    for index, message in enumerate(messages):
        answer = message["role"] == "assistant"
        if answer:
            filled.append(TextSegment([tokenizer.assistant]))
        elif index:
            filled.append(TextSegment([tokenizer.user]))
        for part in message["content"]:
            if part["type"] == "text":
                if answer:
                    filled.append(TextSegment(tokenizer.encode(part["text"]), supervised=True))
                elif not without_text:
                    filled.append(part["text"])
            elif waiting:
                medium = waiting.pop(0)
                if answer and isinstance(medium, Clip):
                    raise ValueError("a video stands in an assistant's turn; videos cannot be generated")
                if answer:
                    filled += _generated(medium, tokenizer)
                else:
                    filled += _context(medium)
            elif media:
                raise ValueError(
                    f"the messages have more media parts than the {len(media)} media of the sample"
                )
        ends_in_medium = index + 1 == len(messages) and message["content"][-1]["type"] != "text"
        if answer and not ends_in_medium:
            filled.append(TextSegment([tokenizer.eos], supervised=True))
    if waiting:
        raise ValueError(f"{len(waiting)} of the sample's {len(media)} media have no part in its messages")
    return _encode_text(filled, tokenizer)


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
