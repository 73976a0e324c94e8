"""What one rank receives in a training step: ``torchrun -m tests.distributed.count FOLDER``; rank 0 prints JSON."""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sensorium.train.trainer import Trainer
from tests.distributed.run import mixed_run

# Kind of collective -> how often all but its own part of the largest tensor (of all given) reaches a rank.
KINDS: dict[str, tuple[str, int, Callable[..., int]]] = {
    "_allgather_base_": ("gather", 1, max),
    "_reduce_scatter_base_": ("reduce", 1, max),
    "alltoall_base_": ("exchange", 1, max),
    "allgather_": ("rows", 1, max),  # its outputs are counted apart, see below
    "allreduce_": ("sum", 2, sum),  # as a ring does it: reduce and scatter, then gather
}


class Count(TorchDispatchMode):
    """Bytes that a rank receives through collectives, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            leaves = tree_leaves(args)
            group = next(leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject))
            size = dist.ProcessGroup.unbox(group).size()
            name, times, of = KINDS[func._schema.name.removeprefix("c10d::")]
            sizes = [leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor)]
            whole = size * max(sizes) if name == "rows" else of(sizes)
            self.bytes[name] += times * whole * (size - 1) // size
        return func(*args, **(kwargs or {}))


def main(folder: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        config = mixed_run(Path(folder), optimizer="muon", log_every=100)
        trainer = Trainer(config, Path(out))
        batches = [batch for _, batch in islice(trainer.loader.stream(0, 1), 1)]
        pairs = trainer.ranks.share(pairs=len(batches[0].emb_a_M))["pairs"]
        with Count() as count:
            trainer.train_step(batches)
        if trainer.ranks.is_main:
            sharded = {n: p.numel() for n, p in trainer.shards.parameters.items() if p.ndim}
            trunk = sum(size for name, size in sharded.items() if name.startswith("layers."))
            found = {
                "bytes": count.bytes,
                "trunk": trunk,
                "root": sum(sharded.values()) - trunk,
                "matrices": sum(sharded[name] for name in trainer.shards.owner),
                "pairs": max(pairs),
            }
            print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
