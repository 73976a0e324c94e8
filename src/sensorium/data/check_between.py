"""What rows have in common: repeated ids, duplicates, and splits that leak into each other."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sensorium.data.findings import MAX_LISTED, CheckResult, Finding
from sensorium.data.fingerprints import bits_between, digest64, first_in_split, leaks, near_pairs, repeats
from sensorium.data.scan import Rows
from sensorium.data.splits import SPLITS

_NOTHING = digest64(b"")  # of a medium without bytes


class Seen:
    """Hashes of all rows and media, as flat arrays: about 70 bytes for a row with one medium."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        # One entry for each row, 0 where there is nothing.
        self.numbers, self.splits = array("Q"), array("B")
        self.ids, self.contents, self.texts, self.concepts = (array("Q") for _ in range(4))
        # One entry for each medium; `owners` counts rows as they were seen.
        self.media, self.nears, self.colours, self.owners = (array("Q") for _ in range(4))

    def remember(
        self,
        number: int,
        row: Mapping[str, Any],
        text: str,
        media: Sequence[int],
        looks: Sequence[tuple[int, int]],
    ) -> None:
        """Keep the hashes of a row."""
        self.media.extend(media)
        self.nears.extend(near for near, _ in looks)
        self.colours.extend(colour for _, colour in looks)
        self.owners.extend([len(self.numbers)] * len(media))
        split = row.get("split")
        self.numbers.append(number)
        self.splits.append(SPLITS.index(split) if split in SPLITS else len(SPLITS))
        # Rows whose media are missing are not the same: nobody knows what they would hold.
        is_whole = _NOTHING not in media
        content = (text.encode() + b"".join(value.to_bytes(8, "big") for value in media)) if is_whole else b""
        self.ids.append(_digest(row.get("id") or ""))
        self.contents.append(digest64(content) if content else 0)
        self.texts.append(_digest(text.strip().lower()))
        self.concepts.append(_digest((row.get("concept") or "").strip().lower()))

    def compare(self, result: CheckResult, near_distance: int) -> None:
        """Add what rows have in common to a result; pictures are compared by looks unless the distance is -1."""
        if not self.numbers:
            return
        numbers, splits = np.asarray(self.numbers, np.int64), np.asarray(self.splits)
        later, first = repeats(np.asarray(self.ids))
        self._add(result, "id_twice", "the same id as {other_place}", numbers[later], numbers[first])
        later, first = repeats(np.asarray(self.contents))
        self._add(result, "duplicate", "the same media and text as {other}", numbers[later], numbers[first])
        for kind, reason, values in (
            ("leak_text", "{split}: the same text as {other} in {other_split}", self.texts),
            ("leak_concept", "{split}: the same concept as {other} in {other_split}", self.concepts),
        ):
            known = np.flatnonzero((np.asarray(values) != 0) & (splits < len(SPLITS)))
            found, first = leaks(first_in_split(np.asarray(values)[known], splits[known]), splits[known])
            if kind == "leak_concept":  # one finding for each concept
                _, once = np.unique(np.asarray(values)[known][found], return_index=True)
                found, first = found[np.sort(once)], first[np.sort(once)]
            self._add(result, kind, reason, numbers[known[found]], numbers[known[first]])
        if self.media:
            self._compare_media(result, near_distance)

    def _compare_media(self, result: CheckResult, near_distance: int) -> None:
        owners = np.asarray(self.owners, np.int64)
        media, nears = np.asarray(self.media), np.asarray(self.nears)
        splits, numbers = np.asarray(self.splits)[owners], np.asarray(self.numbers, np.int64)[owners]
        known = np.flatnonzero((media != _NOTHING) & (splits < len(SPLITS)))
        found, first = leaks(first_in_split(media[known], splits[known]), splits[known])
        reason = "{split}: the same medium as {other} in {other_split}"
        self._add(result, "leak_medium", reason, numbers[known[found]], numbers[known[first]])
        self._compare_paths(result, media[known], numbers[known])
        if near_distance < 0:
            return
        # The first of each medium in each split: the same bytes again are no near duplicate.
        looks = np.flatnonzero((nears != 0) & (splits < len(SPLITS)))
        _, once = np.unique(np.stack([media[looks], splits[looks]]), axis=1, return_index=True)
        looks = looks[np.sort(once)]
        near_splits, colours = splits[looks], np.asarray(self.colours)[looks]
        both = np.stack([nears[looks], colours], axis=1)
        values = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
        pairs = near_pairs(nears[looks], colours, near_distance)
        first_near = first_in_split(values, near_splits, pairs)
        found, first = leaks(first_near, near_splits)
        reason = "{split}: looks like {other} in {other_split}, {bits} of 64 bits differ"
        self._add_near(result, "leak_near", reason, looks[found], looks[first])
        own = first_near[np.arange(len(looks)), near_splits]
        later = np.flatnonzero(own < np.arange(len(looks)))
        reason = "looks like {other}, {bits} of 64 bits differ"
        self._add_near(result, "near", reason, looks[later], looks[own[later]])

    def _compare_paths(self, result: CheckResult, media: np.ndarray, numbers: np.ndarray) -> None:
        groups = [file.group for file in self.rows.files]
        if len(set(groups)) < 2:
            return
        names = sorted(set(groups))
        of_file = np.array([names.index(group) for group in groups])
        group = of_file[np.searchsorted(self.rows.starts, numbers, side="right") - 1]
        later, first = repeats(media)
        across = group[later] != group[first]
        later, first = later[across], first[across]
        self._add(result, "overlap", "the same medium as {other_place}", numbers[later], numbers[first])

    def _add_near(
        self, result: CheckResult, kind: str, reason: str, found: np.ndarray, first: np.ndarray
    ) -> None:
        nears, media = np.asarray(self.nears), np.asarray(self.media)
        owners, numbers = np.asarray(self.owners, np.int64), np.asarray(self.numbers, np.int64)
        other = (owners[found] != owners[first]) & (media[found] != media[first])
        found, first = found[other], first[other]
        bits = bits_between(nears[found], nears[first])
        self._add(result, kind, reason, numbers[owners[found]], numbers[owners[first]], bits)

    def _add(
        self,
        result: CheckResult,
        kind: str,
        reason: str,
        found: np.ndarray,
        others: np.ndarray,
        bits: np.ndarray | None = None,
    ) -> None:
        """Count all; the ids of those that are listed are read again, as only hashes were kept."""
        if len(found) > MAX_LISTED:
            result.counts[kind] += len(found) - MAX_LISTED
        listed = list(zip(found[:MAX_LISTED].tolist(), others[:MAX_LISTED].tolist(), strict=True))
        rows = self.rows.fetch([number for pair in listed for number in pair], ("id", "split"))
        for index, (number, other) in enumerate(listed):
            file, in_file = self.rows.locate(number)
            other_file, other_in_file = self.rows.locate(other)
            row, other_row = rows.get(number, {}), rows.get(other, {})
            other_place = f"row {other_in_file} of {other_file.name}"
            words = {
                "split": row.get("split"),
                "other": repr(other_row["id"]) if other_row.get("id") else other_place,
                "other_split": other_row.get("split"),
                "other_place": f"{other_place} ({other_row.get('id')!r})",
                "bits": 0 if bits is None else int(bits[index]),
            }
            measure = 0.0 if bits is None else -float(bits[index])
            finding = Finding(
                kind, row.get("id") or "", file.name, in_file, reason.format(**words), number, other, measure
            )
            result.add(finding)


def _digest(text: str) -> int:
    return digest64(text.encode()) if isinstance(text, str) and text else 0
