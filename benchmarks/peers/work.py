"""The work that everybody is given: what each row of the table trains on, what settings are chosen by, what is asked.

All of it is embedded data, the same pictures at 32 px, texts, tokens and augmentation for everybody. Two drawing
styles are trained on (Noto and Fluent emoji), a third one (OpenMoji) is asked.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sensorium import recipes
from sensorium.config import ModalityConfig, RunConfig, SourceConfig, Template
from sensorium.data.reader import Reader
from sensorium.data.sample import sample_of_row
from sensorium.data.templates import build_documents
from sensorium.media.modality import get_modality
from sensorium.media.parts import Audio, Image
from sensorium.sequence.document import Document, EmbSegment, MediaSegment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

ROWS = ("retrieval", "text", "pictures", "speech")
JOINT = "joint"  # all rows at once
STYLES, TEST_STYLE = ("noto", "fluent"), "openmoji"
SIDE, PATCH = 32, 8
QUESTION_SOURCE, SPEECH_SOURCE = "easy-vqa", "asterisk-en"
SOUND_FRAMES = 384  # 4.1 s: every prompt of the speech row fits
TEMPLATES = {
    "name": Template(documents=("{media}<emb>{text!}<eos!>",)),
    "draw": Template(documents=("{text}<emb>{target}",)),
}


def _styles(template: str) -> tuple[SourceConfig, ...]:
    return tuple(SourceConfig(path=f"starter:{style}", weight=1, templates={template: 1}) for style in STYLES)


QUESTIONS = SourceConfig(path=f"starter:{QUESTION_SOURCE}", weight=2, templates={"chat": 1}, augment=0.0)
SPEECH = SourceConfig(path=f"starter:{SPEECH_SOURCE}", weight=1, templates={"transcribe": 1})
SOURCES: dict[str, tuple[SourceConfig, ...]] = {
    "retrieval": _styles("embed"),
    "text": (*_styles("name"), QUESTIONS),
    "pictures": _styles("draw"),
    "speech": (SPEECH,),
}
# The joint model's sources and how many rows' budgets each gets: a named picture is read, embedded, named and drawn
# in the two documents of a pair.
JOINT_SHARES = ((_styles("pair"), 2.5), ((QUESTIONS,), 0.5), ((SPEECH,), 1.0))


def run_config(
    row: str,
    sources: Sequence[SourceConfig],
    *,
    lr: float,
    batch: int,
    seed: int = 0,
    optimizer: Literal["adamw", "muon"] = "muon",
    drops_conditions: bool = True,
) -> RunConfig:
    """The recipe ``nano`` with the modalities that a row needs."""
    nano = recipes.nano()
    audio: ModalityConfig = dataclasses.replace(
        nano.model.modalities["audio"], max_size=(SOUND_FRAMES, nano.model.modalities["audio"].max_size[1])
    )
    image = nano.model.modalities["image"]
    modalities = {"speech": {"audio": audio}, JOINT: {"image": image, "audio": audio}}.get(
        row, {"image": image}
    )
    return dataclasses.replace(
        nano,
        name=f"peers-{row}",
        model=dataclasses.replace(nano.model, modalities=modalities),
        data=dataclasses.replace(
            nano.data,
            sources=tuple(sources),
            templates=TEMPLATES,
            samples_per_step=batch,
            condition_dropout=nano.data.condition_dropout * drops_conditions,
        ),
        train=dataclasses.replace(nano.train, lr=lr, seed=seed, optimizer=optimizer),
    )


def rows_of(name: str, split: str) -> list[dict[str, Any]]:
    """All rows of a split of an embedded source."""
    return list(Reader(f"starter:{name}", split).rows())


def known_clip_art() -> list[dict[str, Any]]:
    """Pictures of known names in a style that is neither trained on nor asked."""
    names = {row["text"] for style in STYLES for row in rows_of(style, "train")}
    return [row for row in rows_of("openclipart", "train") if row["text"] in names]


def held_out(row: str, config: RunConfig, tokenizer: Tokenizer) -> list[Document]:
    """On what settings are chosen by their loss; never what is asked.

    Known names in a style that is neither trained on nor asked (clip art), the questions' own validation split, and
    for pictures those that are trained on (only noise is new there).
    """
    clip_art = known_clip_art()
    questions = rows_of(QUESTION_SOURCE, "validation")
    drawn = [row for style in STYLES for row in rows_of(style, "train")[::8]]
    parts: dict[str, list[tuple[list[dict[str, Any]], str]]] = {
        "text": [(clip_art, "name"), (questions, "chat")],
        "pictures": [(drawn, "draw")],
        JOINT: [(clip_art, "pair"), (questions, "chat")],
    }
    rng = np.random.default_rng(0)
    return [
        document
        for rows, template in parts[row]
        for each in rows
        for document in build_documents(
            sample_of_row(each, config.model),
            TEMPLATES.get(template, template),
            tokenizer,
            rng,
            pair_key=each["id"],
        )
    ]


@dataclass(frozen=True)
class Asked:
    """What is asked after training, and what is right.

    Args:
        names: of ``pictures``, which are in the unseen style; also what is to be drawn.
        questions: on ``question_pictures``, with the right ``answers``; ``groups`` says which share a picture.
        said: in ``sounds``.
    """

    names: list[str]
    pictures: list[Image]
    questions: list[str]
    question_pictures: list[Image]
    answers: list[str]
    groups: list[str]
    said: list[str]
    sounds: list[Audio]

    @classmethod
    def clip_art(cls) -> "Asked":
        """What settings of the retrieval row are chosen by."""
        rows = known_clip_art()
        names, pictures = [row["text"] for row in rows], [Image(row["image"]["bytes"]) for row in rows]
        return cls(names, pictures, [], [], [], [], [], [])

    @classmethod
    def load(cls, limit: int = 0) -> "Asked":
        """All, or so many of each, evenly spread."""

        def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return rows[:: max(1, len(rows) // limit)][:limit] if limit else rows

        named = spread(rows_of(TEST_STYLE, "train"))
        asked = spread(rows_of(QUESTION_SOURCE, "test"))
        spoken = spread(rows_of(SPEECH_SOURCE, "validation") + rows_of(SPEECH_SOURCE, "test"))
        return cls(
            names=[row["text"] for row in named],
            pictures=[Image(row["image"]["bytes"]) for row in named],
            questions=[text_of(row["messages"][0]) for row in asked],
            question_pictures=[Image(row["images"][0]["bytes"]) for row in asked],
            answers=[text_of(row["messages"][1]) for row in asked],
            groups=[str(hash(row["images"][0]["bytes"])) for row in asked],
            said=[row["text"] for row in spoken],
            sounds=[Audio(row["audio"]["bytes"]) for row in spoken],
        )


def arrays_of(pictures: Sequence[Image], config: RunConfig) -> np.ndarray:
    """Pictures as models see them: float32 ``[n, 3, 32, 32]`` in -1 .. 1."""
    image = get_modality("image")
    return np.stack([image.to_array(p.pixels(), config.model.modalities["image"]) for p in pictures])


def text_of(message: dict[str, Any]) -> str:
    """The words of a message."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def picture_and_tokens(
    document: Document, tokenizer: Tokenizer
) -> tuple[np.ndarray | None, list[int], list[bool]]:
    """A document as peers read it: its picture ``[3, H, W]`` in -1 .. 1 or None, token ids, which are supervised."""
    picture, ids, supervised = None, [], []
    for segment in document.segments:
        if isinstance(segment, MediaSegment):
            picture = np.asarray(segment.array, dtype=np.float32)  # augmentation may leave double precision
            continue
        own = [tokenizer.emb] if isinstance(segment, EmbSegment) else list(segment.token_ids)
        ids += own
        supervised += [isinstance(segment, TextSegment) and segment.supervised] * len(own)
    return picture, ids, supervised
