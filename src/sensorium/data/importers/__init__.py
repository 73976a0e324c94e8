"""Bringing data in: readers of foreign formats, and the one driver that makes shards of what they find.

A reader is a generator of drafts in an order that depends on the input alone. The driver gives each its split,
loads it, writes it, or notes why it cannot be used; what an interrupted import has finished is not loaded again.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sensorium.data.importers.archives import read_img2dataset, read_webdataset
from sensorium.data.importers.base import Draft, Options, clean, stem_of, walk
from sensorium.data.importers.conversations import read_llama_factory, read_llava, read_swift, read_trl
from sensorium.data.importers.detect import detect
from sensorium.data.importers.folder import lonely_sidecars, read_folder, unread_tables
from sensorium.data.importers.medical import read_medical
from sensorium.data.importers.tables import read_datasets, read_table
from sensorium.data.splits import SPLITS, split_of
from sensorium.data.writer import REJECTED_NAME, SHARD_BYTES, ShardWriter

# format: (its reader, what it is in one line)
FORMATS: dict[str, tuple[Callable[[Path, Options], Iterator[Draft]], str]] = {
    "folder": (read_folder, "media files, with words in .txt or .json beside them"),
    "table": (read_table, "CSV, TSV or JSON lines with paths"),
    "webdataset": (read_webdataset, "tar files of WebDataset"),
    "img2dataset": (read_img2dataset, "what img2dataset wrote: webdataset, files or parquet"),
    "llava": (read_llava, "LLaVA conversations"),
    "llama-factory": (read_llama_factory, "LLaMA-Factory sharegpt and alpaca, with dataset_info.json"),
    "swift": (read_swift, "ms-swift messages, or query and response"),
    "trl": (read_trl, "TRL messages, or prompt and completion"),
    "datasets": (read_datasets, "Parquet or save_to_disk folders of the datasets library"),
    "medical": (read_medical, "DICOM and NIfTI, identifiers removed"),
}
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Progress:
    """How far an import is: the share of the input that was read, and rows so far."""

    at: float
    num_rows: int
    num_rejected: int


@dataclass(frozen=True)
class Summary:
    """What an import did.

    Args:
        format: of the input.
        num_left_out: samples that hold nothing, and that nobody is to blame for.
        examples: a few of the rejected samples, each as "id: reason".
        counts: rows by split.
        notices: sentences for the user.
    """

    format: str
    num_rows: int
    num_rejected: int
    num_left_out: int
    counts: dict[str, int]
    examples: list[str]
    notices: list[str]

    @property
    def bad_rate(self) -> float:
        """Share of the samples that were rejected."""
        return self.num_rejected / max(1, self.num_rows + self.num_rejected)


def choose_format(path: Path, name: str, options: Options) -> tuple[str, str, Path]:
    """Return the format, what it was told by, and the path to read.

    Raises:
        FileNotFoundError: there is no such input.
        ValueError: the format is unknown.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder to import; check the path")
    if name == "auto":
        return detect(path, options)
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown format {name!r}; the nearest is {near!r}; all are {', '.join(FORMATS)}")
    return name, "", path


def import_data(
    path: Path,
    out: Path,
    *,
    format: str,
    options: Options,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Make shards of foreign data.

    Args:
        path: of the input.
        out: folder for the shards. One that an interrupted import of the same left behind is continued.
        format: a key of `FORMATS`; see `choose_format`.
        options: what the user says about the data.
        shard_bytes: size of a file.
        on_progress: called after every sample.

    Raises:
        FileExistsError: the folder holds finished shards already.
        ValueError: nothing can be read, an option is wrong, or the folder holds the beginning of another import.
    """
    _check(path, out, format, options)
    # A folder of medical files may be called as the patient is.
    name = path.resolve().name if path.is_dir() else stem_of(path.name)
    source = options.source or ("medical" if format == "medical" else clean(name)) or "import"
    fixed = {"source": source, "license": options.license, "attribution": options.attribution}
    if options.language:
        fixed["language"] = options.language
    drafts = iter(FORMATS[format][0](path, options))
    # Before the folder is made: input without any sample is a mistake and not an empty data set.
    first = next(drafts, None)
    if first is None:
        raise ValueError(f"{path}: no sample of format {format!r} was found; check the path and --format")
    asked = {"input": str(path.resolve()), "files": _fingerprint(path), "format": format, **asdict(options)}
    num_left_out, unstated = 0, set[str]()
    with ShardWriter(out, asked=asked, shard_bytes=shard_bytes) as writer:
        for ordinal, draft in enumerate(itertools.chain([first], drafts)):
            sample_id = clean(draft.id)
            split = options.split if options.split != "auto" else draft.split
            if split not in SPLITS:
                split = split_of(clean(draft.group) if draft.group.strip() else sample_id)
            if not writer.is_done(split, ordinal):
                row = _load(draft, sample_id, split, ordinal, writer)
                num_left_out += row is None
                if row:
                    unstated |= {k for k in ("license", "attribution") if row.get(k, fixed[k]) == "unknown"}
                    _write({**fixed, **row, "id": sample_id, "split": split}, ordinal, writer)
            on_progress(Progress(draft.at, writer.num_rows, writer.num_rejected))
        num_rows = writer.num_rows
    counts = {
        str(split): sum(s["num_rows"] for s in writer.shards if s["split"] == split) for split in SPLITS
    }
    return Summary(
        format,
        num_rows,
        writer.num_rejected,
        num_left_out,
        counts,
        _examples(out),
        _notices(path, format, unstated, num_left_out),
    )


def _load(
    draft: Draft, sample_id: str, split: str, ordinal: int, writer: ShardWriter
) -> dict[str, Any] | None:
    """The columns of a sample, {} if it was rejected, None if it holds nothing."""
    try:
        row = draft.load()
    except Exception as error:  # whatever a foreign file makes a decoder raise, it is one bad sample
        writer.reject(split, ordinal, sample_id, _reason(error))
        return {}
    return row and {column: value for column, value in row.items() if value is not None}


def _write(row: dict[str, Any], ordinal: int, writer: ShardWriter) -> None:
    try:
        writer.write(row, ordinal)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # not OSError: a full disk is no bad sample
        writer.reject(row["split"], ordinal, row["id"], _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "holds bytes that are not text; save it as UTF-8"
    if isinstance(error, OSError) and error.strerror:  # its words hold the whole path of this machine
        return f"cannot be read: {error.strerror}"
    text = " ".join(clean(str(error)).split())
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def _check(path: Path, out: Path, format: str, options: Options) -> None:
    if options.columns and format not in ("table", "datasets"):
        raise ValueError(f"--columns is for tables, not for {format}; leave it out, or set --format table")
    if options.concept_folders and format != "folder":
        raise ValueError(f"--concept-folders is for folders of media, not for {format}; leave it out")
    if options.split not in ("auto", *SPLITS):
        raise ValueError(f"split {options.split!r} is not known; choose auto, {', '.join(SPLITS)}")
    if options.media_root and not Path(options.media_root).is_dir():
        raise FileNotFoundError(f"{options.media_root}: no such folder of media; check --media-root")
    for name in ("license", "attribution"):
        if not getattr(options, name).strip():
            raise ValueError(f"--{name} is empty; state it, or leave the option out")
    if options.encoding:
        try:
            "".encode(options.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {options.encoding!r} is not known; try utf-8, cp1252 or utf-16"
            ) from None
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{out} lies in the folder that is imported; choose another for --out")


def _fingerprint(path: Path) -> str:
    """Of the names and sizes that the order of the samples depends on; no content is read."""
    digest = sha256()
    if path.is_file():
        digest.update(str(path.stat().st_size).encode())
    else:
        for folder, names in walk(path):
            digest.update("\0".join((folder, *names, "")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _examples(out: Path) -> list[str]:
    rejected = out / REJECTED_NAME
    if not rejected.is_file():
        return []
    with open(rejected, encoding="utf-8") as file:
        lines = [json.loads(line) for line in itertools.islice(file, NUM_EXAMPLES)]
    return [f"{line['id']}: {line['reason']}" for line in lines]


def _notices(path: Path, format: str, unstated: set[str], num_left_out: int) -> list[str]:
    notices = [f"{name} is noted as unknown; say it with --{name}" for name in sorted(unstated)]
    if format == "folder" and (lonely := lonely_sidecars(path)):
        notices.append(f"{len(lonely)} .txt or .json files have no medium of their name, {lonely[0]} for one")
    if format == "folder" and (tables := unread_tables(path)):
        notices.append(
            f"{len(tables)} tables were not read, {tables[0]} for one; to take what a table says of its media, "
            f"import the table: sensorium data import {path / tables[0]}"
        )
    if num_left_out:
        notices.append(f"{num_left_out} slices or files without a picture were left out")
    return [clean(notice) for notice in notices]
