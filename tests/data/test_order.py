"""The order is a permutation of every epoch, a pure function, and local enough to read by block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.data.order import BlockShuffle

SIZES = st.lists(st.integers(1, 70), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 20), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_every_epoch_takes_every_row_once(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    order = BlockShuffle(np.array(sizes), seed=(seed,), window=window)
    num_rows = sum(sizes)
    seen = [order.locate(epoch * num_rows + position) for position in range(num_rows)]
    assert sorted(seen) == [(b, r) for b, size in enumerate(sizes) for r in range(size)]


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), visits=st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_a_visit_does_not_depend_on_those_before(sizes: list[int], seed: int, visits: list[int]) -> None:
    used = BlockShuffle(np.array(sizes), seed=(seed,), window=4)
    for visit in visits:
        assert used.locate(visit) == BlockShuffle(np.array(sizes), seed=(seed,), window=4).locate(visit)


def test_rows_of_few_blocks_are_open_at_a_time() -> None:
    order = BlockShuffle(np.full(100, 64), seed=(0,), window=8)
    blocks = [order.locate(visit)[0] for visit in range(6400)]
    for start in range(0, 6400, 512):
        assert len(set(blocks[start : start + 512])) <= 8 + 1


def test_epochs_and_seeds_differ_and_rows_are_mixed() -> None:
    def first(seed: int, epoch: int) -> list[tuple[int, int]]:
        order = BlockShuffle(np.full(40, 64), seed=(seed,), window=16)
        return [order.locate(epoch * 2560 + n) for n in range(200)]

    assert first(0, 0) != first(0, 1) != first(1, 0) != first(0, 0)
    neighbours = sum(b == (a[0], a[1] + 1) for a, b in zip(first(0, 0)[:-1], first(0, 0)[1:], strict=True))
    assert neighbours < 5


@pytest.mark.parametrize(("sizes", "window"), [([], 4), ([3], 0)])
def test_what_cannot_be_ordered_is_refused(sizes: list[int], window: int) -> None:
    with pytest.raises(ValueError, match=r"expected at least 1|no rows"):
        BlockShuffle(np.array(sizes, dtype=np.int64), seed=(0,), window=window)


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_ranks_share_out_the_blocks(world_size: int) -> None:
    """Not only the samples: nobody reads a row group of which it uses one row in sixteen."""
    order = BlockShuffle(np.full(160, 64), seed=(0,), window=16)
    read = [
        {order.locate(visit)[0] for visit in range(rank, 160 * 64, world_size)} for rank in range(world_size)
    ]
    assert [len(blocks) for blocks in read] == [160 // world_size] * world_size
