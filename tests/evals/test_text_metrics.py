"""Answers, captions and speech against their owners' values and code."""

import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.evals.metrics.answers import exact_match, vqa_accuracy, vqa_normalize
from sensorium.evals.metrics.captions import bleu, chrf, cider_d, tokenize_caption
from sensorium.evals.metrics.speech import NORMALIZERS, basic, character_error_rate, word_error_rate

REFERENCE = Path(__file__).parent / "reference"
WORDS = st.lists(
    st.sampled_from(["the", "a", "cat", "sat", "on", "mat", "dog", "Dog", "dog,", "don't", "12", "café"]),
    max_size=8,
)
TEXT = WORDS.map(" ".join)
FILLED = WORDS.filter(bool).map(" ".join)


def reference(name: str) -> Any:
    return json.loads((REFERENCE / f"{name}.json").read_text(encoding="utf-8"))


def test_vqa_accuracy_is_that_of_the_owners_code() -> None:
    questions = reference("vqa")["questions"]
    assert len(questions) == 400
    ours = [100 * vqa_accuracy(q["given"], q["answers"]) for q in questions]
    assert ours == pytest.approx([q["accuracy"] for q in questions], abs=1e-6)
    # The cases tell: right, wrong and partly right.
    assert {0.0, 100.0, 30.0} <= {round(value, 3) for value in ours}


def test_answers_are_processed_as_by_the_owners_code() -> None:
    processed = reference("vqa")["processed"]
    assert len(processed) > 500
    for text, wanted in processed:
        # The owners' processing is given texts in one line, as their evaluation makes them.
        line = text.replace("\n", " ").replace("\t", " ").strip()
        assert vqa_normalize(line) == wanted, text


def test_vqa_accuracy_of_the_owners_page() -> None:
    """min(humans who said it / 3, 1), over the ten ways to leave one human out."""
    for agreed, wanted in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        answers = ["yes"] * agreed + [f"no {n}" for n in range(10 - agreed)]
        assert vqa_accuracy("yes", answers) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="two or more"):
        vqa_accuracy("yes", ["yes"])


def test_exact_match() -> None:
    assert exact_match(" The Cat. ", ["cat"]) == 1
    assert exact_match("The cat", ["cat"], normalize=False) == 0
    assert exact_match("two", ["2", "3"]) == 1
    assert exact_match("dog", ["cat"]) == 0


def test_exact_match_is_equality_after_the_owners_processing() -> None:
    pairs = [
        (text, wanted)
        for text, wanted in reference("vqa")["processed"]
        if "\n" not in text and "\t" not in text
    ]
    same = 0
    for (a, clean_a), (b, clean_b) in zip(pairs, [*pairs[1:], pairs[0]], strict=True):
        assert exact_match(a, ["nothing like it", b]) == (clean_a == clean_b)
        assert exact_match(a, [a + " "]) == 1
        same += clean_a == clean_b
    assert len(pairs) > 400
    assert same > 0


def test_cider_is_that_of_the_owners_code() -> None:
    corpora = reference("captions")["cider"]
    assert sum(len(corpus["given"]) for corpus in corpora) == 150
    for corpus in corpora:
        mean, scores = cider_d(corpus["given"], corpus["references"], tokenize=False)
        assert scores == pytest.approx(np.array(corpus["scores"]), abs=1e-9)
        assert mean == pytest.approx(corpus["mean"], abs=1e-9)
        assert scores.std() > 0.5


def test_captions_are_cut_as_by_the_owners_tokenizer() -> None:
    tokens = reference("captions")["tokens"]
    assert len(tokens) == 240
    wrong = [
        (text, " ".join(tokenize_caption(text)), wanted.strip())
        for text, wanted in tokens
        if " ".join(tokenize_caption(text)) != " ".join(wanted.split())
    ]
    assert wrong == []


@settings(max_examples=100)
@given(st.lists(st.tuples(TEXT, st.lists(FILLED, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_bleu_and_chrf_are_those_of_sacrebleu(rows: list[tuple[str, list[str]]]) -> None:
    texts, references = [text for text, _ in rows], [list(refs) for _, refs in rows]
    # sacrebleu's own padding for references of different number.
    most = max(map(len, references))
    columns = [[refs[n] if n < len(refs) else None for refs in references] for n in range(most)]
    assert bleu(texts, references).value == sacrebleu.corpus_bleu(texts, columns).score
    assert chrf(texts, references).value == sacrebleu.corpus_chrf(texts, columns).score
    plus = sacrebleu.corpus_chrf(texts, columns, word_order=2).score
    assert chrf(texts, references, word_order=2).value == plus


def test_bleu_names_its_signature_and_follows_the_owners_example() -> None:
    # The example of sacrebleu's README.
    texts = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    found = bleu(texts, references)
    assert found.value == pytest.approx(48.530827, abs=1e-5)
    assert "tok:13a" in found.signature
    assert chrf(texts, references).signature.startswith("nrefs:2")
    with pytest.raises(ValueError, match="text 1 has no reference"):
        bleu(["a", "b"], [["a"], []])


@settings(max_examples=150)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6).filter(lambda rows: any(a for a, _ in rows)),
    st.sampled_from(("plain", "basic")),
)
def test_error_rates_are_those_of_jiwer(rows: list[tuple[str, str]], normalizer: str) -> None:
    said, heard = [a for a, _ in rows], [b for _, b in rows]
    clean = [[NORMALIZERS[normalizer](text) for text in side] for side in (said, heard)]
    words = word_error_rate(said, heard, normalizer=normalizer)
    letters = character_error_rate(said, heard, normalizer=normalizer)
    assert words.rate == pytest.approx(jiwer.wer(*clean))
    assert letters.rate == pytest.approx(jiwer.cer(*clean))
    assert words.counts_N2.sum(axis=0).tolist() == [
        words.substitutions + words.deletions + words.insertions,
        words.units,
    ]
    assert words.normalizer == normalizer


def test_error_rates_are_totals_and_no_means() -> None:
    found = word_error_rate(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"], normalizer="plain")
    assert found.rate == pytest.approx(1 / 10)
    assert found.counts_N2.tolist() == [[1, 1], [0, 9]]
    silence = word_error_rate(["", "hello"], ["thank you", "hello"], normalizer="plain")
    assert (silence.insertions, silence.rate) == (2, 2.0)


def test_error_rates_refuse_what_they_cannot_count() -> None:
    with pytest.raises(ValueError, match="plain, basic, whisper-english"):
        word_error_rate(["a"], ["a"], normalizer="bsaic")
    with pytest.raises(ValueError, match="no reference has a word left"):
        word_error_rate(["...", "[noise]"], ["a", "b"], normalizer="basic")


@settings(max_examples=150)
@given(st.text(alphabet=st.sampled_from("aÉéß ﬁ½,.!'[](){}<>-_§☃日本 \tZ１"), max_size=30))
def test_the_basic_normalizer_is_whispers(text: str) -> None:
    whisper = pytest.importorskip("whisper_normalizer.basic").BasicTextNormalizer()
    assert basic(text) == " ".join(whisper(text).split())


def test_whispers_english_rules() -> None:
    pytest.importorskip("whisper_normalizer")
    said, heard = ["Mr. Smith won't pay twenty one dollars"], ["mister smith will not pay $21"]
    assert word_error_rate(said, heard, normalizer="whisper-english").rate == 0
    assert word_error_rate(said, heard, normalizer="basic").rate > 0.5
    assert NORMALIZERS["whisper-english"]("the colour") == "the color"
