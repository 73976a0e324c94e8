"""Near vectors without comparing all with all: vectors are sorted into cells around centres."""

from __future__ import annotations

import numpy as np

# So many vectors are compared all with all: exact, and a matter of seconds.
EXACT_ROWS = 16_384
_CELL_ROWS = 4_096
_NUM_PROBES = 4
_BLOCK = 1_024
_CANDIDATES = 8_192


def near_vectors(parts_PND: np.ndarray, cosine: float, *, exact_rows: int = EXACT_ROWS) -> np.ndarray:
    """For every item, the first kept item before it that is near in all its parts; an item with one is not kept.

    Up to ``exact_rows`` items every pair is compared, in blocks. Beyond, items are filed under the nearest of
    N / 4096 centres of their first part and looked for under the nearest four, so that time grows with N and not
    with its square; a near pair on two sides of more cells than that is missed.

    Args:
        parts_PND: unit vectors, float32: P parts of N items.
        cosine: from which on two parts are near.
        exact_rows: the largest number of items for which every pair is compared.

    Returns:
        int64 ``[N]``, -1 where there is none.
    """
    num_items = parts_PND.shape[1]
    probes_NC = np.zeros((num_items, 1), np.int64)
    if num_items > exact_rows:
        probes_NC = _cells(parts_PND[0])
    kept: list[list[int]] = [[] for _ in range(int(probes_NC.max(initial=0)) + 1)]
    near = np.full(num_items, -1, np.int64)
    for start in range(0, num_items, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, num_items))
        for cell in np.unique(probes_NC[block]):
            rows = block[(probes_NC[block] == cell).any(axis=1)]
            candidates = np.array(kept[cell], np.int64)
            for chunk in np.split(candidates, range(_CANDIDATES, len(candidates), _CANDIDATES)):
                if not chunk.size:
                    continue
                hits = _alike(parts_PND, rows, chunk, cosine)
                found = np.where(hits.any(axis=1), chunk[hits.argmax(axis=1)], -1)
                better = (found >= 0) & ((near[rows] < 0) | (found < near[rows]))
                near[rows[better]] = found[better]
        hits = _alike(parts_PND, block, block, cosine)
        for index, item in enumerate(block):
            before = np.flatnonzero(hits[index, :index] & (near[block[:index]] < 0))
            if near[item] < 0 and before.size:
                near[item] = block[before[0]]
            elif near[item] < 0:
                kept[probes_NC[item, 0]].append(int(item))
    return near


def _alike(parts_PND: np.ndarray, rows: np.ndarray, others: np.ndarray, cosine: float) -> np.ndarray:
    alike = np.ones((len(rows), len(others)), bool)
    for part_ND in parts_PND:
        alike &= part_ND[rows] @ part_ND[others].T >= cosine
    return alike


def _cells(vectors_ND: np.ndarray) -> np.ndarray:
    """The nearest cells of every vector, nearest first, by k-means on the sphere; deterministic."""
    num_cells = -(-len(vectors_ND) // _CELL_ROWS)
    sample = vectors_ND[:: max(1, len(vectors_ND) // (64 * num_cells))]
    centres = sample[:: max(1, len(sample) // num_cells)][:num_cells].copy()
    for _ in range(8):
        home = (sample @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, home, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    num_probes = min(_NUM_PROBES, len(centres))
    probes = np.zeros((len(vectors_ND), num_probes), np.int64)
    for start in range(0, len(vectors_ND), _BLOCK):
        scores = vectors_ND[start : start + _BLOCK] @ centres.T
        probes[start : start + _BLOCK] = np.argsort(-scores, axis=1, kind="stable")[:, :num_probes]
    return probes
