"""Word and character error rates: totals over the whole set, by jiwer, with the normaliser named."""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def plain(text: str) -> str:
    """Nothing but single spaces between words."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Lower case; what stands in brackets goes; marks, symbols and punctuation become spaces.

    Source: the normaliser for all languages of Whisper (arXiv 2212.04356, appendix C).
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = re.sub(r"\(([^)]+?)\)", "", text)
    kept = (" " if unicodedata.category(c)[0] in "MSP" else c for c in unicodedata.normalize("NFKC", text))
    return plain("".join(kept).lower())


def whisper_english(text: str) -> str:
    """The English rules of Whisper: numbers, spelling, contractions, titles; by the package whisper-normalizer."""
    return plain(_whisper_english()(text))


NORMALIZERS: dict[str, Callable[[str], str]] = {
    "plain": plain,
    "basic": basic,
    "whisper-english": whisper_english,
}


@dataclass(frozen=True)
class ErrorRate:
    """Errors over the units of the references, in the whole set.

    Args:
        rate: errors / units; above 1 where much is inserted.
        substitutions, deletions, insertions, hits, units: totals.
        normalizer: that both sides went through.
        counts_N2: errors and units of every text, for intervals: ``bootstrap(counts_N2, "ratio")``.
    """

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    hits: int
    units: int
    normalizer: str
    counts_N2: np.ndarray


def word_error_rate(references: Sequence[str], texts: Sequence[str], *, normalizer: str) -> ErrorRate:
    """WER: all word errors over all words of the references, never a mean of rates.

    Args:
        references: what was said. texts: what was heard.
        normalizer: "plain", "basic" or "whisper-english".

    Raises:
        ValueError: an unknown normaliser, lists of different length, or references without any word.
    """
    return _error_rate("process_words", references, texts, normalizer)


def character_error_rate(references: Sequence[str], texts: Sequence[str], *, normalizer: str) -> ErrorRate:
    """CER: ``word_error_rate`` for characters; a space is a character."""
    return _error_rate("process_characters", references, texts, normalizer)


def _error_rate(count: str, references: Sequence[str], texts: Sequence[str], normalizer: str) -> ErrorRate:
    if normalizer not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {normalizer!r}; known are {', '.join(NORMALIZERS)}")
    if not references or len(references) != len(texts):
        raise ValueError(f"{len(references)} references and {len(texts)} texts; give one text for each")
    clean = NORMALIZERS[normalizer]
    said, heard = [clean(text) for text in references], [clean(text) for text in texts]
    if not any(said):
        raise ValueError(f"no reference has a word left after the normaliser {normalizer!r}; choose another")
    process = getattr(_jiwer(), count)
    pairs = [process([a], [b]) for a, b in zip(said, heard, strict=True)]
    totals = {
        name: sum(getattr(pair, name) for pair in pairs)
        for name in ("substitutions", "deletions", "insertions", "hits")
    }
    errors = np.array([p.substitutions + p.deletions + p.insertions for p in pairs], dtype=float)
    units = np.array([p.substitutions + p.deletions + p.hits for p in pairs], dtype=float)
    return ErrorRate(
        rate=float(errors.sum() / units.sum()),
        **totals,
        units=int(units.sum()),
        normalizer=normalizer,
        counts_N2=np.stack([errors, units], axis=1),
    )


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise ValueError("error rates need jiwer: pip install 'sensorium[evals]'") from error
    return jiwer


@functools.cache
def _whisper_english() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise ValueError(
            "the normalizer 'whisper-english' needs whisper-normalizer: pip install 'sensorium[evals]'"
        ) from error
    return EnglishTextNormalizer()
