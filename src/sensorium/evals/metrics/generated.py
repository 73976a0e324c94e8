"""What a model draws: distance between sets of pictures or sounds, and what an edit changed where."""

from dataclasses import dataclass

import numpy as np

# Of the way from the old colour to the wanted one. Of all colours at most 13% are that near to any wanted one, so that
# noise and a picture of one grey gain nothing.
_DONE_WITHIN = 0.25


def frechet_distance(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """Frechet distance between the Gaussians of two sets of features; whose features must be said beside it.

    Args:
        a_ND, b_MD: features, at least two rows each. With fewer rows than columns the covariance is singular: the
            distance is still exact, and biased upwards; compare only sets of one size.

    Source: FID (arXiv 1706.08500), eq. 6; unbiased covariances, as in the authors' code.
    """
    for features in (a_ND, b_MD):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(
                f"features of shape {features.shape}; expected finite [N, D] with N of at least 2"
            )
    a, b = a_ND.astype(np.float64), b_MD.astype(np.float64)
    return frechet_of_gaussians(
        a.mean(axis=0),
        np.atleast_2d(np.cov(a, rowvar=False)),
        b.mean(axis=0),
        np.atleast_2d(np.cov(b, rowvar=False)),
    )


def frechet_of_gaussians(
    mean_a_D: np.ndarray, cov_a_DD: np.ndarray, mean_b_D: np.ndarray, cov_b_DD: np.ndarray
) -> float:
    """Squared Frechet distance of two Gaussians: |ma - mb|^2 + tr(A + B - 2 (A B)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: no
    complex numbers, nothing added to a diagonal.
    """
    values, vectors = np.linalg.eigh(cov_a_DD)
    root_a_DD = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    middle_DD = root_a_DD @ cov_b_DD @ root_a_DD
    eigenvalues_D = np.linalg.eigvalsh((middle_DD + middle_DD.T) / 2)
    trace_root = np.sqrt(np.clip(eigenvalues_D, 0, None)).sum()
    difference_D = mean_a_D - mean_b_D
    distance = difference_D @ difference_D + np.trace(cov_a_DD) + np.trace(cov_b_DD) - 2 * trace_root
    return float(max(distance, 0.0))


def psnr(a: np.ndarray, b: np.ndarray, *, max_value: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all values; infinite where both are the same."""
    if a.shape != b.shape or not a.size:
        raise ValueError(
            f"arrays of shape {a.shape} and {b.shape}; expected two of the same shape, not empty"
        )
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(max_value**2 / error))


@dataclass(frozen=True)
class EditScore:
    """What an edit did.

    Args:
        inside_done: share of the pixels where a change was asked for whose colour is within a quarter of that change
            of the wanted one. 0 means that nothing happened, or something else; of random pixels 0.13 at most are so.
        inside_error: mean absolute difference from the wanted picture there, in [0, 1].
        outside_change: mean absolute change elsewhere, in [0, 1].
        outside_psnr: of source and result elsewhere, in dB; infinite where nothing changed.
    """

    inside_done: float
    inside_error: float
    outside_change: float
    outside_psnr: float


def edit_score(source_HW3: np.ndarray, result_HW3: np.ndarray, wanted_HW3: np.ndarray) -> EditScore:
    """Changed where asked, unchanged elsewhere.

    Args:
        source_HW3, result_HW3, wanted_HW3: uint8; inside is ``edited_region(source, wanted)``.

    Raises:
        ValueError: sizes differ, or the wanted picture asks for no change; nan stands for an outside that has no
            pixel.

    Source: the distance to the wanted picture, as MagicBrush (arXiv 2306.10012) has it for whole pictures, and PSNR of what
    is outside of the mask, as PIE-Bench (arXiv 2310.01506). How much changed inside is no
    figure here: noise changes most.
    """
    if not source_HW3.shape == result_HW3.shape == wanted_HW3.shape:
        shapes = [p.shape for p in (source_HW3, result_HW3, wanted_HW3)]
        raise ValueError(f"source, result and wanted picture have shapes {shapes}; resize them to one")
    inside_HW = edited_region(source_HW3, wanted_HW3)
    if not inside_HW.any():
        raise ValueError("the wanted picture is the source: there is no inside to score; leave the pair out")
    outside_HW = ~inside_HW
    changed_HW = _difference(source_HW3, result_HW3)
    has_outside = bool(outside_HW.any())
    return EditScore(
        inside_done=float(
            (_far(result_HW3, wanted_HW3) <= _DONE_WITHIN * _far(source_HW3, wanted_HW3))[inside_HW].mean()
        ),
        inside_error=float(_difference(wanted_HW3, result_HW3)[inside_HW].mean()),
        outside_change=float(changed_HW[outside_HW].mean()) if has_outside else float("nan"),
        outside_psnr=psnr(source_HW3[outside_HW], result_HW3[outside_HW]) if has_outside else float("nan"),
    )


def edited_region(source_HW3: np.ndarray, wanted_HW3: np.ndarray, *, threshold: int = 8) -> np.ndarray:
    """Bool ``[H, W]``: pixels of which the wanted picture changes a channel by more than ``threshold`` of 255."""
    difference = np.abs(source_HW3.astype(np.int16) - wanted_HW3.astype(np.int16))
    return np.asarray((difference > threshold).any(axis=2))


def _far(a_HW3: np.ndarray, b_HW3: np.ndarray) -> np.ndarray:
    """Distances of colours ``[H, W]``, in levels."""
    return np.asarray(np.linalg.norm(a_HW3.astype(np.float64) - b_HW3.astype(np.float64), axis=2))


def _difference(a_HW3: np.ndarray, b_HW3: np.ndarray) -> np.ndarray:
    return np.abs(a_HW3.astype(np.float64) - b_HW3.astype(np.float64)).mean(axis=2) / 255
