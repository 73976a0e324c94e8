"""Retrieval between two lists in both directions, and naming by words put into templates."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

KS = (1, 5, 10)


def matches_of_keys(query_keys: Sequence[str], candidate_keys: Sequence[str]) -> np.ndarray:
    """Which candidates answer which query, where equal keys do: bool ``[Q, C]``."""
    queries, candidates = np.array(query_keys, dtype=object), np.array(candidate_keys, dtype=object)
    return (queries[:, None] == candidates[None]).astype(bool)


def recall_per_query(similarity_QC: np.ndarray, matches_QC: np.ndarray, k: int) -> np.ndarray:
    """For each query, the chance that a match is among the k most similar candidates.

    Args:
        similarity_QC: larger is more similar.
        matches_QC: which candidates are right; several captions of one picture are several matches.

    Returns:
        float64 ``[Q]``: 1 or 0, and between them where candidates of the same similarity stand at the edge: their
        order is taken as random, so that a constant similarity scores exactly what chance does. A query without
        a match scores 0.

    Source: Recall@K of CLIP (arXiv 2103.00020) and Karpathy and Fei-Fei (arXiv 1412.2306); ties: McSherry and
    Najork, ECIR 2008 (the expectation over all orders of tied candidates).
    """
    ahead_Q, tied_Q, equal_Q = _standing(similarity_QC, matches_QC)
    places = np.clip(k - ahead_Q, 0, None)
    missed_Q = np.ones(len(ahead_Q))
    for place in range(k):
        # The next of the tied places is taken by another candidate than a match.
        left = np.maximum(tied_Q - place, 0) / np.maximum(tied_Q + equal_Q - place, 1)
        missed_Q = np.where(place < places, missed_Q * left, missed_Q)
    return np.where(equal_Q > 0, 1 - missed_Q, 0.0)


def recall_at_k(similarity_QC: np.ndarray, matches_QC: np.ndarray, k: int = 1) -> float:
    """Mean of ``recall_per_query``: R@k in [0, 1]."""
    return float(recall_per_query(similarity_QC, matches_QC, k).mean())


def ranks(similarity_QC: np.ndarray, matches_QC: np.ndarray) -> np.ndarray:
    """Rank of each query's first match, from 1; among ties the expected one, without a match infinity."""
    ahead_Q, tied_Q, equal_Q = _standing(similarity_QC, matches_QC)
    return np.where(equal_Q > 0, ahead_Q + (tied_Q + equal_Q + 1) / (equal_Q + 1), np.inf)


def retrieval(similarity_MC: np.ndarray, matches_MC: np.ndarray) -> dict[str, np.ndarray]:
    """R@1, R@5, R@10 and rank of every query, of media to texts and of texts to media.

    Args:
        similarity_MC, matches_MC: media in rows, texts in columns.

    Returns:
        "R@1 media -> text" and so on -> float64 of each query: the figure is its mean, of "rank ..." its median.
    """
    found: dict[str, np.ndarray] = {}
    for name, similarity, matches in (
        ("media -> text", similarity_MC, matches_MC),
        ("text -> media", similarity_MC.T, matches_MC.T),
    ):
        found |= {f"R@{k} {name}": recall_per_query(similarity, matches, k) for k in KS}
        found[f"rank {name}"] = ranks(similarity, matches)
    return found


def class_vectors(
    embed: Callable[[Sequence[Any]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """One unit vector for each class: the mean of its name in every template.

    Args:
        embed: texts -> unit vectors ``[n, L]``.
        templates: such as "a photo of a {}."; each holds ``{}`` once.

    Source: prompt ensembling of CLIP (arXiv 2103.00020, section 3.1.4), in the space of embeddings.
    """
    wrong = next((t for t in templates if t.count("{}") != 1), None)
    if not templates or wrong is not None:
        raise ValueError(
            f"template {wrong!r} must hold {{}} once, where the name goes; '{{}}' is the bare name"
        )
    vectors = embed([template.replace("{}", name) for name in names for template in templates])
    mean_CL = vectors.reshape(len(names), len(templates), -1).mean(axis=1)
    norm_C1 = np.linalg.norm(mean_CL, axis=1, keepdims=True)
    return mean_CL / np.maximum(norm_C1, np.finfo(mean_CL.dtype).tiny)


def zero_shot_accuracy(
    media_NL: np.ndarray, classes_CL: np.ndarray, labels: Sequence[int], *, k: int = 1
) -> float:
    """Share of media whose class is among the k nearest: R@k of ``class_vectors``."""
    matches = np.asarray(labels)[:, None] == np.arange(len(classes_CL))[None]
    return recall_at_k(media_NL @ classes_CL.T, matches, k)


def _standing(similarity_QC: np.ndarray, matches_QC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each query: others ahead of its best match, others that tie with it, matches as good as it (itself)."""
    if similarity_QC.shape != matches_QC.shape or similarity_QC.ndim != 2 or not similarity_QC.size:
        raise ValueError(
            f"similarity of shape {similarity_QC.shape} and matches of shape {matches_QC.shape}; expected the "
            "same two axes, queries and candidates, at least one of each"
        )
    if np.isnan(similarity_QC).any():
        raise ValueError("the similarity holds NaN, which has no rank; look for an empty or broken embedding")
    matches = matches_QC.astype(bool)
    best_Q1 = np.where(matches, similarity_QC, -np.inf).max(axis=1, keepdims=True)
    ahead = ((similarity_QC > best_Q1) & ~matches).sum(axis=1)
    level = similarity_QC == best_Q1
    has_match = matches.any(axis=1)
    return ahead, (level & ~matches).sum(axis=1), np.where(has_match, (level & matches).sum(axis=1), 0)
