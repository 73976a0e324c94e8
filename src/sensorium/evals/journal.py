"""Answers on disk as they come, so that a killed evaluation goes on where it stopped."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.media.audio import encode_wav
from sensorium.media.image import encode_png
from sensorium.media.parts import Audio, Image


class Journal:
    """Values by key in a JSONL file, written as they come.

    Args:
        path: made where it is missing. Its first line is ``about``; a torn last line is cut off.
        about: what the values depend on.

    Raises:
        ValueError: the file holds values that depend on something else; the message says what differs.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        about = json.loads(json.dumps(about))
        whole = _whole_lines(path)
        if not whole:
            path.write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
            return
        before, *rows = [_parsed(path, number, line) for number, line in enumerate(whole, 1)]
        changed = sorted(k for k in {*before, *about} if before.get(k) != about.get(k))
        if "data_hash" in changed:
            raise ValueError(
                f"{path} holds answers of other samples (another --data, --split or --limit); add --overwrite, or name "
                "another --out"
            )
        if changed:
            raise ValueError(
                f"{path} holds answers with {changed[0]} {before.get(changed[0])!r}, and now it is "
                f"{about.get(changed[0])!r}; add --overwrite, or name another --out"
            )
        self.values = {row["key"]: row["value"] for row in rows}

    def add(self, values: dict[str, Any]) -> None:
        """Append values; when this returns they are on the disk."""
        lines = [json.dumps({"key": k, "value": v}, ensure_ascii=False) + "\n" for k, v in values.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.values |= values

    def fill(
        self,
        items: Mapping[str, Any],
        make: Callable[[list[Any]], Sequence[Any]],
        *,
        batch_size: int,
        on_item: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Values of all items, in order; what is missing is made in batches.

        Batches are cut in the same places whatever is there already: a batch that is not whole is made again, so
        that an interrupted run gives the very values of one in one piece.

        Args:
            items: key -> what ``make`` takes.
            make: items -> a JSON value for each.
            on_item: called for every item, also for those that were there.

        Raises:
            ValueError: from ``make``, with the key of the item that is to blame where it can be told.
        """
        keys = list(items)
        for start in range(0, len(keys), batch_size):
            batch = keys[start : start + batch_size]
            if not all(key in self.values for key in batch):
                made = _made(batch, [items[key] for key in batch], make)
                self.add(dict(zip(batch, made, strict=True)))
            for _ in batch:
                on_item()
        return [self.values[key] for key in keys]


def vector_to_json(vector_L: np.ndarray) -> str:
    """A vector as text, bit for bit."""
    return base64.b64encode(np.asarray(vector_L, "<f4").tobytes()).decode()


def vector_from_json(text: str) -> np.ndarray:
    """Undo ``vector_to_json``: float32 ``[L]``."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def part_to_json(part: Image | Audio) -> str:
    """A picture as PNG, or a sound as WAV of 16 bits, as text."""
    if isinstance(part, Image):
        return f"png:{base64.b64encode(encode_png(part.pixels())).decode()}"
    return f"wav:{base64.b64encode(encode_wav(part.waveform())).decode()}"


def part_from_json(text: str) -> Image | Audio:
    """Undo ``part_to_json``."""
    kind, _, data = text.partition(":")
    return (Image if kind == "png" else Audio)(base64.b64decode(data))


def _made(keys: list[str], items: list[Any], make: Callable[[list[Any]], Sequence[Any]]) -> Sequence[Any]:
    try:
        return make(items)
    except ValueError as error:
        for key, item in zip(keys, items, strict=True):
            try:
                make([item])
            except ValueError as own:
                # A key is what was asked of the sample, then its id.
                raise ValueError(f"sample {key.partition(' ')[2]!r}: {own}") from error
        raise


def _whole_lines(path: Path) -> list[str]:
    """Lines that end; what a killed process wrote half of is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return data[:end].decode("utf-8").split("\n")[:-1]  # not splitlines: texts may hold other line ends


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and (number == 1 or {"key", "value"} <= value.keys()):
            return value
    except ValueError:
        pass
    raise ValueError(f"{path}: line {number} is no answer; add --overwrite, or name another --out")
