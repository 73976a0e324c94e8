"""Whether a confidence means what it says: expected calibration error, Brier score."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Confidence against what was right.

    Args:
        ece: expected calibration error in [0, 1].
        brier: mean squared error of the confidence, in [0, 1].
        bins: what the error depends on: how they were cut, and their number.
        edges: of the bins, one more than there are bins.
        count_B, confidence_B, accuracy_B: of each bin; nan where it is empty.
    """

    ece: float
    brier: float
    bins: str
    edges: np.ndarray
    count_B: np.ndarray
    confidence_B: np.ndarray
    accuracy_B: np.ndarray


def calibration(
    confidence_N: np.ndarray,
    correct_N: np.ndarray,
    *,
    num_bins: int = 15,
    binning: Literal["width", "mass"] = "width",
) -> Calibration:
    """Calibration of the answers that were given.

    Args:
        confidence_N: probability that the model gave to its answer, in [0, 1].
        correct_N: 1 where the answer was right, else 0.
        binning: "width" cuts [0, 1] into equal parts (a value on an edge belongs below it), "mass" puts equally
            many answers into each bin.

    Source: Guo et al. (arXiv 1706.04599), eq. 3: 15 bins of equal width, (low, high]; Brier 1950 for the binary
    outcome.
    """
    confidence, correct = np.asarray(confidence_N, float), np.asarray(correct_N, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not confidence.size:
        raise ValueError(
            f"confidences {confidence.shape} and outcomes {correct.shape}; expected two equal [N]"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all() or not np.isin(correct, (0, 1)).all():
        raise ValueError(
            "confidences must lie in [0, 1] and outcomes be 0 or 1; pass probabilities, not logits"
        )
    if binning == "width":
        edges = np.linspace(0, 1, num_bins + 1)
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    else:
        edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1))
        place = np.empty(confidence.size, int)
        order = np.argsort(confidence, kind="stable")
        place[order] = np.arange(confidence.size) * num_bins // confidence.size
    count, sum_confidence, sum_correct = (
        np.bincount(place, weights=w, minlength=num_bins)
        for w in (np.ones_like(correct), confidence, correct)
    )
    filled = np.maximum(count, 1)
    return Calibration(
        ece=float(np.abs(sum_confidence - sum_correct).sum() / confidence.size),
        brier=float(((confidence - correct) ** 2).mean()),
        bins=f"{num_bins} of equal {binning}",
        edges=edges,
        count_B=count.astype(int),
        confidence_B=np.where(count > 0, sum_confidence / filled, np.nan),
        accuracy_B=np.where(count > 0, sum_correct / filled, np.nan),
    )


def brier_score(probabilities_NC: np.ndarray, labels: np.ndarray) -> float:
    """Brier score over classes, in [0, 2]: the squared distance of the probabilities from the truth.

    Source: Brier, Monthly Weather Review 78 (1950), eq. 2.
    """
    probabilities, classes = np.asarray(probabilities_NC, float), np.asarray(labels)
    if probabilities.ndim != 2 or classes.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {classes.shape}; expected [N, C], [N]"
        )
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("probabilities of a row do not add up to 1; pass a softmax")
    truth = classes[:, None] == np.arange(probabilities.shape[1])[None]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())
