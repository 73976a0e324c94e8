"""Samples of ours that come back from an export: nothing is guessed, every column is as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sensorium.data.importers.base import Draft
from sensorium.data.importers.media import Files
from sensorium.data.schema import MEDIA_LISTS, SAMPLE_SCHEMA

_SIGNS = {"id", "split", "source", "license", "attribution"}


def is_ours(values: Mapping[str, Any]) -> bool:
    """Whether a record has the columns that every sample of ours, and hardly another, has."""
    return set(values) >= _SIGNS


def restored(values: Mapping[str, Any], media: Files) -> Draft:
    """The draft of an exported sample.

    Args:
        values: columns of `SAMPLE_SCHEMA`, those with media as functions or values; `names` and `metadata` as
            dictionaries, pairs, or JSON.
        media: reads media that are paths.
    """

    def load() -> dict[str, Any]:
        row: dict[str, Any] = {}
        for column in SAMPLE_SCHEMA.names:
            value = values.get(column)
            value = value() if callable(value) else value
            if value is None:
                continue
            if column in MEDIA_LISTS:
                value = media.read(column, value)
            elif column in MEDIA_LISTS.values():
                value = [media.read(column[:-1], item) for item in value] or None
            elif column in ("names", "metadata"):
                value = dict(json.loads(value) if isinstance(value, str) else value)
            row[column] = value
        return row

    return Draft(str(values["id"]), load, str(values["split"]), str(values.get("concept") or values["id"]))
