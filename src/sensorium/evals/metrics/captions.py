"""Captions and translations against several references: CIDEr-D, BLEU, chrF."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MAX_N = 4
_SIGMA = 6.0
_SCALE = 10.0
_TOKEN = re.compile(
    r"""
    \.\.\.
    | \b(?:mr|mrs|ms|dr|st|co|jr|sr|vs|inc|ltd|corp|etc|ft)\.  # abbreviations keep their period
    | (?<!\w)[^\W\d_](?:\.[^\W\d_])+(?!\w)\.?            # u.s., p.m.
    | [^\W_]+?(?=n't\b) | n't\b                           # do n't
    | '(?:s|m|d|ll|re|ve)\b                               # dog 's
    | \w+(?:(?:[-/]|(?<=\d)[.,:](?=\d))\w+)*              # t-shirt, 1,000, 5:30
    | [^\w\s]
    """,
    re.VERBOSE,
)
_DROPPED = frozenset(".?!,:;-'\"`")
_SPLIT_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "wanna": ("wan", "na"),
    "gotta": ("got", "ta"),
}
# The owners drop these marks in capitals and make everything small before: they stay.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


@dataclass(frozen=True)
class TextScore:
    """A figure of a whole set of texts. ``signature`` says how texts were cut and compared."""

    value: float
    signature: str


def tokenize_caption(text: str) -> list[str]:
    """Small words without punctuation, cut in the manner of the Penn Treebank: "don't" is "do n't".

    Source: PTBTokenizer of pycocoevalcap (Stanford's, in Java), followed in what captions hold; it knows many more
    abbreviations.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text.lower().replace("’", "'")):
        if token not in _DROPPED and token != "...":
            tokens += _SPLIT_WORDS.get(token, (_BRACKETS.get(token, token),))
    return tokens


def cider_d(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: bool = True
) -> tuple[float, np.ndarray]:
    """CIDEr-D: how much a caption shares with those of people, rare words weighing more.

    Document frequencies are those of the references given, so figures of sets of different size do not compare,
    and a set of one scores 0. What the field's tables call CIDEr is this.

    Args:
        captions: one for each picture.
        references: at least one for each picture.
        tokenize: cut by ``tokenize_caption``; otherwise at spaces (texts that were cut before).

    Returns:
        The mean (in [0, 10]; tables show it times 100) and float64 ``[len(captions)]``.

    Raises:
        ValueError: no captions, or a caption without references.

    Source: CIDEr (arXiv 1411.5726), eq. 2 to 5 with n up to 4, sigma 6, and the clipping of CIDEr-D, as in
    pycocoevalcap (its length is the number of pairs of words, so is ours).
    """
    _check(captions, references)
    cut = tokenize_caption if tokenize else str.split
    counts = [[_ngrams(cut(text)) for text in texts] for texts in references]
    document_frequency = Counter(gram for texts in counts for gram in set().union(*texts))
    log_documents = np.log(len(captions))

    def vectors(grams: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_N)]
        for gram, count in grams.items():
            weight = log_documents - np.log(max(1, document_frequency[gram]))
            found[len(gram) - 1][gram] = count * weight
        return found

    scores = np.zeros(len(captions))
    for number, (caption, texts) in enumerate(zip(captions, counts, strict=True)):
        grams = _ngrams(cut(caption))
        ours = vectors(grams)
        for text in texts:
            closeness = [_clipped_cosine(a, b) for a, b in zip(ours, vectors(text), strict=True)]
            difference = _num_pairs(grams) - _num_pairs(text)
            scores[number] += np.mean(closeness) * np.exp(-(difference**2) / (2 * _SIGMA**2))
        scores[number] *= _SCALE / len(texts)
    return float(scores.mean()), scores


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False) -> TextScore:
    """Corpus BLEU in [0, 100] by sacrebleu, whose signature goes with it.

    Args:
        references: one or more for each text; their number may differ.
    """
    sacrebleu = _sacrebleu()
    metric = sacrebleu.BLEU(lowercase=lowercase)
    value = metric.corpus_score(list(texts), _by_place(texts, references)).score
    return TextScore(float(value), str(metric.get_signature()))


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]], *, word_order: int = 0) -> TextScore:
    """Corpus chrF in [0, 100] by sacrebleu; ``word_order`` 2 makes it chrF++."""
    sacrebleu = _sacrebleu()
    metric = sacrebleu.CHRF(word_order=word_order)
    value = metric.corpus_score(list(texts), _by_place(texts, references)).score
    return TextScore(float(value), str(metric.get_signature()))


def _clipped_cosine(ours: dict[tuple[str, ...], float], theirs: dict[tuple[str, ...], float]) -> float:
    dot = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
    norms = _norm(ours) * _norm(theirs)
    return dot / norms if norms else dot


def _norm(vector: dict[tuple[str, ...], float]) -> float:
    return float(np.sqrt(sum(weight**2 for weight in vector.values())))


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[at : at + n]) for n in range(1, _MAX_N + 1) for at in range(len(words) - n + 1)
    )


def _num_pairs(grams: Counter[tuple[str, ...]]) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _by_place(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu has them: the first of every text, the second of every text, ..."""
    _check(texts, references)
    most = max(map(len, references))
    return [[row[place] if place < len(row) else None for row in references] for place in range(most)]


def _check(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not texts or len(texts) != len(references):
        raise ValueError(
            f"{len(texts)} texts and {len(references)} lists of references; give a list for each text"
        )
    empty = next((number for number, row in enumerate(references) if not row), None)
    if empty is not None:
        raise ValueError(f"text {empty} has no reference; give at least one, or leave the text out")


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ValueError("BLEU and chrF need sacrebleu: pip install 'sensorium[evals]'") from error
    return metrics
