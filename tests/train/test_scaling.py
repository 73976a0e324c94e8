"""The arithmetic of docs/scaling.md: its closed forms, and its bytes and its cost of failures against what happens."""

import dataclasses
import math
from pathlib import Path

import pytest
from benchmarks.scaling import (
    Cluster,
    Work,
    best_interval_s,
    break_even_tokens,
    gathered,
    lost_share,
    markdown,
    simulate_lost_share,
    step_bytes,
    step_times,
    table,
    work_of,
)

CLUSTER = Cluster()


@pytest.fixture(scope="module")
def work() -> Work:
    return work_of("base", tokens=16_384, tokens_per_sample=320)


def test_shapes_are_those_of_the_recipe(work: Work) -> None:
    # Qwen3-1.7B's blocks: q and o 2048 x 2048, k and v 2048 x 1024, three feed-forward matrices, four norms.
    block = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
    assert work.trunk == 28 * block
    # Every weight of the trunk costs 6 FLOPs a token in a step; attention, vocabulary and media come on top.
    assert 6 * work.trunk < work.flops_per_token < 1.5 * 6 * work.trunk


def test_bytes_of_collectives(work: Work) -> None:
    assert gathered(800.0, 1) == 0
    assert gathered(800.0, 8) == 700
    whole = step_bytes(work, 8, 8)
    assert whole["sum over copies"] == 0
    assert whole["gather parameters"] == pytest.approx(4 * (2 * work.trunk + work.root) * 7 / 8)
    assert whole["reduce gradients"] == pytest.approx(4 * work.parameters * 7 / 8)
    # Copies in nodes: the nodes exchange an eighth of the gradients each, twice (ring all-reduce).
    copies = step_bytes(work, 64, 8)
    assert copies["gather parameters"] == whole["gather parameters"]
    assert copies["sum over copies"] == pytest.approx(2 * 4 * work.parameters / 8 * 7 / 8)
    assert sum(step_bytes(work, 1, 1).values()) == 0


@pytest.mark.parametrize(("ranks", "shard"), [(64, 64), (64, 8), (1024, 1024), (1024, 8)])
def test_at_break_even_the_step_waits_for_neither(work: Work, ranks: int, shard: int) -> None:
    tokens = break_even_tokens(work, CLUSTER, ranks, shard)
    scale = tokens / work.tokens
    # Pairs need not be whole numbers here.
    there = dataclasses.replace(work, tokens=tokens, pairs=work.pairs * scale)  # type: ignore[arg-type]
    times = step_times(there, CLUSTER, ranks, shard)
    assert max(times["network"], times["inside a node"]) == pytest.approx(times["compute"], rel=0.02)


def test_alignment_alone_can_make_a_size_hopeless(work: Work) -> None:
    many = dataclasses.replace(work, pairs=work.tokens)
    assert break_even_tokens(many, CLUSTER, 65_536, 8) == math.inf


def test_the_best_interval_is_the_best() -> None:
    save_s, between_s = 18.0, 49.5 * 3600
    best = best_interval_s(save_s, between_s)
    grid = [best * factor / 100 for factor in range(20, 500)]
    least = min(grid, key=lambda interval: lost_share(interval, save_s, between_s, 300.0))
    assert best == pytest.approx(least, rel=0.03)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_what_failures_cost_is_what_happens(factor: float) -> None:
    save_s, between_s, restart_s = 18.0, 20 * 3600.0, 300.0
    interval = factor * best_interval_s(save_s, between_s)
    played = simulate_lost_share(interval, save_s, between_s, restart_s, num_failures=20_000, seed=0)
    assert lost_share(interval, save_s, between_s, restart_s) == pytest.approx(played, rel=0.05)


def test_the_page_shows_what_the_script_prints(work: Work) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert markdown(table(work, CLUSTER, 40e3, 1800.0)) in page


def test_what_the_page_concludes(work: Work) -> None:
    """The sentences below the table that hold figures of their own."""
    samples = 2048
    for ranks, waits_fsdp, waits_hsdp in ((64, True, False), (1024, True, True)):
        tokens = samples * 320 / ranks
        assert (tokens < break_even_tokens(work, CLUSTER, ranks, ranks)) == waits_fsdp
        assert (tokens < break_even_tokens(work, CLUSTER, ranks, 8)) == waits_hsdp
    assert break_even_tokens(work, CLUSTER, 1024, 8) * 1024 / 320 == pytest.approx(7350, rel=0.01)
    moved = step_bytes(work, 1024, 8)
    assert moved["alignment"] / (moved["alignment"] + moved["sum over copies"]) == pytest.approx(
        0.25, abs=0.02
    )
    for ranks, times in ((64, 12), (1024, 8.5)):
        ratio = (
            step_times(work, CLUSTER, ranks, ranks)["network"]
            / step_times(work, CLUSTER, ranks, 8)["network"]
        )
        assert ratio == pytest.approx(times, rel=0.05)
