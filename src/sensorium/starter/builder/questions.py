"""Questions of easy-VQA about small pictures of one shape."""

from __future__ import annotations

import io
import json
from hashlib import sha1
from pathlib import Path
from typing import Any

from PIL import Image

from sensorium.data.schema import medium, message
from sensorium.data.splits import Split, split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.images import encode_webp_lossless
from sensorium.starter.builder.packages import fetch, read_members

NUM_QUESTIONS: dict[Split, int] = {"train": 4500, "validation": 200, "test": 900}
DATA = "easy_vqa/data/"

# Question, answer, number of the picture: as the package's files hold them.
Question = tuple[str, str, int]


def question_rows(cache: Path) -> list[dict[str, Any]]:
    """Return one row per question, the questions of a picture side by side.

    The test is the package's own test set; a twentieth of its training pictures become validation.
    """
    package = fetch(pinned.EASY_VQA, cache)
    files = dict(read_members(package, lambda name: name.startswith(DATA)))
    pools: dict[Split, list[Question]] = {"train": [], "validation": [], "test": []}
    for part in ("train", "test"):
        for text, answer, picture in json.loads(files[f"{DATA}{part}/questions.json"]):
            pools[picture_split(part, picture)].append((text, answer, picture))
    rows = []
    for split, pool in pools.items():
        part = "test" if split == "test" else "train"
        for text, answer, picture in choose_questions(pool, NUM_QUESTIONS[split]):
            webp = picture_webp(files[f"{DATA}{part}/images/{picture}.png"])
            rows.append(question_row(split, f"{part}/{picture}", text, answer, webp))
    return rows


def choose_questions(pool: list[Question], count: int) -> list[Question]:
    """Return questions over as many pictures as possible, drawn without regard to what they ask.

    Every picture gives one question before any gives a second, so that the kinds of questions and answers
    keep their natural proportion.
    """
    drawn = sorted(dict.fromkeys(pool), key=lambda item: sha1(repr(item).encode()).hexdigest())
    turns: dict[int, int] = {}
    rounds = []
    for place, item in enumerate(drawn):
        turns[item[2]] = turns.get(item[2], 0) + 1
        rounds.append((turns[item[2]], place, item))
    return sorted((item for _, _, item in sorted(rounds)[:count]), key=lambda item: (item[2], item[0]))


def picture_split(part: str, picture: int) -> Split:
    """Return the split of a picture of the package's training or test part."""
    if part == "test":
        return "test"
    return "validation" if split_of(f"easy-vqa picture {picture}") == "validation" else "train"


def picture_webp(png: bytes) -> bytes:
    """Return a picture of the package as WebP without loss."""
    return encode_webp_lossless(Image.open(io.BytesIO(png)).convert("RGB"))


def question_row(split: Split, picture: str, text: str, answer: str, webp: bytes) -> dict[str, Any]:
    """Return the row of one question about an encoded picture."""
    number = sha1(text.encode()).hexdigest()[:8]
    return {
        "id": f"easy-vqa/{picture}/{number}",
        "split": split,
        "language": "en",
        "source": "easy-vqa",
        "license": "MIT",
        "attribution": "easy-VQA, Victor Zhou (https://github.com/vzhou842/easy-VQA)",
        "messages": [message("user", {"type": "image"}, text), message("assistant", answer)],
        "images": [medium(webp, f"{picture.replace('/', '-')}.webp")],
    }
