"""Retrieval between two lists, and the neighbour baseline that whoever claims to learn must beat."""

from collections.abc import Sequence

import numpy as np


def recall_at_k(
    similarity_QC: np.ndarray, query_keys: Sequence[str], candidate_keys: Sequence[str], k: int = 1
) -> float:
    """Share of queries with a candidate of the same key among the k most similar.

    Args:
        similarity_QC: larger is more similar. Ties count against the query: a constant similarity must not
            score, so a match ranks behind every other candidate with the same value.

    Returns:
        R@k in [0, 1].
    """
    if similarity_QC.shape != (len(query_keys), len(candidate_keys)):
        raise ValueError(
            f"similarity has shape {similarity_QC.shape} for {len(query_keys)} queries and {len(candidate_keys)} candidates"
        )
    matches = np.array(query_keys, dtype=object)[:, None] == np.array(candidate_keys, dtype=object)[None]
    best = np.where(matches, similarity_QC, -np.inf).max(axis=1)
    ahead = ((similarity_QC >= best[:, None]) & ~matches).sum(axis=1)
    return float(((ahead < k) & matches.any(axis=1)).mean())


def chance(query_keys: Sequence[str], candidate_keys: Sequence[str]) -> float:
    """R@1 of a random order."""
    candidates = list(candidate_keys)
    return float(np.mean([candidates.count(key) / len(candidates) for key in query_keys]))


def neighbour_similarity(
    queries_ND: np.ndarray, references_MD: np.ndarray, keys: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Similarity of each query to each name: minus the distance to the nearest reference of that name.

    Args:
        queries_ND, references_MD: flattened signals (pixels, log-mel).
        keys: the name of each reference. names: the columns of the result; each needs a reference.

    Returns:
        float ``[N, len(names)]``.
    """
    distance = (
        (queries_ND**2).sum(1)[:, None] - 2 * queries_ND @ references_MD.T + (references_MD**2).sum(1)[None]
    )
    keys_M = np.array(keys, dtype=object)
    return -np.stack([distance[:, keys_M == name].min(axis=1) for name in names], axis=1)


def shrink(arrays_NCHW: np.ndarray, size: int) -> np.ndarray:
    """Pictures averaged down to ``size`` pixels a side and flattened: the view of a pixel neighbour."""
    N, C, H, W = arrays_NCHW.shape
    return arrays_NCHW.reshape(N, C, size, H // size, size, W // size).mean(axis=(3, 5)).reshape(N, -1)
