"""Retrieval, drawn and edited pictures, drawings as code, latency, calibration: closed forms and references."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.evals.metrics.calibration import brier_score, calibration
from sensorium.evals.metrics.drawing import (
    Node,
    drawing_score,
    pixel_agreement,
    render,
    svg_tree,
    tree_edit_distance,
)
from sensorium.evals.metrics.generated import (
    edit_score,
    edited_region,
    frechet_distance,
    frechet_of_gaussians,
    psnr,
)
from sensorium.evals.metrics.latency import Update, caption_latency, log_latency, read_log
from sensorium.evals.metrics.retrieval import (
    class_vectors,
    matches_of_keys,
    ranks,
    recall_at_k,
    recall_per_query,
    retrieval,
    zero_shot_accuracy,
)

REFERENCE = Path(__file__).parent / "reference"
SMALL = st.integers(1, 6)


@settings(max_examples=150)
@given(st.data())
def test_recall_and_rank_are_means_over_all_orders_of_ties(data: st.DataObject) -> None:
    num = data.draw(SMALL)
    similarity = np.array([data.draw(st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=num, max_size=num))])
    matches = np.array([data.draw(st.lists(st.booleans(), min_size=num, max_size=num))])
    k = data.draw(SMALL)
    # Every order that similarity allows, one after another: the definition.
    orders = [order for order in permutations(range(num)) if (np.diff(similarity[0][list(order)]) <= 0).all()]
    firsts = [next((n for n, c in enumerate(order, 1) if matches[0, c]), np.inf) for order in orders]
    assert recall_per_query(similarity, matches, k)[0] == pytest.approx(np.mean([f <= k for f in firsts]))
    assert ranks(similarity, matches)[0] == pytest.approx(np.mean(firsts))


def test_a_constant_similarity_scores_chance() -> None:
    matches = np.zeros((20, 50), bool)
    matches[np.arange(20), np.arange(20)] = True
    assert recall_at_k(np.zeros((20, 50)), matches, 10) == pytest.approx(10 / 50)


def test_recall_in_both_directions_with_several_captions() -> None:
    # Two pictures with two captions each; one caption of each is nearer to the other picture.
    similarity = np.array([[0.9, 0.1, 0.8, 0.0], [0.2, 0.3, 0.5, 0.6]])
    matches = matches_of_keys(["a", "b"], ["a", "a", "b", "b"])
    found = retrieval(similarity, matches)
    assert found["R@1 media -> text"].tolist() == [1, 1]  # one of several captions is enough
    assert found["R@1 text -> media"].tolist() == [1, 0, 0, 1]  # each caption counts by itself
    assert found["R@5 text -> media"].tolist() == [1, 1, 1, 1]
    assert found["rank text -> media"].tolist() == [1, 2, 2, 1]
    with pytest.raises(ValueError, match="NaN"):
        recall_at_k(np.array([[np.nan, 1.0]]), np.array([[True, False]]))


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_that_of_clip_benchmarks_rule(seed: int) -> None:
    """CLIP_benchmark: a picture is found if any of its captions is in the top k; captions one by one."""
    rng = np.random.default_rng(seed)
    similarity = rng.standard_normal((20, 60))
    owner = rng.integers(20, size=60)
    matches = np.arange(20)[:, None] == owner[None]
    for k in (1, 5, 10):
        top = np.argsort(-similarity, axis=1)[:, :k]
        assert recall_at_k(similarity, matches, k) == np.mean([(owner[top[m]] == m).any() for m in range(20)])
        top = np.argsort(-similarity.T, axis=1)[:, :k]
        assert recall_at_k(similarity.T, matches.T, k) == np.mean([owner[c] in top[c] for c in range(60)])


def test_zero_shot_names_are_means_over_templates() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[1.0, 0.2 * n, 0.0] if "cat" in t else [0.0, 0.0, 1.0] for n, t in enumerate(texts)])

    vectors = class_vectors(embed, ["cat", "dog"], ["{}", "a photo of a {}."])
    assert asked == ["cat", "a photo of a cat.", "dog", "a photo of a dog."]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    media = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0]])
    assert zero_shot_accuracy(media, vectors, [0, 1, 0, 1]) == 0.75
    with pytest.raises(ValueError, match="must hold"):
        class_vectors(embed, ["cat"], ["a photo"])


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_zero_shot_accuracy_is_its_definition(
    seed: int, num_templates: int, num_classes: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    table = {}

    def embed(texts: list[str]) -> np.ndarray:
        for text in texts:
            vector = rng.standard_normal(6)
            table[text] = vector / np.linalg.norm(vector)
        return np.array([table[text] for text in texts])

    names, templates = [f"n{i}" for i in range(num_classes)], [f"t{i} {{}}" for i in range(num_templates)]
    vectors = class_vectors(embed, names, templates)
    media, labels = rng.standard_normal((20, 6)), rng.integers(num_classes, size=20)
    right = 0
    for medium, label in zip(media, labels, strict=True):
        scores = []
        for name in names:  # CLIP's notebook: mean over templates, then length 1
            mean = np.mean([table[t.replace("{}", name)] for t in templates], axis=0)
            scores.append(medium @ mean / np.linalg.norm(mean))
        right += label in np.argsort(scores)[::-1][:k]
    assert zero_shot_accuracy(media, vectors, labels.tolist(), k=k) == pytest.approx(right / 20)


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_frechet_distance_is_the_formula_with_scipys_root(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        rng.standard_normal((40, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)
        for _ in "ab"
    )
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    mean, eye = np.zeros(3), np.eye(3)
    assert frechet_of_gaussians(mean, eye, mean + 2, eye) == pytest.approx(12)
    assert frechet_of_gaussians(mean, 4 * eye, mean, 9 * eye) == pytest.approx(3 * (2 - 3) ** 2)
    # Rotated, singular and the same: where a root of a product of matrices loses its digits.
    thin = np.outer([1.0, 2, 3], [1.0, 2, 3])
    assert frechet_of_gaussians(mean, thin, mean, thin) == pytest.approx(0, abs=1e-6)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20_000, 2)), rng.normal(1, 2, (20_000, 2))
    assert frechet_distance(a, b) == pytest.approx(2 * (1 + 1), rel=0.05)
    with pytest.raises(ValueError, match="N of at least 2"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_an_edit_is_scored_inside_and_outside() -> None:
    source = np.full((8, 8, 3), 100, np.uint8)
    wanted = source.copy()
    wanted[:4] = 200
    region = edited_region(source, wanted)
    assert region[:4].all()
    assert not region[4:].any()
    perfect = edit_score(source, wanted, wanted)
    assert (perfect.inside_done, perfect.inside_error) == (1, 0)
    assert (perfect.outside_change, perfect.outside_psnr) == (0, float("inf"))
    lazy = edit_score(source, source, wanted)
    assert (lazy.inside_done, lazy.inside_error) == (0, pytest.approx(100 / 255))
    noisy = wanted.copy()
    noisy[4:] += 10
    assert edit_score(source, noisy, wanted).outside_psnr == pytest.approx(10 * np.log10(255**2 / 100))
    with pytest.raises(ValueError, match="no inside"):
        edit_score(source, wanted, source)


@settings(max_examples=60)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3))
def test_noise_does_not_win_an_edit(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    """Whatever colour is asked for: noise changes most, and is hardly ever what was asked for."""
    source, wanted = (np.full((40, 40, 3), colour, np.uint8) for colour in (old, new))
    if not edited_region(source, wanted).any():
        return
    noise = np.random.default_rng(0).integers(0, 256, source.shape, dtype=np.uint8)
    halfway = ((source.astype(int) + wanted) // 2).astype(np.uint8)
    assert edit_score(source, noise, wanted).inside_done < 0.16
    # Rounding may carry the middle of a change of a few levels over the line.
    if np.linalg.norm(source.astype(int) - wanted, axis=2).max() > 16:
        assert edit_score(source, halfway, wanted).inside_done == 0
    assert edit_score(source, wanted, wanted).inside_done == 1


@settings(max_examples=100)
@given(st.integers(0, 10_000))
def test_edit_and_pixel_scores_are_sums_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, result, wanted = rng.integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    kept = rng.random((5, 4)) < 0.6
    wanted[kept] = source[kept]
    wanted[0, 0], kept[0, 0] = 255 - source[0, 0] // 2, False
    done, outside, errors = [], [], []
    agree = ink = both = 0
    for y in range(5):
        for x in range(4):
            old, new, goal = (p[y, x].astype(float) for p in (source, result, wanted))
            if max(abs(old - goal)) > 8:
                done.append(np.linalg.norm(new - goal) <= np.linalg.norm(old - goal) / 4)
                errors.append(np.mean(abs(new - goal)) / 255)
            else:
                outside.append(np.mean(abs(new - old)) / 255)
            same = max(abs(old - new)) <= 16
            dark_old, dark_new = min(old) < 255 - 16, min(new) < 255 - 16
            agree, ink = agree + same, ink + (dark_old or dark_new)
            both += dark_old and dark_new and same
    if done:
        found = edit_score(source, result, wanted)
        assert (found.inside_done, found.inside_error) == pytest.approx((np.mean(done), np.mean(errors)))
        if outside:
            assert found.outside_change == pytest.approx(np.mean(outside))
    assert pixel_agreement(source, result) == pytest.approx((agree / 20, both / ink))


@settings(max_examples=100)
@given(st.integers(0, 10_000))
def test_psnr_is_its_definition(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 4, 5, 3))
    assert psnr(a, b) == pytest.approx(20 * np.log10(255 / np.sqrt(np.mean((a - b) ** 2))))


def bracket(text: str) -> Node:
    root, open_nodes = None, []
    for letter in text:
        if letter == "}":
            root = open_nodes.pop()
        elif letter != "{":
            node = Node(letter)
            if open_nodes:
                open_nodes[-1].children.append(node)
            open_nodes.append(node)
    assert root is not None
    return root


def test_tree_distance_is_that_of_apted() -> None:
    cases = json.loads((REFERENCE / "trees.json").read_text())
    assert len(cases) == 200
    found = [tree_edit_distance(bracket(a), bracket(b)) for a, b, _ in cases]
    assert found == [wanted for _, _, wanted in cases]
    # The example of Zhang and Shasha's paper, figure 4.
    assert tree_edit_distance(bracket("{f{d{a}{c{b}}}{e}}"), bracket("{f{c{d{a}{b}}}{e}}")) == 2


CIRCLE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><circle cx="12" cy="12" r="8"/></svg>'
PATH = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path d="M2,2 L20 2 L20,20z"/></svg>'


def test_a_wrong_number_of_a_path_costs_one() -> None:
    assert drawing_score(PATH, PATH).tree_similarity == 1
    assert drawing_score(PATH.replace("M2,2 L", "M 2.0 2L"), PATH).tree_distance == 0
    assert drawing_score(PATH.replace("L20 2", "L20 9"), PATH).tree_distance == 1
    assert 0 < drawing_score(CIRCLE, PATH).tree_similarity < 1
    broken = drawing_score(PATH[:-8], PATH)
    assert (broken.is_valid, broken.tree_similarity, broken.tree_distance) == (False, 0, svg_tree(PATH).size)


def test_drawings_are_compared_by_their_pixels() -> None:
    pytest.importorskip("resvg_py")
    same, other = drawing_score(CIRCLE, CIRCLE), drawing_score(PATH, CIRCLE)
    assert (same.pixel_agreement, same.ink_iou) == (1, 1)
    assert other.pixel_agreement is not None
    assert other.ink_iou is not None
    assert other.ink_iou < other.pixel_agreement < 1
    empty = CIRCLE.replace("<circle", "<g").replace('r="8"', "")
    assert drawing_score(empty, CIRCLE).ink_iou == 0
    page = np.full((4, 4, 3), 255, np.uint8)
    assert pixel_agreement(page, page) == (1, 1)


def test_code_of_a_model_reads_no_file_and_takes_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    from PIL import Image

    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "secret.png")
    picture = f'<image href="{tmp_path}/secret.png" width="24" height="24"/>'
    pixels = render(CIRCLE.replace('<circle cx="12" cy="12" r="8"/>', picture))
    assert pixels is not None
    assert (pixels == 255).all()
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>'
    with pytest.raises(ValueError, match="document type"):
        svg_tree(bomb)
    with pytest.raises(ValueError, match="nodes"):
        svg_tree("<svg>" + "<g/>" * 3000 + "</svg>")
    deep = "<svg>" + "<g>" * 1500 + "</g>" * 1500 + "</svg>"
    assert tree_edit_distance(svg_tree(deep), svg_tree("<svg/>")) == 1500


def test_latency_in_three_ways() -> None:
    # Two seconds of sound a run; the second run takes three seconds, so that the third must wait.
    updates = [
        Update(heard_s=2, compute_s=0.5, ends_s=(1.0, 1.8)),
        Update(heard_s=4, compute_s=3.0, ends_s=(3.0,)),
        Update(heard_s=6, compute_s=0.5, ends_s=(5.0, 6.0)),
    ]
    found = caption_latency(updates, duration_s=6, offline_compute_s=1.5, offline_ends_s=(1.0, 6.0))
    assert found.aware.lags_N == pytest.approx([1.5, 0.7, 4.0, 2.5, 1.5])
    assert found.unaware.lags_N == pytest.approx([1.0, 0.2, 1.0, 1.0, 0.0])
    assert found.offline.lags_N == pytest.approx([6.5, 1.5])
    assert found.realtime_factor == pytest.approx(4 / 6)
    assert (found.aware.mean_s, found.aware.max_s) == (pytest.approx(10.2 / 5), 4.0)
    early = [Update(heard_s=2, compute_s=0, ends_s=(9.0,))]  # a time it cannot know
    guessed = caption_latency(early, duration_s=6, offline_compute_s=0, offline_ends_s=())
    assert guessed.unaware.lags_N == [0]
    assert np.isnan(guessed.offline.mean_s)
    with pytest.raises(ValueError, match="times in order"):
        caption_latency(updates[::-1], duration_s=6, offline_compute_s=0, offline_ends_s=())


@settings(max_examples=100)
@given(st.integers(0, 10_000))
def test_latency_is_that_of_whisper_streamings_loop(seed: int) -> None:
    """Its loop: sleep until a chunk of sound is there, hear all there is by then, compute, emit by the clock.

    Only at the end of the sound it does not wait for a full chunk.
    """
    rng = np.random.default_rng(seed)
    duration_s, chunk_s, now_s, heard_s, said_s = rng.uniform(4, 20), rng.uniform(0.3, 2), 0.0, 0.0, 0.0
    updates, emitted = [], []
    while heard_s < duration_s:
        now_s = max(now_s, min(heard_s + chunk_s, duration_s))
        heard_s = min(now_s, duration_s)
        ends = sorted(rng.uniform(said_s, heard_s, rng.integers(0, 4)))
        said_s, compute_s = heard_s, rng.exponential(0.8)
        now_s += compute_s
        emitted += [(now_s - end_s, heard_s - end_s) for end_s in ends]
        updates.append(Update(heard_s=heard_s, compute_s=compute_s, ends_s=tuple(ends)))
    found = caption_latency(updates, duration_s=duration_s, offline_compute_s=1, offline_ends_s=())
    assert found.aware.lags_N == pytest.approx([lag for lag, _ in emitted])
    assert found.unaware.lags_N == pytest.approx([lag for _, lag in emitted])


def test_logs_of_whisper_streaming_are_read() -> None:
    log = "2691.4399 300 1380 Chairman, thank you.\n6914.5501 1940 4940 If the debate today had a\n"
    rows = read_log(log)
    assert rows[0][:3] == pytest.approx((2.6914399, 0.3, 1.38))
    assert rows[0][3] == "Chairman, thank you."
    assert rows[1][3] == "If the debate today had a"
    assert log_latency(log).lags_N == pytest.approx([1.3114399, 1.9745501])
    with pytest.raises(ValueError, match="line 1"):
        read_log("[2024-01-01] hello there all")


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_calibration_is_its_definition(seed: int, num_bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(60).round(2), rng.integers(0, 2, 60)
    found = calibration(confidence, correct, num_bins=num_bins)
    total = 0.0
    for b in range(num_bins):  # Guo et al.: bin b holds (b/B, (b+1)/B]
        inside = (confidence > found.edges[b]) & (confidence <= found.edges[b + 1])
        inside |= (b == 0) & (confidence == 0)
        total += abs(correct[inside].sum() - confidence[inside].sum()) / 60
    assert found.ece == pytest.approx(total)
    assert found.brier == pytest.approx(np.mean((confidence - correct) ** 2))
    assert found.count_B.sum() == 60


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_brier_is_its_definition(seed: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(num_classes), 10), rng.integers(num_classes, size=10)
    wanted = sum(
        (p - (c == label)) ** 2
        for row, label in zip(probabilities, labels, strict=True)
        for c, p in enumerate(row)
    )
    assert brier_score(probabilities, labels) == pytest.approx(wanted / 10)


def test_calibration_of_known_predictors() -> None:
    sure = calibration(np.full(100, 0.9), np.arange(100) < 60)
    assert sure.ece == pytest.approx(0.3)
    assert sure.bins == "15 of equal width"
    honest = calibration(np.full(100, 0.6), np.arange(100) < 60, num_bins=4, binning="mass")
    assert honest.count_B.tolist() == [25, 25, 25, 25]
    assert calibration(np.full(100, 0.6), np.arange(100) < 60).ece == pytest.approx(0)
    assert brier_score(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])) == pytest.approx(
        (0.02 + 1.28) / 2
    )
    with pytest.raises(ValueError, match="not logits"):
        calibration(np.array([1.5]), np.array([1]))
