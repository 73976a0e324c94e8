"""What stands beside a medium: words in a .txt, columns in a .json."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from sensorium.data.importers.base import metadata_of
from sensorium.data.importers.tables import GUESSES, structured

_TEXTS = ("concept", "language", "license", "attribution")


def columns_of(fields: Mapping[str, Any], text: str | None) -> dict[str, Any]:
    """Columns of a sample from its sidecar files.

    Args:
        fields: the object in the .json.
        text: the words in the .txt, which come before those in the .json.
    """
    row: dict[str, Any] = {"text": text.strip() or None if text is not None else None}
    used = set()
    for ours in ("text", *_TEXTS):
        for name in GUESSES[ours]:
            value = fields.get(name)
            if isinstance(value, str) and value.strip() and (ours != "text" or row["text"] is None):
                row[ours] = value.strip()
            if isinstance(value, str) and value.strip() == row.get(ours):
                used.add(name)
                break
    for ours in ("names", "segments"):
        if isinstance(fields.get(ours), dict if ours == "names" else list):
            row[ours] = structured(ours, fields[ours])
            used.add(ours)
    row["metadata"] = metadata_of(fields, used)
    return row


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: is not JSON ({error}); write it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name}: holds a {type(value).__name__}; expected an object with columns, {{...}}")
    return value


def parse_text(data: bytes, name: str) -> str:
    """The words in a text file.

    Raises:
        ValueError: it is not UTF-8, or no text.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        odd = next(
            (c for c in text if unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\r\f"), ""
        )
        if odd:
            raise ValueError(
                f"{name}: is not text (it holds the character U+{ord(odd):04X}); save it as UTF-8"
            )
        return text.replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
