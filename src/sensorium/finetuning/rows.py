"""Whatever a user has -> rows to learn from and rows held out."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sensorium.data.importers import FORMATS, Options, choose_format, import_data
from sensorium.data.importers.base import suffix_of, walk
from sensorium.data.importers.columnar import columnar_records
from sensorium.data.importers.folder import SIDECARS
from sensorium.data.importers.ours import is_ours
from sensorium.data.reader import Reader
from sensorium.data.scan import media_of_row, text_of_row
from sensorium.data.splits import SPLITS
from sensorium.data.writer import ShardWriter
from sensorium.train.evaluate import SPLIT as VALIDATION

IMPORTED, DIVIDED = "imported", "rows"
NUM_LOOKED_AT = 10_000  # samples that are asked whether they state a split


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Data to adapt a model to.

    Args:
        path: as in ``SourceConfig.path``.
        num_rows: of the split train, which are trained on; num_held_out: of the split validation, which never are.
        how: where the latter come from, in words. notices: sentences for the user.
    """

    path: str
    num_rows: int
    num_held_out: int
    how: str
    notices: tuple[str, ...] = ()


def open_rows(data: str, folder: Path, *, held_out: float, seed: int) -> Rows:
    """Find the rows in data of any form that ``sensorium data import`` knows; hold some out where none are.

    Args:
        data: a Parquet file or folder of shards, "starter:NAME", an address of an object store, or anything to import.
        folder: for the rows, where they must be imported or divided.
        held_out: share of what there is to learn from that is held out where no row has the split validation.
        seed: of what is held out.

    Raises:
        FileNotFoundError, ValueError: there is nothing to learn from, or nothing to hold out, and what to do.
    """
    path, notices = data, []
    if not data.startswith("starter:") and "://" not in data:
        path = str(Path(data).expanduser().resolve())
        if not _are_shards(Path(path)):
            notices = _import(Path(path), folder / IMPORTED)
            path = str(folder / IMPORTED)
    counts: dict[str, int] = {split: Reader(path, split).num_rows for split in SPLITS}
    if not counts["train"]:
        there = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count) or "none at all"
        raise ValueError(
            f"{data} has no row of the split train (rows: {there}), and others are never trained on; give the rows to "
            "learn from the split train"
        )
    if counts["test"]:
        notices.append(f"{counts['test']:,} rows of the split test are left alone")
    if counts[VALIDATION] and path != str(folder / IMPORTED):
        return Rows(
            path=path,
            num_rows=counts["train"],
            num_held_out=counts[VALIDATION],
            how="the data's split validation",
            notices=tuple(notices),
        )
    how = "the data's split validation"
    held: set[str] = set()
    if not counts[VALIDATION]:
        held = _choose(Reader(path, "train"), data, held_out, seed)
        how = f"{held_out:.0%} of the rows, drawn by seed {seed}"
    num = _copy(path, folder / DIVIDED, held)
    shutil.rmtree(folder / IMPORTED, ignore_errors=True)
    return Rows(
        path=str(folder / DIVIDED),
        num_rows=num["train"],
        num_held_out=num[VALIDATION],
        how=how,
        notices=tuple(notices),
    )


def _are_shards(path: Path) -> bool:
    """Whether rows can be read as they are."""
    if path.is_dir():
        found = sorted(path.rglob("*.parquet"))
    else:
        found = [path] if path.suffix == ".parquet" and path.is_file() else []
    record = next(columnar_records(found[0]), None) if found else None
    return record is not None and not record.error and is_ours(record.values)


def _import(path: Path, out: Path) -> list[str]:
    """Shards of foreign data; what states no split is all to learn from. Returns what a person should know."""
    format, _, path = choose_format(path, "auto", Options())
    # Folders of bare pictures say what is in them by their names; beside words they may be called anything.
    is_bare = format == "folder" and not any(
        suffix_of(name) in SIDECARS for _, names in walk(path) for name in names
    )
    options = Options(concept_folders=is_bare)
    drafts = islice(FORMATS[format][0](path, options), NUM_LOOKED_AT)
    states_splits = any(draft.split in SPLITS for draft in drafts)
    options = Options(concept_folders=is_bare, split="auto" if states_splits else "train")
    summary = import_data(path, out, format=format, options=options)
    if not summary.num_rows:
        raise ValueError(f"{path}: no sample can be used{'; '.join(['', *summary.examples[:1]])}")
    return [
        f"{summary.num_rejected:,} samples cannot be used, such as {line}" for line in summary.examples[:1]
    ]


def _choose(reader: Reader, data: str, share: float, seed: int) -> set[str]:
    """Contents to hold out.

    Rows with the same medium or words stay together. Of things that have several (pictures of one concept, say) one is
    left to learn from; only then those that stand alone are taken.
    """
    thing_of: dict[str, str] = {}
    for row in reader.rows():
        thing_of.setdefault(content_of(row), row.get("concept") or row.get("text") or row["id"])
    order = sorted(thing_of, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    wanted = min(len(order) - 1, max(1, round(share * len(order))))
    if wanted < 1:
        raise ValueError(
            f"{data} holds {len(order)} different sample: nothing is left to hold out, and without that nobody knows "
            f"when to stop; give more, or some rows of the split {VALIDATION}"
        )
    left = Counter(thing_of.values())
    held: list[str] = []
    for key in order:
        if left[thing_of[key]] > 1 and len(held) < wanted:
            held.append(key)
            left[thing_of[key]] -= 1
    held += [key for key in order if key not in held][: wanted - len(held)]
    return set(held)


def content_of(row: Mapping[str, Any]) -> str:
    """What makes two rows the same sample: their media, else their words."""
    media = [medium.get("bytes") or b"" for _, medium in media_of_row(row)]
    content = b"".join(media) or text_of_row(row).encode()
    return hashlib.sha256(content or row["id"].encode()).hexdigest()


def _copy(path: str, out: Path, held: set[str]) -> Counter[str]:
    """Copy rows, some of them with the split validation; a picture that only has a concept is named by it."""
    shutil.rmtree(out, ignore_errors=True)
    num: Counter[str] = Counter()
    with ShardWriter(out) as writer:
        ordinal = 0
        for split in ("train", VALIDATION):
            for row in Reader(path, split).rows():
                kept = dict(row)
                kept["split"] = VALIDATION if content_of(row) in held else split
                if not (row["text"] or row["messages"] or row["names"]) and media_of_row(row):
                    kept["text"] = row["concept"]
                try:
                    if problems := kept.pop("problems", None):
                        raise ValueError("; ".join(problems))
                    writer.write(kept, ordinal)
                    num[kept["split"]] += 1
                except ValueError as error:
                    writer.reject(kept["split"], ordinal, row["id"], str(error))
                ordinal += 1
    return num
