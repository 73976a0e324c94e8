"""Keys and values of sequences that join and leave between steps.

A row is a sequence. Rows are of lengths of their own, without padding on the left; row r of the storage is
sequence r, so a step over the first rows, over neighbouring rows or over one row reads them without a copy.

Shape legend: B rows of a step, T new positions, S positions so far, K kv heads, H head dim, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerCache:
    """One layer's keys and values ``[rows, K, capacity, H]``."""

    def __init__(self, owner: "KVCache") -> None:
        self.owner = owner
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def put(self, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the T new positions of the step that ``begin`` announced; return its keys and values ``[B, K, S, H]``."""
        owner = self.owner
        if self.keys is None or self.values is None:
            K, H = k_BKTH.shape[1], k_BKTH.shape[3]
            shape = (owner.num_slots, K, owner.capacity, H)
            self.keys, self.values = k_BKTH.new_zeros(shape), v_BKTH.new_zeros(shape)
        for storage, new in ((self.keys, k_BKTH), (self.values, v_BKTH)):
            if owner.start is not None:  # all rows are neighbours of one length
                storage[owner.span, :, owner.start : owner.end] = new
            else:
                storage[owner.rows_B[:, None], :, owner.slots_BT] = new.transpose(1, 2)
        if owner.span is not None:
            return self.keys[owner.span, :, : owner.end], self.values[owner.span, :, : owner.end]
        return (
            self.keys[:, :, : owner.end].index_select(0, owner.rows_B),
            self.values[:, :, : owner.end].index_select(0, owner.rows_B),
        )


class KVCache:
    """The rows of all sequences that are being worked on.

    A step calls ``begin`` with its rows, runs the trunk, and then either ``commit``s (the tokens are part of the
    sequences) or does not (a denoising step: the next one overwrites the same positions).

    Args:
        num_layers: of the trunk.
        max_tokens: budget: rows times the longest row, in positions; storage never exceeds it.
        device: where the storage lies.
    """

    def __init__(self, num_layers: int, *, max_tokens: int, device: torch.device | str = "cpu") -> None:
        self.layers = [LayerCache(self) for _ in range(num_layers)]
        self.max_tokens, self.device = max_tokens, torch.device(device)
        self.num_slots = self.capacity = 0  # of the storage
        self.lengths: list[int] = []  # of the rows in use
        self.rows_B = self.slots_BT = torch.zeros(0, dtype=torch.int64)
        self.span: slice | None = None  # the step's rows, where they are neighbours
        self.start: int | None = None  # their length, where it is one
        self.end = 0  # positions that the step's keys reach
        self._step: tuple[list[int], list[int]] = ([], [])

    @property
    def num_tokens(self) -> int:
        """Positions of the storage, used or not: what the budget bounds."""
        return self.num_slots * self.capacity

    def fits(self, num_rows: int, length: int) -> bool:
        """Whether so many rows of so many positions stay within the budget."""
        return num_rows * max(length, *self.lengths, 0) <= self.max_tokens

    def add_row(self) -> int:
        """A new empty row, the last one."""
        self.lengths.append(0)
        self._reserve(0)
        return len(self.lengths) - 1

    def drop_row(self, row: int) -> None:
        """Free a row; the last row moves into its place."""
        last = len(self.lengths) - 1
        if row != last:
            for storage in self._storages():
                storage[row, :, : self.lengths[last]] = storage[last, :, : self.lengths[last]]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def swap_rows(self, a: int, b: int) -> None:
        """Exchange two rows."""
        longest = max(self.lengths[a], self.lengths[b])
        pair = torch.tensor([a, b], device=self.device)
        for storage in self._storages():
            storage[pair, :, :longest] = storage[pair.flip(0), :, :longest]
        self.lengths[a], self.lengths[b] = self.lengths[b], self.lengths[a]

    def copy_prefix(self, source: int, row: int, length: int) -> None:
        """Make the first positions of one row the content of another."""
        assert length <= self.lengths[source]
        self._reserve(length)
        for storage in self._storages():
            storage[row, :, :length] = storage[source, :, :length]
        self.lengths[row] = length

    def export_row(self, row: int) -> Tensor:
        """A copy ``[2 L, K, S, H]`` of a row: keys and values of each layer in turn."""
        return torch.stack([storage[row, :, : self.lengths[row]] for storage in self._storages()])

    def import_row(self, row: int, kept: Tensor, length: int) -> None:
        """Make the first positions of an exported row the content of a row."""
        self._reserve(length)
        for storage, values in zip(self._storages(), kept, strict=True):
            storage[row, :, :length] = values[:, :length]
        self.lengths[row] = length

    def begin(self, rows: Sequence[int], num_new: Sequence[int]) -> None:
        """Announce that row ``rows[b]`` brings ``num_new[b]`` tokens, left-aligned in T columns.

        Columns past a row's own count are padding: they are written past its end, where nothing sees them and
        the next tokens overwrite them.

        Raises:
            ValueError: the budget cannot hold the step.
        """
        num_columns = max(num_new)
        lengths = [self.lengths[row] for row in rows]
        self.end = max(lengths) + num_columns
        if not self.fits(len(self.lengths), self.end):
            raise ValueError(
                f"{len(self.lengths)} sequences of up to {self.end} positions need more than the cache's "
                f"{self.max_tokens}; raise cache_tokens, or shorten the prompt or the answer"
            )
        self._reserve(self.end)
        first = rows[0]
        together = list(rows) == list(range(first, first + len(rows)))
        self.span = slice(first, first + len(rows)) if together else None
        self.start = lengths[0] if together and min(lengths) == max(lengths) else None
        self.rows_B = torch.tensor(list(rows), device=self.device)
        past_B = torch.tensor(lengths, device=self.device)
        self.slots_BT = past_B[:, None] + torch.arange(num_columns, device=self.device)
        self._step = (list(rows), list(num_new))

    def commit(self) -> None:
        """Make the tokens of the last ``begin`` part of their sequences."""
        for row, count in zip(*self._step, strict=True):
            self.lengths[row] += count
        self._step = ([], [])

    def _storages(self) -> list[Tensor]:
        """Keys and values of every layer that has been written."""
        pairs = [(layer.keys, layer.values) for layer in self.layers]
        return [storage for pair in pairs for storage in pair if storage is not None]

    def _reserve(self, length: int) -> None:
        """Make the storage hold all rows up to ``length``: by half as much again, so that copies are rare."""
        rows = len(self.lengths)
        if rows <= self.num_slots and length <= self.capacity:
            return
        longest = max(length, *self.lengths)
        slots, capacity = self.num_slots, self.capacity
        if rows > slots:
            slots = max(rows, slots * 3 // 2, 4)
        if length > capacity:
            capacity = max(length, capacity * 3 // 2, 64)
        if slots * capacity > self.max_tokens:
            slots = max(rows, min(slots, self.max_tokens // capacity))
            capacity = max(longest, min(capacity, self.max_tokens // slots))
        assert slots * capacity <= self.max_tokens, (slots, capacity, self.max_tokens)
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                if old is not None:
                    new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
                    kept, held = min(rows, self.num_slots), min(longest, self.capacity)
                    new[:kept, :, :held] = old[:kept, :, :held]
                    setattr(layer, name, new)
        self.num_slots, self.capacity = slots, capacity
