"""The order of samples as a pure function of (seed, epoch, index): nothing is stored, so resuming is instant.

Blocks (row groups) are shuffled over the whole source, and the rows of a window of neighbouring blocks are dealt out
in turns: one row, drawn at random, of the first block, one of the second, and so on. Reading stays sequential enough
for discs and object stores, only one window is held at a time, and a rank that takes every k-th sample meets only
every k-th block, whatever the number of ranks is.
"""

from functools import lru_cache

import numpy as np


class BlockShuffle:
    """A new permutation of all rows of a source in every epoch.

    Args:
        block_sizes: rows of each block, ``[blocks]``.
        seed: any integers; the order depends on them and on the epoch, on nothing else.
        window: blocks whose rows are mixed with each other.
    """

    def __init__(self, block_sizes: np.ndarray, *, seed: tuple[int, ...], window: int = 16) -> None:
        if window < 1:
            raise ValueError(f"a shuffle window of {window} blocks; expected at least 1")
        self.block_sizes = np.asarray(block_sizes, dtype=np.int64)
        self.num_rows = int(self.block_sizes.sum())
        if not self.num_rows:
            raise ValueError("there are no rows to put in order; check the path and the split")
        self.seed, self.window = seed, window
        # Each cache holds what one epoch, or the windows around one place in it, need.
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._rows = lru_cache(maxsize=4)(self._plan_window)

    def locate(self, visit: int) -> tuple[int, int]:
        """Block, and row within it, of the ``visit``-th sample since the beginning of training."""
        epoch, position = divmod(visit, self.num_rows)
        _, starts = self._epoch(epoch)
        window = int(np.searchsorted(starts, position, side="right")) - 1
        blocks, rows = self._rows(epoch, window)
        at = position - int(starts[window])
        return int(blocks[at]), int(rows[at])

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in order, and the position at which each window starts."""
        order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.block_sizes))
        ends = np.cumsum(self.block_sizes[order])
        return order, np.concatenate([[0], ends[self.window - 1 : -1 : self.window]])

    def _plan_window(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Block and row of every position in a window."""
        order, _ = self._epoch(epoch)
        blocks = order[window * self.window : (window + 1) * self.window]
        rng = np.random.default_rng([*self.seed, epoch, window + 1])
        rows = [rng.permutation(size) for size in self.block_sizes[blocks]]
        # Sorted by turn, then by block: the turn of a row is its place in its block's own permutation.
        turns = np.concatenate([np.arange(len(mixed)) for mixed in rows])
        dealt = np.argsort(turns, kind="stable")
        return np.repeat(blocks, self.block_sizes[blocks])[dealt], np.concatenate(rows)[dealt]

    def __getstate__(self) -> dict[str, object]:
        return {"block_sizes": self.block_sizes, "seed": self.seed, "window": self.window}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]
