"""Rows that join, leave and move keep what is theirs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.model.kv_cache import KVCache


def write(
    cache: KVCache, rows: list[int], values: list[list[float]], *, commit: bool = True
) -> list[list[float]]:
    """Write values into rows (padded columns hold -1); return what a step sees of each row."""
    T = max(map(len, values))
    padded = torch.tensor([[*v, *[-1.0] * (T - len(v))] for v in values])[:, None, :, None]
    cache.begin(rows, [len(v) for v in values])
    lengths = [cache.lengths[row] + len(v) for row, v in zip(rows, values, strict=True)]
    seen = [layer.put(padded, -padded) for layer in cache.layers]
    if commit:
        cache.commit()
    for keys, stored in seen:
        torch.testing.assert_close(keys, -stored)
    return [seen[-1][0][b, 0, :n, 0].tolist() for b, n in enumerate(lengths)]


def test_padding_columns_never_overwrite_tokens() -> None:
    cache = KVCache(1, max_tokens=1000)
    rows = [cache.add_row(), cache.add_row()]
    assert write(cache, rows, [[0, 1, 2, 3], [4, 5]]) == [[0, 1, 2, 3], [4, 5]]
    assert write(cache, rows, [[10], [20, 21]]) == [[0, 1, 2, 3, 10], [4, 5, 20, 21]]
    assert cache.lengths == [5, 4]


def test_what_is_not_committed_is_overwritten() -> None:
    cache = KVCache(2, max_tokens=1000)
    row = cache.add_row()
    write(cache, [row], [[1, 2]])
    assert write(cache, [row], [[7, 8, 9]], commit=False) == [[1, 2, 7, 8, 9]]
    assert write(cache, [row], [[3]]) == [[1, 2, 3]]


def test_neighbouring_rows_are_seen_without_a_copy() -> None:
    cache = KVCache(1, max_tokens=1000)
    rows = [cache.add_row() for _ in range(4)]
    write(cache, rows, [[1], [2, 2], [3], [4]])
    storage = cache.layers[0].keys
    assert storage is not None
    new = torch.zeros(2, 1, 1, 1)
    for chosen, is_view in (([1, 2], True), ([3], True), ([0, 2], False)):
        cache.begin(chosen, [1] * len(chosen))
        keys, _ = cache.layers[0].put(new[: len(chosen)], new[: len(chosen)])
        inside = storage.data_ptr() <= keys.data_ptr() < storage.data_ptr() + 4 * storage.numel()
        assert inside == is_view


def test_a_step_over_the_budget_is_an_error() -> None:
    cache = KVCache(1, max_tokens=6)
    rows = [cache.add_row(), cache.add_row()]
    write(cache, rows, [[1, 2, 3], [4]])
    with pytest.raises(ValueError, match="2 sequences of up to 4 positions need more than the cache's 6"):
        cache.begin(rows, [1, 1])


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(1, 70)), max_size=60),
    st.integers(0, 99),
)
def test_rows_keep_what_is_theirs(actions: list[tuple[int, int, int]], seed: int) -> None:
    """Against a list of lists."""
    budget = 2000
    cache = KVCache(2, max_tokens=budget)
    rows: list[list[float]] = []
    kept: list[tuple[torch.Tensor, list[float]]] = []
    number = float(seed)
    for action, which, count in actions:
        row = which % len(rows) if rows else 0
        longest = max([len(r) for r in rows], default=0)
        if action <= 1 or not rows:
            if (len(rows) + 1) * longest <= budget:
                assert cache.add_row() == len(rows)
                rows.append([])
        elif action == 2:
            chosen = sorted({row, (row + count) % len(rows)})
            if len(rows) * (longest + count) <= budget:
                new = [
                    [number + i for i in range(1 + (count * (b + 1)) % count if b else count)]
                    for b in range(len(chosen))
                ]
                number += 100
                for r, values in zip(chosen, new, strict=True):
                    rows[r] = rows[r] + values
                assert write(cache, chosen, new) == [rows[r] for r in chosen]
        elif action == 3:
            cache.drop_row(row)
            last = rows.pop()
            if row < len(rows):
                rows[row] = last
        elif action == 4:
            other = (row + count) % len(rows)
            cache.swap_rows(row, other)
            rows[row], rows[other] = rows[other], rows[row]
        elif action == 5 and rows[row] and (len(rows) + 1) * longest <= budget:
            length = 1 + count % len(rows[row])
            new_row = cache.add_row()
            cache.copy_prefix(row, new_row, length)
            rows.append(rows[row][:length])
        elif action == 6 and cache.layers[0].keys is not None:
            if rows[row]:
                kept.append((cache.export_row(row), list(rows[row])))
            if kept:
                exported, values = kept[which % len(kept)]
                length = 1 + count % len(values)
                others = max([len(r) for n, r in enumerate(rows) if n != row], default=0)
                if len(rows) * max(others, length) <= budget:
                    cache.lengths[row] = 0
                    cache.import_row(row, exported, length)
                    rows[row] = values[:length]
        assert cache.lengths == [len(r) for r in rows]
        assert cache.num_tokens <= budget
    for row, values in enumerate(rows):
        if values:
            assert cache.export_row(row)[0, 0, :, 0].tolist() == values
