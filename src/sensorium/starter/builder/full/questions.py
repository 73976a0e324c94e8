"""Every question of easy-VQA, training and test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import fetch, read_members
from sensorium.starter.builder.questions import DATA, picture_split, picture_webp, question_row


def question_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per question, in the order of the pictures; a question asked twice of a picture once.

    The test is the package's own test set; a twentieth of its training pictures become validation.
    """
    files = dict(read_members(fetch(pinned.EASY_VQA, folder), lambda name: name.startswith(DATA)))

    @cache
    def webp(part: str, picture: int) -> bytes:
        return picture_webp(files[f"{DATA}{part}/images/{picture}.png"])

    for part in ("train", "test"):
        questions = {tuple(item) for item in json.loads(files[f"{DATA}{part}/questions.json"])}
        for text, answer, picture in sorted(questions, key=lambda item: (item[2], item[0], item[1])):
            split = picture_split(part, picture)
            yield question_row(split, f"{part}/{picture}", text, answer, webp(part, picture))


SOURCES: tuple[FullSource, ...] = (
    FullSource(name="easy-vqa", task="question", packages=(pinned.EASY_VQA,), rows=question_rows),
)
