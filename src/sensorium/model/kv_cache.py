"""Keys and values of a prompt, kept so that each new token costs one position.

Each row has its own length, so prompts of different lengths share a batch without left padding.
"""

import torch
from torch import Tensor


class LayerCache:
    """One layer's keys and values ``[B, K, S, H]``; S grows as positions are written."""

    def __init__(self, owner: "KVCache") -> None:
        self.owner = owner
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def put(self, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions at the owner's slots and return all S keys and values."""
        B, K, _, H = k_BKTH.shape
        if self.keys is None or self.values is None:
            shape = (B, K, self.owner.capacity, H)
            self.keys, self.values = k_BKTH.new_zeros(shape), v_BKTH.new_zeros(shape)
        slots = self.owner.slots_BT[:, None, :, None].expand(-1, K, -1, H)
        self.keys.scatter_(2, slots, k_BKTH)
        self.values.scatter_(2, slots, v_BKTH)
        end = self.owner.end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """The cache of a batch.

    A step calls ``begin`` with the slots it writes, runs the trunk, and then either ``commit``s (the tokens
    are part of the sequence) or does not (a denoising step: the next one overwrites the same slots).

    Args:
        num_layers: of the trunk.
        batch_size: rows.
        capacity: positions a row can hold.
    """

    def __init__(self, num_layers: int, batch_size: int, capacity: int) -> None:
        self.layers = [LayerCache(self) for _ in range(num_layers)]
        self.capacity = capacity
        self.lengths_B = torch.zeros(batch_size, dtype=torch.int64)
        self.slots_BT = torch.zeros(batch_size, 0, dtype=torch.int64)
        self.end = 0
        self._new_B = torch.zeros(batch_size, dtype=torch.int64)

    def begin(self, num_new_B: Tensor) -> None:
        """Announce that row b brings ``num_new_B[b]`` tokens, left-aligned in T columns.

        Columns past a row's own count are padding: they are written past its end, where nothing sees them and
        the next tokens overwrite them.
        """
        num_columns = int(num_new_B.max())
        self.slots_BT = self.lengths_B[:, None] + torch.arange(num_columns)
        self.end = int(self.lengths_B.max()) + num_columns
        if self.end > self.capacity:
            raise ValueError(
                f"the sequence needs {self.end} positions and the cache holds {self.capacity}; "
                "shorten the prompt or lower max_tokens"
            )
        self._new_B = num_new_B

    def commit(self) -> None:
        """Make the tokens of the last ``begin`` part of the sequence."""
        self.lengths_B = self.lengths_B + self._new_B

    def select(self, rows: Tensor) -> "KVCache":
        """A cache with copies of some rows, in the order given (rows may repeat)."""
        out = KVCache(len(self.layers), len(rows), self.capacity)
        out.lengths_B = self.lengths_B[rows].clone()
        for mine, theirs in zip(self.layers, out.layers, strict=True):
            if mine.keys is not None and mine.values is not None:
                theirs.keys, theirs.values = mine.keys[rows].clone(), mine.values[rows].clone()
        return out
