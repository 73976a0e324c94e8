"""How much memory a training step needs: predicted from shapes alone, and measured.

The prediction runs the step's own code on fake tensors, which have shapes and a device but no memory, and keeps count
of every storage from the operation that makes it to the moment it is dropped. So it follows the code, whatever
attention, checkpointing or optimiser that has; scratch space inside a kernel is not seen. Tensors of integers (tokens,
documents, grids) stay real, because shapes depend on what they hold.
"""

import ctypes
import dataclasses
import gc
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sensorium.config import RunConfig
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.packing import Batch, map_arrays
from sensorium.train.optimizer import EMA, MuonAdamW
from sensorium.train.parallel import Ranks, Shards, prepare_model
from sensorium.train.step import share_facts, step_losses, total_loss

_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_OWN_MAPPING = (
    64 * 1024
)  # bytes from which an allocation goes back to the system at once while memory is measured


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that live at the peak of a step, by term; they add up to ``peak``.

    Args:
        weights, gradients, optimizer: of the model and its optimiser; average: the moving average of the weights.
        batch: tokens and media.
        activations: what the forward pass keeps for the backward pass, and temporaries.
        phase: where the peak is: "forward", "backward" or "update".
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    batch: int
    activations: int
    phase: str

    @property
    def terms(self) -> dict[str, int]:
        """Term -> bytes."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "phase"}

    @property
    def peak(self) -> int:
        """The most that lives at one time, in bytes."""
        return sum(self.terms.values())


def estimate_memory(config: RunConfig, batches: Sequence[Batch], device: torch.device) -> MemoryEstimate:
    """What a step of one process will need, without allocating it.

    Args:
        batches: the micro-batches of a step, the largest of the run, say; their integers are looked at, their media
            only for their shapes.
        device: where the step would run; kernels, and so what they keep, differ between devices.
    """
    # A compiled block keeps less, if anything.
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=False))
    fake = FakeTensorMode()
    with fake, device:
        parts = Parts(config, device)
    batches = [
        map_arrays(batch, lambda t: fake.from_tensor(t) if t.is_floating_point() else t, Tensor)
        for batch in batches
    ]
    fixed = {
        "weights": _num_bytes(parts.model.state_dict()),
        "average": _num_bytes(parts.ema.weights),
        "batch": sum(map(_num_bytes, batches)),
    }
    tally = _Tally(fake)
    for value in (parts.model.state_dict(), parts.ema.weights, *batches):
        map_arrays(value, tally.count, Tensor)
    parameters = [p for p in parts.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(tally.note_gradient)
    with tally:
        # The optimiser's state comes into being in the first step and is there in every other.
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
            tally.note_gradient(parameter)
        parts.optimizer.step()
        state = tally.live - tally.gradients - sum(fixed.values())
        tally.peak = tally.live
        parts.step(batches, tally.enter)
    rest = state + tally.gradients_at_peak + sum(fixed.values())
    return MemoryEstimate(
        **fixed,
        optimizer=state,
        gradients=tally.gradients_at_peak,
        activations=tally.peak - rest,
        phase=tally.phase_at_peak,
    )


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """What a real step was seen to do.

    Args:
        peak: bytes, comparable with ``MemoryEstimate.peak``; None where the system does not tell.
        losses: of the second step.
    """

    peak: int | None
    losses: dict[str, float]


def measure_step(config: RunConfig, batches: Sequence[Batch], device: torch.device) -> MeasuredStep:
    """Build the model and take two real steps on the same batches.

    On a CPU the peak is the growth of the process's resident memory, with every large tensor given back to the
    system at once: what steps need, not what an allocator keeps. Afterwards this process allocates slowly.
    """
    num_bytes = sum(map(_num_bytes, batches))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        losses = _two_steps(config, batches, device)
        return MeasuredStep(peak=torch.cuda.max_memory_allocated(device) - before, losses=losses)
    if not _return_freed_memory():
        losses = _two_steps(config, batches, device)
        return MeasuredStep(peak=None, losses=losses)
    # Libraries load their code and set up threads in a first step; that is no part of the model's need.
    small = dataclasses.replace(config.model, dim=64, num_layers=1, mlp_dim=64, num_heads=1, num_kv_heads=1)
    _two_steps(dataclasses.replace(config, model=small), batches, device)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (man 5 proc)
    losses = _two_steps(config, batches, device)
    return MeasuredStep(peak=_proc_bytes("VmHWM") - before + num_bytes, losses=losses)


def _two_steps(config: RunConfig, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Losses of the second step."""
    parts = Parts(config, device)
    for _ in range(2):
        losses = {name: float(value) for name, value in parts.step(batches, lambda phase: None).items()}
    return losses


class Parts:
    """What a trainer of one process holds while it trains, and its step without a run around it."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.ranks = config, Ranks(device=device)
        self.model = Sensorium(config.model)
        prepare_model(self.model, config.train, self.ranks)
        self.shards = Shards(self.model, self.ranks)
        self.optimizer = MuonAdamW(self.shards, config.train)
        self.ema = EMA(self.shards, config.train.ema_decay)

    def step(self, batches: Sequence[Batch], enter: Callable[[str], None]) -> dict[str, Tensor]:
        """The trainer's step; ``enter`` hears of each phase. Returns the sum of every loss over its count."""
        enter("forward")
        self.shards.zero_grad()
        facts = share_facts(batches, self.config, self.ranks)
        means: dict[str, Tensor] = {}
        for losses in step_losses(self.model, batches, facts, self.config, self.ranks):
            total, own = total_loss(losses, self.config.train)
            del losses
            enter("backward")
            total.backward()
            enter("forward")
            means = {name: means.get(name, 0) + mean.detach() for name, mean in own.items()}
        enter("update")
        self.shards.clip_(self.config.train.grad_clip)
        self.optimizer.step()
        self.ema.update(self.shards, 1)
        return means


class _Tally(TorchDispatchMode):
    """Counts the bytes of every storage while it lives; lets fake and real tensors meet."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake, self.phase = fake, ""
        self.live, self.gradients = 0, 0
        self.peak, self.gradients_at_peak, self.phase_at_peak = 0, 0, ""
        self._sizes: dict[int, int] = {}
        self._of_gradients: set[int] = set()

    def enter(self, phase: str) -> None:
        """What follows belongs to this phase."""
        self.phase = phase

    def note_gradient(self, parameter: Tensor) -> None:
        """A parameter has its gradient now."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._sizes and key not in self._of_gradients:
            self._of_gradients.add(key)
            self.gradients += self._sizes[key]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            if func is torch.ops.aten._local_scalar_dense.default:
                return 1.0  # a figure for a log; no shape hangs on it
            if func._schema.name in _INDEXING:
                args = (args[0], _without_masks(args[1]), *args[2:])
            args, kwargs = tree_map_only(Tensor, self._as_fake, (args, kwargs))
        out = func(*args, **kwargs)
        tree_map_only(Tensor, self.count, out)
        return out

    def _as_fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        weakref.finalize(storage, self._drop, key)
        self.live += self._sizes[key]
        if self.live > self.peak:
            self.peak, self.gradients_at_peak, self.phase_at_peak = self.live, self.gradients, self.phase

    def _drop(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live -= size
        if key in self._of_gradients:
            self._of_gradients.remove(key)
            self.gradients -= size


def _without_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Boolean masks as integer indices: how many they select is known, because masks come of a batch's integers."""
    out: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool
        out += index.nonzero().unbind(1) if index is not None and is_mask else [index]
    return out


def _num_bytes(value: Any) -> int:
    """Of all tensors in a batch or a dictionary."""
    found: list[int] = []
    map_arrays(value, lambda t: found.append(t.nbytes), Tensor)
    return sum(found)


def _return_freed_memory() -> bool:
    """Make the C library give large tensors back to the system when they are dropped; False where it cannot."""
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "malloc_trim"):
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3
    return bool(libc.mallopt(m_mmap_threshold, _OWN_MAPPING) and libc.mallopt(m_trim_threshold, _OWN_MAPPING))


def available_bytes(device: torch.device) -> int | None:
    """Memory that a run could have now; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def resident_bytes() -> int:
    """Memory of this process that is in use now (Linux)."""
    return _proc_bytes("VmRSS")


def _proc_bytes(name: str) -> int:
    """A line of /proc/self/status, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
