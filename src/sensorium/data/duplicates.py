"""Duplicates: the same bytes and words, pictures that look alike with texts that read alike, near vectors.

Pass one makes a signature of every sample, in workers. Then samples are visited in order, those of test first, then
validation, then training, and each is looked up among those kept before it: the first of its kind stays, and what
training shares with test leaves training. Lookups go through bands of hashes, or cells of vectors, so that time
grows with the number of samples and not with its square.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from sensorium.data.engines import Function, Results
from sensorium.data.fingerprints import COLOUR_DISTANCE, look_hasher
from sensorium.data.near_vectors import near_vectors
from sensorium.data.vectors import (
    Decoded,
    Embedder,
    ModelFactory,
    decode_medium,
    encode_rows,
    media_of,
    rows_of,
    text_of,
)
from sensorium.media.errors import MediaError
from sensorium.media.parts import Image

COMPARED = ("all", "media", "text")
# What is looked at first stays.
PREFERENCE = ("test", "validation", "train")
MAX_DISTANCE = 8
NUM_PERMUTATIONS = 128
_SHINGLE = 5  # letters; what is compared of texts are the sets of their pieces of this length
_COLOUR_SHIFTS = tuple(range(0, 60, 5))

SIGNATURE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("exact", pa.binary()),
        ("looks", pa.list_(pa.uint64())),
        ("colours", pa.list_(pa.uint64())),
        ("minhash", pa.binary()),
        # Digests of what is compared byte for byte: what has no look, and what has no vector.
        ("unseen_near", pa.binary()),
        ("unseen_vectors", pa.binary()),
        ("kinds", pa.list_(pa.string())),
        ("vectors", pa.list_(pa.list_(pa.float32()))),
    ]
)


@dataclass(frozen=True)
class Signatures:
    """The job of `sensorium data dedup`: what samples are compared by.

    Args:
        exact: by digests of media and words.
        near: by perceptual hashes and MinHash; sounds and videos by digest.
        model: by vectors, where one is given.
        compare: what of two samples must be alike: "all", "media" or "text".
        settings: the thresholds that decide later; they belong to what was asked for.
    """

    exact: bool
    near: bool
    model: ModelFactory | None = None
    compare: str = "all"
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Media are not read where only texts are compared."""
        return ("id", "split", "text", "messages") if self.compare == "text" else None

    def asked(self) -> dict[str, Any]:
        """What is compared, and how."""
        model = self.model.asked() if self.model else None
        kinds = {"exact": self.exact, "near": self.near, "compare": self.compare}
        return {"verb": "dedup", **kinds, **dict(self.settings), "model": model}

    def open(self) -> Function:
        """Load the model and the libraries of hashes.

        Raises:
            ValueError: a library is not installed.
        """
        embedder = self.model() if self.model else None
        near = near_hashers() if self.near else None
        return lambda table: self._signatures(rows_of(table), embedder, near)

    def _signatures(
        self, rows: list[dict[str, Any]], embedder: Embedder | None, near: Hashers | None
    ) -> pa.Table:
        compared = [_compared(row, self.compare) for row in rows]
        signatures = [
            _plain_signature(row, part, self.exact) for row, part in zip(rows, compared, strict=True)
        ]
        if near:
            for part, signature in zip(compared, signatures, strict=True):
                _add_near(part, signature, near)
        if embedder:
            for part, signature, encoded in zip(
                compared, signatures, encode_rows(compared, embedder), strict=True
            ):
                signature["reason"] = signature["reason"] or encoded.reason
                signature["kinds"] = encoded.kinds
                signature["vectors"] = [vector.astype(np.float32) for vector in encoded.vectors]
                seen = set(encoded.kinds)
                signature["unseen_vectors"] = _digest_of_media(
                    (k, m) for k, m in media_of(part) if k not in seen
                )
        return pa.Table.from_pylist(signatures, schema=SIGNATURE_SCHEMA)


Hashers = tuple[Callable[[np.ndarray], tuple[int, int]], Callable[[str], bytes]]


def near_hashers() -> Hashers:
    """Functions from pixels to a look, and from a text to its MinHash.

    Raises:
        ValueError: a library is not installed.
    """
    look = look_hasher()
    try:
        from datasketch import MinHash
    except ImportError:
        look = None
    if look is None:
        raise ValueError(
            "near duplicates need imagehash and datasketch; install them with pip install 'sensorium[curate]'"
        )

    def minhash(text: str) -> bytes:
        sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)
        sketch.update_batch([piece.encode() for piece in sorted(shingles(text))])
        return np.asarray(sketch.hashvalues).astype("<u4").tobytes()

    return look, minhash


def shingles(text: str) -> set[str]:
    """The pieces of five letters of a text, whatever its case and spaces; a shorter text is one piece."""
    plain = " ".join(text.lower().split())
    return {plain[start : start + _SHINGLE] for start in range(max(1, len(plain) - _SHINGLE + 1))}


def _compared(row: Mapping[str, Any], compare: str) -> dict[str, Any]:
    """The sample without what is not compared."""
    if compare == "text":
        return {"id": row["id"], "text": text_of(row)}
    part = {name: value for name, value in row.items() if name not in ("text", "messages")}
    return part | ({"text": text_of(row)} if compare == "all" else {})


def _digest_of_media(media: Iterable[tuple[str, Mapping[str, Any]]]) -> bytes:
    digest = sha256()
    for kind, medium in media:
        data = medium.get("bytes") or (medium.get("path") or "").encode()
        digest.update(f"{kind}:{len(data)}:".encode())
        digest.update(data)
    return digest.digest()[:16]


def _plain_signature(row: Mapping[str, Any], part: Mapping[str, Any], exact: bool) -> dict[str, Any]:
    signature = {"id": row["id"], "split": row["split"], "reason": None, "exact": None}
    media, text = media_of(part), part.get("text", "")
    if exact and (media or text):
        signature["exact"] = sha256(_digest_of_media(media) + text.encode()).digest()[:16]
    return signature


def _add_near(part: Mapping[str, Any], signature: dict[str, Any], hashers: Hashers) -> None:
    look, minhash = hashers
    try:
        pictures = [decode_medium(kind, value) for kind, value in media_of(part) if kind == "image"]
    except MediaError as error:
        signature["reason"] = f"media: {error}"
        return
    looks = [look(_pixels(picture)) for picture in pictures]
    signature["looks"], signature["colours"] = [hash for hash, _ in looks], [colour for _, colour in looks]
    signature["minhash"] = minhash(part["text"]) if part.get("text") else None
    others = [(kind, value) for kind, value in media_of(part) if kind != "image"]
    if looks or signature["minhash"] or others:
        signature["unseen_near"] = _digest_of_media(others)


def _pixels(picture: Decoded) -> np.ndarray:
    assert isinstance(picture.part, Image)
    return picture.part.pixels()


class NearIndex:
    """Samples that were kept, found again by what looks and reads alike.

    Pictures: two hashes that differ in at most d of 64 bits agree in two of d + 2 blocks at least, so each hash is
    filed under every pair of blocks. Texts: locality-sensitive hashing of MinHash signatures. Candidates are then
    compared themselves.

    Args:
        distance: bits of 64 in which pictures that look alike may differ.
        similarity: estimated Jaccard similarity of texts that read alike.
    """

    def __init__(self, distance: int, similarity: float) -> None:
        from datasketch import MinHashLSH

        self.distance, self.similarity = distance, similarity
        scheme = MinHashLSH(threshold=similarity, num_perm=NUM_PERMUTATIONS)
        self._bands, self._band_rows = scheme.b, scheme.r
        edges = [round(64 * number / (distance + 2)) for number in range(distance + 3)]
        masks = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in itertools.pairwise(edges)]
        self._masks = [a | b for a, b in itertools.combinations(masks, 2)]
        self._kept: list[Mapping[str, Any]] = []
        self._names: list[int] = []
        self._buckets: dict[Any, list[int]] = {}

    def find(self, signature: Mapping[str, Any]) -> int | None:
        """The name of a kept sample like this one, the first of them."""
        pools: list[set[int]] = [
            {index for key in keys for index in self._buckets.get(key, ())} for keys in self._keys(signature)
        ]
        # A picture with many questions, or a question about many pictures: the rarer of the two decides.
        rarest = min(range(len(pools)), key=lambda number: len(pools[number]))
        for index in sorted(pools[rarest]):
            if self._alike(self._kept[index], signature):
                return self._names[index]
        return None

    def add(self, signature: Mapping[str, Any], name: int) -> None:
        """Keep a sample under a name."""
        for keys in self._keys(signature):
            for key in keys:
                self._buckets.setdefault(key, []).append(len(self._kept))
        wanted = ("looks", "colours", "minhash", "unseen_near")
        self._kept.append({column: signature[column] for column in wanted})
        self._names.append(name)

    def _keys(self, signature: Mapping[str, Any]) -> list[list[Any]]:
        """Where a sample is filed: by its first picture, and by its text; without both by its other media."""
        keys: list[list[Any]] = []
        if signature["looks"]:
            look = signature["looks"][0]
            keys.append([(number << 64) | (look & mask) for number, mask in enumerate(self._masks)])
        if signature["minhash"]:
            width = 4 * self._band_rows
            text = signature["minhash"]
            keys.append(
                [bytes([band]) + text[band * width : (band + 1) * width] for band in range(self._bands)]
            )
        return keys or [[signature["unseen_near"]]]

    def _alike(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        same_form = len(a["looks"]) == len(b["looks"]) and bool(a["minhash"]) == bool(b["minhash"])
        if not same_form or a["unseen_near"] != b["unseen_near"]:
            return False
        if any(
            (x ^ y).bit_count() > self.distance for x, y in zip(a["looks"], b["looks"], strict=True)
        ) or any(_colours_differ(x, y) for x, y in zip(a["colours"], b["colours"], strict=True)):
            return False
        if not a["minhash"]:
            return True
        same = np.frombuffer(a["minhash"], "<u4") == np.frombuffer(b["minhash"], "<u4")
        return float(same.mean()) >= self.similarity


def _colours_differ(a: int, b: int) -> bool:
    return any(abs((a >> shift & 31) - (b >> shift & 31)) > COLOUR_DISTANCE for shift in _COLOUR_SHIFTS)


def find_duplicates(
    results: Results, *, distance: int = 4, similarity: float = 0.8, cosine: float | None = None
) -> Callable[[int], list[dict[str, Any]]]:
    """Decide which samples stay.

    Args:
        results: of the job `Signatures`.
        distance, similarity: see `NearIndex`.
        cosine: of vectors from which on samples are the same; every medium and the text must reach it.

    Returns:
        From the number of a unit to the verdicts on its rows.
    """
    ids: dict[int, str] = {}
    removed: dict[int, str] = {}
    exact: dict[bytes, int] = {}
    near: NearIndex | None = None
    for split in PREFERENCE:
        for ordinal, signature in _of_split(results, split):
            if signature["reason"]:
                removed[ordinal] = signature["reason"]
                continue
            first = exact.get(signature["exact"])
            if first is not None:
                removed[ordinal] = f"exact: the same as {ids[first]}"
                continue
            if signature["unseen_near"] is not None:
                near = near or NearIndex(distance, similarity)
                first = near.find(signature)
                if first is not None:
                    removed[ordinal] = f"near: much like {ids[first]}"
                    continue
                near.add(signature, ordinal)
            if signature["exact"] is not None:
                exact[signature["exact"]] = ordinal
            ids[ordinal] = signature["id"]
    if cosine is not None:
        # What stays is numbered in order of preference, which is the order of ``ids``.
        _find_near_vectors(results, ids, removed, cosine)

    def verdicts(number: int) -> list[dict[str, Any]]:
        unit = results.units[number]
        return [{"reason": removed.get(unit.first + index)} for index in range(unit.num_rows)]

    return verdicts


def _of_split(results: Results, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for unit, table in results:
        rows = table.drop_columns(["kinds", "vectors"]).to_pylist()
        for index, row in enumerate(rows):
            # A split of no known name is rejected when it is written.
            if row["split"] == split:
                yield unit.first + index, row


def _find_near_vectors(
    results: Results, ids: Mapping[int, str], removed: dict[int, str], cosine: float
) -> None:
    """Only samples with vectors of the same kinds, and the same bytes where there are none, are compared."""
    rank = {ordinal: number for number, ordinal in enumerate(ids)}
    groups: dict[tuple[Any, ...], list[tuple[int, int, np.ndarray]]] = {}
    for unit, table in results:
        for index, row in enumerate(table.select(["kinds", "vectors", "unseen_vectors"]).to_pylist()):
            ordinal = unit.first + index
            if ordinal in rank and row["kinds"]:
                vectors = np.array(row["vectors"], np.float32)
                key = (*row["kinds"], row["unseen_vectors"])
                groups.setdefault(key, []).append((rank[ordinal], ordinal, vectors))
    for members in groups.values():
        members.sort(key=lambda member: member[0])
        ordinals = [ordinal for _, ordinal, _ in members]
        parts = np.stack([vectors for _, _, vectors in members], axis=1)
        members.clear()
        for index, first in enumerate(near_vectors(parts, cosine)):
            if first >= 0:
                removed[ordinals[index]] = f"embedding: much like {ids[ordinals[first]]}"
