"""Tar files of WebDataset, read member by member as a stream, and the three outputs of img2dataset."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sensorium.data.importers.base import (
    JUNK,
    Draft,
    Options,
    failed,
    find_files,
    metadata_of,
    split_in_path,
    stem_of,
)
from sensorium.data.importers.columnar import columnar_records, schema_of
from sensorium.data.importers.folder import read_folder
from sensorium.data.importers.media import KIND_OF_SUFFIX, MAX_BYTES, Files
from sensorium.data.importers.ours import is_ours, restored
from sensorium.data.importers.records import Record, drafts_of
from sensorium.data.importers.sidecar import columns_of, parse_json, parse_text
from sensorium.data.schema import MEDIA_LISTS

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_WORDS = ("txt", "caption", "text", "transcript")
_LISTED = re.compile(rf"({'|'.join(MEDIA_LISTS.values())})\.(\d+)\.")
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class _Member:
    """A file in a tar: where it lies in a plain tar, its bytes from a compressed one."""

    offset: int
    size: int
    data: bytes | None = None

    def read(self, path: Path) -> bytes:
        if self.data is not None:
            return self.data
        with open(path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class _Group:
    """Members of a tar that share a key: the files of one sample, by ending."""

    key: str
    members: dict[str, _Member] = field(default_factory=dict)
    reason: str = ""


def read_webdataset(path: Path, options: Options) -> Iterator[Draft]:
    """Samples of one tar, or of all tars of a folder."""
    files = find_files(path, TAR_SUFFIXES)
    for number, (file, name) in enumerate(files):
        span = (number / len(files), (number + 1) / len(files))
        yield from _tar_drafts(file, name, span)


def read_img2dataset(path: Path, options: Options) -> Iterator[Draft]:
    """Samples of the output formats webdataset, files and parquet; failed downloads are rejected samples."""
    # A tar whose table is missing is one that img2dataset was interrupted in.
    found = {
        stem_of(name): file.parent / stem_of(file.name)
        for file, name in find_files(path, (".parquet", ".tar"))
    }
    for number, (stem, base) in enumerate(sorted(found.items())):
        file, name = base.with_name(f"{base.name}.parquet"), f"{stem}.parquet"
        span = (number / len(found), (number + 1) / len(found))
        middle = (span[0] + span[1]) / 2
        tar, folder = base.with_name(f"{base.name}.tar"), base
        if tar.is_file():
            yield from _tar_drafts(tar, f"{stem}.tar", (span[0], middle))
        elif folder.is_dir():
            for draft in read_folder(folder, options):
                at = span[0] + (middle - span[0]) * draft.at
                yield Draft(f"{stem}/{draft.id}", draft.load, split_in_path(name), "", at)
        else:
            yield from drafts_of(columnar_records(file), name, span, _jpg_draft)
            continue
        if file.is_file():
            yield from _failed_downloads(file, stem, middle)


def _jpg_draft(record: Record, sample_id: str) -> Draft:
    def load() -> dict[str, Any]:
        values = record.values
        column = next((c for c in ("jpg", "png", "webp") if callable(values.get(c))), None)
        if column is None:
            raise ValueError("the table holds no pictures, and no tar or folder of its name lies beside it")
        data = values[column]()
        if data is None or values.get("status") not in (None, "success"):
            raise ValueError(_download_error(values))
        name = f"{values.get('key') or sample_id}.{column}"
        text = values.get("txt", values.get("caption"))
        row = columns_of({}, text if isinstance(text, str) else None)
        row["metadata"] = metadata_of(values, {column, "txt", "caption", "status", "error_message"})
        row["image"] = Files(Path()).read("image", {"bytes": data, "path": name})
        return row

    return Draft(sample_id, load)


def _failed_downloads(file: Path, stem: str, at: float) -> Iterator[Draft]:
    """Rows of the table beside a tar or a folder whose picture was never there."""
    try:
        names = schema_of(file).names
    except ValueError as error:
        yield failed(f"{stem}.parquet", str(error), at=at)
        return
    if "status" in names:
        for record in columnar_records(file):
            if record.error or record.values.get("status") != "success":
                key = record.values.get("key") or f"{record.number:08d}"
                yield failed(f"{stem}/{key}", record.error or _download_error(record.values), at=at)


def _download_error(values: Mapping[str, Any]) -> str:
    status = values.get("status") or "no picture"
    message = f": {values['error_message']}" if values.get("error_message") else ""
    return f"img2dataset could not get {values.get('url') or 'the picture'} ({status}{message})"


def _tar_drafts(path: Path, name: str, span: tuple[float, float]) -> Iterator[Draft]:
    size = max(1, path.stat().st_size)
    with open(path, "rb") as raw:
        for group in _groups(raw, size, name):
            at = span[0] + (span[1] - span[0]) * min(1.0, raw.tell() / size)
            yield _draft(group, path, name, at)


def _groups(raw: BinaryIO, size: int, name: str) -> Iterator[_Group]:
    """Members with neighbouring equal keys. Members of plain tars stay where they are until they are wanted."""
    group: _Group | None = None
    try:
        # "r:*" on a plain file seeks over the media; a compressed tar can only be read through.
        with tarfile.open(fileobj=raw, mode="r:*") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps every header otherwise
                key, dot, ending = _split_name(member.name)
                if not member.isfile() or not dot or key.rpartition("/")[2].startswith(JUNK):
                    continue
                if group is None or key != group.key:
                    if group is not None:
                        yield group
                    group = _Group(key)
                if ending in group.members:
                    group.reason = f"two files end in .{ending}"
                elif member.size > max(MAX_BYTES.values()):
                    group.reason = f".{ending} holds {member.size:,} bytes, more than any medium may"
                elif tar.fileobj is raw and not member.issparse():
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    group.members[ending] = _Member(member.offset_data, member.size)
                else:
                    file = tar.extractfile(member)
                    assert file is not None
                    group.members[ending] = _Member(0, member.size, file.read())
    except _DAMAGE as error:
        reason = f"{name} is damaged or cut off here ({error}); fetch it again"
        yield _Group(group.key if group else name, reason=reason)
        return
    if group is not None:
        yield group


def _split_name(name: str) -> tuple[str, str, str]:
    """Key and ending as WebDataset has them: the ending begins at the first dot of the file name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    return f"{folder}{slash}{stem}", dot, ending.lower()


def _draft(group: _Group, path: Path, name: str, at: float) -> Draft:
    stem = stem_of(name)
    sample_id, split = f"{stem}/{group.key}", split_in_path(name)
    if group.reason:
        return failed(sample_id, group.reason, split=split, at=at)
    members = dict(group.members)
    try:
        json_member = members.pop("json", None)
        fields = parse_json(json_member.read(path), f"{group.key}.json") if json_member else {}
    except ValueError as error:
        return failed(sample_id, str(error), split=split, at=at)
    if is_ours(fields):
        draft = restored({**fields, **_our_media(members, fields, path)}, Files(path.parent))
        return Draft(draft.id, draft.load, draft.split, draft.group, at)
    concept = fields.get("concept")
    return Draft(
        sample_id,
        lambda: _load(group.key, members, fields, path),
        split,
        concept if isinstance(concept, str) else "",
        at,
    )


def _load(key: str, members: dict[str, _Member], fields: dict[str, Any], path: Path) -> dict[str, Any] | None:
    words = next((ending for ending in _WORDS if ending in members), None)
    text = parse_text(members[words].read(path), f"{key}.{words}") if words else None
    row = columns_of(fields, text)
    if "cls" in members:
        number = members["cls"].read(path).decode("utf-8", "replace").strip()
        row["metadata"] = {**(row["metadata"] or {}), "cls": number}
    endings: dict[str, str] = {}
    for ending in members:
        kind = _kind(ending)
        if kind is not None and kind in endings:
            raise ValueError(
                f"{key} has both .{endings[kind]} and .{ending}; a sample of a tar has one {kind} at most"
            )
        if kind is not None:
            endings[kind] = ending
    for kind, ending in endings.items():
        name = f"{key.rpartition('/')[2]}.{ending}"
        row[kind] = Files(path.parent).read(kind, {"bytes": members[ending].read(path), "path": name})
    if not endings and row.get("text") is None:
        raise ValueError(f"{key} holds neither a medium nor text ({', '.join(members) or 'a .json alone'})")
    return row


def _kind(ending: str) -> str | None:
    """The kind of medium of an ending; "video.gif" says it itself."""
    first, _, rest = ending.partition(".")
    return first if rest and first in MEDIA_LISTS else KIND_OF_SUFFIX.get(f".{ending.rpartition('.')[2]}")


def _our_media(members: dict[str, _Member], fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """Media of an exported sample; those of messages are named `images.0.png`, `images.1.png`."""
    stated = fields.get("paths")
    paths = stated if isinstance(stated, dict) else {}
    found: dict[str, Any] = {}
    listed: dict[str, dict[int, _Member]] = {}
    for ending, member in members.items():
        numbered = _LISTED.match(f"{ending}.")
        if numbered:
            listed.setdefault(numbered[1], {})[int(numbered[2])] = member
        elif (kind := _kind(ending)) is not None:
            name = paths.get(kind) or f"{kind}.{ending}"
            found[kind] = lambda m=member, n=name: {"bytes": m.read(path), "path": n}
    for column, media in listed.items():
        ordered = [media[index] for index in sorted(media)]
        names = paths.get(column) or [None] * len(ordered)
        found[column] = lambda ms=ordered, ns=names: [
            {"bytes": m.read(path), "path": n} for m, n in zip(ms, ns, strict=True)
        ]
    return found
