"""The order of samples as a pure function of (seed, epoch, index): nothing is stored, so resuming is instant.

Blocks (row groups) are shuffled over the whole source, then rows are shuffled within windows of neighbouring
blocks. Reading stays sequential enough for discs and object stores, and only one window is held at a time.
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
        sizes = self.block_sizes[blocks]
        rows = np.concatenate([np.arange(size) for size in sizes])
        mixed = np.random.default_rng([*self.seed, epoch, window + 1]).permutation(len(rows))
        return np.repeat(blocks, sizes)[mixed], rows[mixed]

    def __getstate__(self) -> dict[str, object]:
        return {"block_sizes": self.block_sizes, "seed": self.seed, "window": self.window}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]
