"""Records of tables one after another: CSV, TSV, JSON lines, JSON arrays. A broken record is one bad record."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.data.importers.base import Draft, Options, failed, stem_of, suffix_of

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
MAX_RECORD_BYTES = 64 * 2**20
_CHUNK = 2**16
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_JSON_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One record of a table, or what is wrong with it.

    Args:
        number: in its file, from 0.
        values: by column; a function gives the value of a column that holds media.
        at: how much of the file lies before it, from 0 to 1.
        error: why it cannot be read; "" where it can.
    """

    number: int
    values: dict[str, Any]
    at: float
    error: str = ""


def drafts_of(
    records: Iterator[Record], name: str, span: tuple[float, float], make: Callable[[Record, str], Draft]
) -> Iterator[Draft]:
    """Drafts of the records of one file, with ids by construction unique.

    Args:
        name: the file's name relative to the input.
        span: the part of the input, from 0 to 1, that this file is.
        make: a draft of a sound record and its id.
    """
    start, end = span
    for record in records:
        sample_id = f"{stem_of(name)}-{record.number:08d}"
        at = start + (end - start) * record.at
        if record.error:
            yield failed(sample_id, record.error, at=at)
            continue
        draft = make(record, sample_id)
        yield Draft(draft.id, draft.load, draft.split, draft.group, at)


def text_records(path: Path, options: Options) -> Iterator[Record]:
    """The records of a text file, by its suffix."""
    suffix = suffix_of(path.name)
    encoding = options.encoding or encoding_of(path)
    if suffix in (".csv", ".tsv"):
        return _csv_records(path, encoding)
    if encoding not in ("utf-8", "utf-8-sig"):
        return _json_records(path, encoding)
    return _json_records(path, encoding) if suffix == ".json" and not _has_lines(path) else _lines(path)


def encoding_of(path: Path) -> str:
    """The encoding that the file's mark names, UTF-8 without one.

    Raises:
        ValueError: it has no mark and is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        head = file.read(4)
        for mark, encoding in _BOMS:
            if head.startswith(mark):
                return encoding
        if suffix_of(path.name) not in (".csv", ".tsv"):
            return "utf-8"  # judged record by record
        file.seek(0)
        while block := file.read(_CHUNK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                at = file.tell() - len(block) + error.start
                raise ValueError(
                    f"{path}: byte {block[min(error.start, len(block) - 1)]:#04x} near {at:,} is not UTF-8; say how "
                    "the table was saved: --encoding cp1252 (Windows, western Europe), or another name"
                ) from None
    return "utf-8"


def _csv_records(path: Path, encoding: str) -> Iterator[Record]:
    size = max(1, path.stat().st_size)
    with open(path, "rb") as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
        first = text.readline()
        text.seek(0)
        delimiter = "\t" if suffix_of(path.name) == ".tsv" else max(",;\t|", key=first.count)
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
        except csv.Error as error:
            raise ValueError(
                f"{path}: the first line cannot be read ({error}); save the table again"
            ) from None
        number = 0
        while True:
            at = raw.tell() / size
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                reason = f"line {rows.line_num}: {error}; look for a quotation mark that is never closed"
                yield Record(number, {}, at, reason)
            else:
                if not row:
                    continue
                if len(row) == len(header):
                    yield Record(number, dict(zip(header, row, strict=True)), at)
                else:
                    reason = f"line {rows.line_num}: {len(row)} fields, the header has {len(header)}"
                    yield Record(number, {}, at, f"{reason}; quote fields that hold a {delimiter!r}")
            number += 1


def _has_lines(path: Path) -> bool:
    """Whether a .json file holds an object a line; some tools name JSON lines so."""
    with open(path, "rb") as file:
        line = file.readline(_CHUNK).removeprefix(codecs.BOM_UTF8).strip()
        try:
            return isinstance(json.loads(line), dict) and bool(file.readline(_CHUNK).strip())
        except (ValueError, RecursionError):
            return False


def _lines(path: Path) -> Iterator[Record]:
    size = max(1, path.stat().st_size)
    with open(path, "rb") as file:
        number = line_number = 0
        while True:
            at = file.tell() / size
            line = file.readline(MAX_RECORD_BYTES)
            if not line:
                return
            line_number += 1
            if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
                    pass
                yield Record(number, {}, at, f"line {line_number}: longer than {MAX_RECORD_BYTES:,} bytes")
            elif line.strip():
                yield _parsed(line.removeprefix(codecs.BOM_UTF8), number, at, f"line {line_number}")
            else:
                continue
            number += 1


def _parsed(text: str | bytes, number: int, at: float, where: str) -> Record:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Record(number, {}, at, f"{where}: is not JSON ({error}); write it again")
    if not isinstance(value, dict):
        found = f"{where}: holds a {type(value).__name__}"
        return Record(number, {}, at, f"{found}; expected an object with columns, {{...}}")
    return Record(number, value, at)


def _json_records(path: Path, encoding: str) -> Iterator[Record]:
    """Objects of a JSON array, or objects one after another, without ever holding the whole file."""
    size = max(1, path.stat().st_size)
    # Undecodable bytes become surrogates: only the record that holds them fails, when it is written.
    with (
        open(path, "rb") as raw,
        io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline="") as text,
    ):
        buffer, number, is_open = "", 0, True
        decoder = json.JSONDecoder()
        in_array: bool | None = None
        while True:
            buffer = buffer.lstrip(" \t\r\n,")
            if in_array is None and buffer:
                in_array = buffer[0] == "["
                buffer = buffer[1:] if in_array else buffer
                continue
            if len(buffer) < _CHUNK and is_open:
                block = text.read(_CHUNK)
                buffer, is_open = buffer + block, bool(block)
                continue
            if (not buffer and not in_array) or buffer.startswith("]"):
                return
            at = raw.tell() / size
            if not buffer:
                yield Record(
                    number, {}, at, "the array is not closed; the file may be cut off; fetch it again"
                )
                return
            where = f"record {number}"
            try:
                value, end = decoder.raw_decode(buffer)
                record = Record(number, value, at) if isinstance(value, dict) else None
                record = record or _parsed(buffer[:end], number, at, where)
            except (ValueError, RecursionError):
                while (end := _end_of_value(buffer)) == 0 and is_open and len(buffer) < MAX_RECORD_BYTES:
                    block = text.read(max(_CHUNK, len(buffer)))
                    buffer, is_open = buffer + block, bool(block)
                if end == 0:
                    lost = (
                        "the rest of the file cannot be read as JSON; it is cut off or a bracket is missing"
                    )
                    yield Record(number, {}, at, f"{where}: {lost}; write the file again")
                    return
                record = _parsed(buffer[:end], number, at, where)
            yield record
            buffer, number = buffer[end:], number + 1


def _end_of_value(text: str) -> int:
    """Where the bracket that opens a text is closed again, 0 where it is not."""
    depth = 0
    for token in _JSON_STRUCTURE.finditer(text):
        sign = token[0]
        if sign == '"':  # a string without an end
            return 0
        depth += (sign in "{[") - (sign in "}]")
        if depth == 0:
            return token.end()
    return 0
