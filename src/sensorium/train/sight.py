"""What can be seen of a step: losses by task and source, norms by part of the model, amounts a second, MFU.

Nothing here waits for the device: what comes from it stays a tensor until the log is written.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from sensorium.config import ModelConfig
from sensorium.losses import Loss, count_by_document
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.model.flops import StepFlops
from sensorium.sequence.packing import Batch
from sensorium.train.parallel import Shards


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: ``encoders.image``, ``layers``, ``norm``."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first in ("encoders", "media_heads") else first


class TaskLosses:
    """Losses of a step by task and by source, of this rank's documents: ``text/noto/pair`` and ``text/noto``."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, batch: Batch, losses: Mapping[str, Loss]) -> None:
        """Take in a micro-batch, which is in the main memory, and its losses, which need not be."""
        counts = count_by_document(batch, self.config)
        tasks = list(dict.fromkeys(batch.tasks))
        task_D = torch.tensor([tasks.index(task) for task in batch.tasks])
        for name, counts_D in counts.items():
            sums_D = losses[name].parts
            assert sums_D is not None
            index_D = task_D.to(sums_D.device, non_blocking=True)
            sums = sums_D.new_zeros(len(tasks)).index_add(0, index_D, sums_D).unbind()
            own = torch.zeros(len(tasks)).index_add(0, task_D, counts_D.float()).tolist()
            for task, value, count in zip(tasks, sums, own, strict=True):
                for key in (f"{name}/{task}", f"{name}/{task.rpartition('/')[0]}") if count else ():
                    self.sums[key] = self.sums[key] + value if key in self.sums else value
                    self.counts[key] += count

    def means(self) -> dict[str, Tensor]:
        """Key -> mean over what is supervised."""
        return {key: self.sums[key] / self.counts[key] for key in sorted(self.sums)}


class Norms:
    """Norms by part of the model, over all ranks: of gradients, and of updates relative to the weights."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.parts = list(dict.fromkeys(map(part_of, shards.parameters)))
        self.before: list[Tensor] = []

    def of_gradients(self) -> dict[str, Tensor]:
        """``grad_norm/PART``, before clipping."""
        grads = {n: p.grad for n, p in self.shards.parameters.items() if p.grad is not None}
        rows = {n: (g.to_local() if isinstance(g, DTensor) else g).detach() for n, g in grads.items()}
        return {f"grad_norm/{part}": norm for part, norm in self._norms(rows).items()}

    def remember_weights(self) -> None:
        """Before the update."""
        self.before = [weight.detach().clone() for weight in self.shards.local.values()]

    def of_updates(self) -> dict[str, Tensor]:
        """``update_ratio/PART``: the norm of the update over the norm of the weights after it."""
        weights = {name: weight.detach() for name, weight in self.shards.local.items()}
        changes = torch._foreach_sub(list(weights.values()), self.before)
        self.before = []
        updates, norms = self._norms(dict(zip(weights, changes, strict=True))), self._norms(weights)
        return {f"update_ratio/{part}": updates[part] / norms[part].clamp_min(1e-12) for part in self.parts}

    def _norms(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From the rows that this rank holds of each tensor."""
        squares = torch.stack(torch._foreach_norm(list(rows.values()))).square()
        mesh = self.shards.ranks.mesh
        if mesh is not None:
            # What is not sharded is on every rank of the group.
            whole = [not isinstance(self.shards.parameters[name], DTensor) for name in rows]
            squares = squares / torch.tensor([self.shards.size if w else 1 for w in whole]).to(squares)
        index = torch.tensor([self.parts.index(part_of(name)) for name in rows]).to(squares.device)
        sums = squares.new_zeros(len(self.parts)).index_add(0, index, squares)
        if mesh is not None:
            dist.all_reduce(sums, group=self.shards.group)
        return dict(zip(self.parts, sums.sqrt().unbind(), strict=True))


class Amounts:
    """What a step holds, and how much of it goes through in a second."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.flops = StepFlops(config)
        self._peak: float | None = None

    def of(self, batches: Sequence[Batch]) -> dict[str, float]:
        """FLOPs, seconds of sound, and items of every other kind of medium, seen or generated."""
        out = {"flops": sum(map(self.flops, batches))}
        for name, modality in self.config.modalities.items():
            groups = [group[name] for b in batches for group in (b.context, b.targets) if name in group]
            if name == "audio":
                rows = sum(int(media.grids_N2[:, 0].sum()) for media in groups)
                out["audio_s"] = rows * modality.patch[0] * HOP_LENGTH / SAMPLE_RATE
            else:
                out[f"{name}s"] = sum(len(media.grids_N2) for media in groups)
        return out

    def rates(self, amounts: Mapping[str, float], step_s: float, world_size: int) -> dict[str, float]:
        """``images_per_s``, ``audio_s_per_s``, and ``mfu``: FLOPs over those of plain matrix products."""
        if self._peak is None:
            self._peak = measure_peak_flops(self.device, self.dtype)
        rates = {f"{name}_per_s": value / step_s for name, value in amounts.items() if name != "flops"}
        return {**rates, "mfu": amounts["flops"] / step_s / (self._peak * world_size)}


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of square matrix products, the best of a few: what this device can do at all."""
    size, repeats = (8192, 4) if device.type == "cuda" else (1024, 4)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        a @ b
        _synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * size**3 / best_s


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
