"""Answers on disk as they come, so that a killed evaluation goes on where it stopped; one process at a time."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from sensorium.media.audio import encode_wav
from sensorium.media.image import encode_png
from sensorium.media.parts import Audio, Image

try:
    import fcntl
except ModuleNotFoundError:  # not POSIX: nothing is locked there
    fcntl = None  # type: ignore[assignment]


class InUseError(OSError):
    """Another process writes there."""


class Journal:
    """Values by key in a JSONL file, written as they come; a context manager, locked against others until it ends.

    Args:
        path: made where it is missing. Its first line is ``about``; a torn last line is cut off.
        about: what the values depend on.
        overwrite: begin anew whatever is there.

    Raises:
        InUseError: another process holds the file.
        ValueError: the file holds values that depend on something else; the message says what differs.
    """

    def __init__(self, path: Path, about: dict[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self._file = path.open("a+b")
        try:
            _lock(self._file.fileno(), path)
            if overwrite:
                self._file.truncate(0)
            self._open(json.loads(json.dumps(about)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # which ends the lock

    def _open(self, about: dict[str, Any]) -> None:
        path, whole = self.path, _whole_lines(self._file)
        if not whole:
            self._append([about])
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
        self._append([{"key": k, "value": v} for k, v in values.items()])
        self.values |= values

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

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


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A folder that one process at a time writes several journals into.

    Raises:
        InUseError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    """Lock an open file until it is closed; the system closes those of a killed process."""
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(
            f"{path} is being written by another evaluation; wait until it ends, or name another --out"
        ) from error


def _whole_lines(file: IO[bytes]) -> list[str]:
    """Lines that end; what a killed process wrote half of is cut off the file."""
    file.seek(0)
    data = file.read()
    end = data.rfind(b"\n") + 1
    if end < len(data):
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
