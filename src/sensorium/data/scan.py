"""Looking at rows as they are, broken ones included: files to rows, rows to documents.

The loader leaves out what it cannot use. Here nothing is left out: a cell that cannot be read is a problem of its
row, a file that cannot be read is a problem of its own, and neither ends the pass.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.config import ModelConfig, RunConfig
from sensorium.data import sample
from sensorium.data.sample import Arrays, OverBudgetError
from sensorium.data.schema import MEDIA_LISTS, SAMPLE_SCHEMA, check_row
from sensorium.data.shards import MANIFEST_NAME, check_folder, conform, no_parquet, rows_of_table
from sensorium.data.templates import build_documents, find_template
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.media.errors import MediaError
from sensorium.media.modality import get_modality
from sensorium.sequence.document import Document
from sensorium.sequence.tokenizer import Tokenizer

_BATCH = 64
# The columns of a shard, all of them nullable: a null id is a problem of one row, not of the file.
_LOOSE = pa.schema([field.with_nullable(True) for field in SAMPLE_SCHEMA])


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One Parquet file to look at.

    Args:
        name: what messages call it.
        group: the path that the user named; leaks between groups are looked for.
        templates: name -> weight, how its rows become documents; without any, the form of each row decides.
    """

    path: Path
    name: str
    group: str
    templates: Mapping[str, float] = field(default_factory=dict)


def find_shards(path: str, templates: Mapping[str, float] | None = None) -> list[ShardFile]:
    """The Parquet files of a path: one file, or all below a folder.

    Raises:
        FileNotFoundError: there are none.
    """
    root = Path(path).expanduser()
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
    if not files or not files[0].is_file():
        raise no_parquet(path)
    if root.is_dir():
        manifest = root / MANIFEST_NAME
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.is_file() else None
        check_folder((entry.name for entry in root.iterdir()), listed, path)
    return [
        ShardFile(
            path=file,
            name=file.relative_to(root).as_posix() if root.is_dir() else file.name,
            group=path,
            templates=templates or {},
        )
        for file in files
    ]


class Rows:
    """All rows of some files, numbered through, read a few at a time.

    Args:
        files: in the order in which rows are numbered.

    Attributes:
        file_problems: (file, reason) of what could not be read; filled as files are opened and read.
    """

    def __init__(self, files: Sequence[ShardFile]) -> None:
        self.files = list(files)
        self.file_problems: list[tuple[ShardFile, str]] = []
        self.starts = [0]
        self._is_broken: set[int] = set()
        for index, file in enumerate(self.files):
            num_rows = 0
            try:
                with pq.ParquetFile(file.path) as parquet:
                    num_rows = parquet.metadata.num_rows
                    self._check_columns(parquet.schema_arrow, file)
            except (pa.ArrowException, OSError) as error:
                self._problem(index, f"cannot be read as Parquet ({_words(error)})")
            except ValueError as error:
                self._problem(index, str(error))
            self.starts.append(self.starts[-1] + num_rows)

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
        """(number, row, what could not be read of it); a cell that could not be read is missing in the row."""
        for index, file in enumerate(self.files):
            if index in self._is_broken:
                continue
            number = self.starts[index]
            try:
                with pq.ParquetFile(file.path) as parquet:
                    known = [name for name in _LOOSE.names if name in parquet.schema_arrow.names]
                    for batch in parquet.iter_batches(batch_size=_BATCH, columns=known):
                        table = conform(pa.Table.from_batches([batch]), _LOOSE, file.name)
                        for row, problems in rows_of_table(table):
                            yield number, row, problems
                            number += 1
            except (pa.ArrowException, OSError, ValueError) as error:
                left = self.starts[index + 1] - number
                self._problem(index, f"its last {left:,} rows cannot be read ({_words(error)})")

    def locate(self, number: int) -> tuple[ShardFile, int]:
        """The file of a row, and its number there."""
        index = bisect.bisect_right(self.starts, number) - 1
        return self.files[index], number - self.starts[index]

    def fetch(
        self, numbers: Sequence[int], columns: Sequence[str] | None = None
    ) -> dict[int, dict[str, Any]]:
        """Read single rows again; what cannot be read is left out."""
        wanted: dict[int, list[int]] = {}
        for number in sorted(set(numbers)):
            wanted.setdefault(bisect.bisect_right(self.starts, number) - 1, []).append(number)
        found: dict[int, dict[str, Any]] = {}
        for index, in_file in wanted.items():
            try:
                found.update(self._fetch_from(index, in_file, columns))
            except (pa.ArrowException, OSError, ValueError):
                continue  # the file's problem is known from the pass
        return found

    def _fetch_from(
        self, index: int, numbers: list[int], columns: Sequence[str] | None
    ) -> dict[int, dict[str, Any]]:
        found = {}
        waiting = list(numbers)
        with pq.ParquetFile(self.files[index].path) as parquet:
            present = [name for name in columns or _LOOSE.names if name in parquet.schema_arrow.names]
            first = self.starts[index]
            for group in range(parquet.metadata.num_row_groups):
                end = first + parquet.metadata.row_group(group).num_rows
                if not waiting or waiting[0] >= end:
                    first = end
                    continue
                for batch in parquet.iter_batches(batch_size=_BATCH, row_groups=[group], columns=present):
                    table = pa.Table.from_batches([batch])
                    while waiting and waiting[0] < first + table.num_rows:
                        number = waiting.pop(0)
                        found[number] = rows_of_table(table.slice(number - first, 1))[0][0]
                    first += table.num_rows
        return found

    def _check_columns(self, schema: pa.Schema, file: ShardFile) -> None:
        for column in SAMPLE_SCHEMA:
            if not column.nullable and column.name not in schema.names:
                raise ValueError(
                    f"column {column.name!r} is missing; a shard has the columns {', '.join(SAMPLE_SCHEMA.names)}"
                )
        conform(schema.empty_table(), _LOOSE, file.name)

    def _problem(self, index: int, reason: str) -> None:
        self._is_broken.add(index)
        self.file_problems.append((self.files[index], reason))


def media_of_row(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(kind, medium) of everything in a row, whatever its form; nulls are left out."""
    found = []
    for kind, column in MEDIA_LISTS.items():
        media = [row.get(kind), *(row.get(column) or [])]
        found += [(kind, medium) for medium in media if medium is not None]
    return found


def text_of_row(row: Mapping[str, Any]) -> str:
    """All words of a row, one part a line."""
    words = [row.get("text")]
    for message in row.get("messages") or []:
        words += [part.get("text") for part in (message or {}).get("content") or [] if part]
    return "\n".join(word for word in words if isinstance(word, str) and word)


def fitting_templates(row: Mapping[str, Any], asked: Mapping[str, float]) -> dict[str, float]:
    """Template -> weight for a row: those asked for, or one that its form suggests; none when it has no words."""
    if asked:
        return dict(asked)
    if row.get("messages"):
        return {"chat": 1.0}
    has_media = any(row.get(kind) for kind in MEDIA_LISTS)
    if row.get("text"):
        if row.get("video"):
            return {"watch": 1.0}
        return {"pair": 1.0} if has_media else {"text": 1.0}
    return {"translate": 1.0} if has_media and row.get("names") else {}


def documents_of_row(
    row: Mapping[str, Any],
    template: str,
    config: RunConfig,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    decoded: Mapping[int, np.ndarray] | None = None,
) -> list[Document]:
    """A row as the documents of a template, without augmentation or dropout.

    Args:
        template: a name, of the run's own or built in.
        decoded: plain arrays of pictures and sounds that are there already, by `id` of the medium.

    Raises:
        ValueError: the row breaks the schema, or has not what the template needs.
        OverBudgetError: a sound is longer than the model takes.
        MediaError: a medium does not decode.
    """
    check_row(row)
    model, max_frames, known = config.model, config.data.max_frames, decoded or {}

    def decode(ordinal: int, kind: str, medium: Mapping[str, Any]) -> Arrays:
        if id(medium) in known:
            return _arrays(kind, known[id(medium)], model)
        return sample.decode_medium(kind, medium, row["id"], model, max_frames=max_frames)

    filled = sample.sample_of_row(row, model, max_frames=max_frames, decode=decode)
    return build_documents(filled, find_template(template, config.data.templates), tokenizer, rng)


def _arrays(kind: str, plain: np.ndarray, model: ModelConfig) -> Arrays:
    """What `sample.decode_medium` makes of a plain array."""
    modality = model.modalities[kind]
    if kind == "audio" and plain.size > modality.max_size[0] * HOP_LENGTH:
        longest_s = modality.max_size[0] * HOP_LENGTH / SAMPLE_RATE
        raise OverBudgetError(
            f"the sound lasts {plain.size / SAMPLE_RATE:.2f} s, the model takes {longest_s:.2f} s"
        )
    return Arrays([get_modality(kind).to_array(plain, modality)])


def decode_medium(kind: str, medium: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """The plain array of a medium (pixels, waveform, frames), and the times of a video's frames.

    Raises:
        MediaError: there are no bytes, or they do not decode.
    """
    data, name = medium.get("bytes"), str(medium.get("path") or kind)
    if not data:
        raise MediaError(
            name, "is empty (0 bytes)", f"expected the encoded {kind}", "write or send the file again"
        )
    if kind == "video":
        from sensorium.media.video import decode_video

        return decode_video(data, name=name)
    return get_modality(kind).decode(data, name), None


def _words(error: Exception) -> str:
    """An error in a few words of one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else words[:197] + "..."
