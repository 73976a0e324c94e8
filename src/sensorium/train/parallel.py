"""Many devices: the ranks of a run, how the model is spread over them, and what each of them holds.

Nothing in the model knows of this. ``train.launch`` starts the ranks; FSDP2 (arXiv 2304.11277) shards parameters, gradients
and optimiser state over them by rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from sensorium.config import TrainConfig
from sensorium.model.heads import is_head


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of the run.

    Args:
        rank: number of this process. world_size: how many there are.
        device: what it computes on.
        mesh: (replicate, shard): parameters are spread over the second axis and repeated along the first.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, **values: float) -> dict[str, list[float]]:
        """Every rank's value of each name, in the order of ranks. Numbers of the host: no device is waited for."""
        rows = self.gather(torch.tensor(list(values.values()), dtype=torch.float64))
        return {name: [float(row[column]) for row in rows] for column, name in enumerate(values)}

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor; all have one shape, and lie on the host or on the ranks' devices."""
        if self.world_size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(found, tensor.contiguous())
        return found

    def gather_rows(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows of all ranks, one below the other.

        Args:
            rows: ``[counts[rank], ...]``.
        """
        return rows if self.world_size == 1 else _gather_rows(rows, counts, None)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up in place over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def check(self, error: BaseException | None = None) -> None:
        """Meet; where one rank has failed, all fail.

        Raises:
            OSError: the error of this rank, or word of another's.
        """
        failed = [rank for rank, value in enumerate(self.share(failed=error is not None)["failed"]) if value]
        if error is not None:
            raise error
        if failed:
            raise OSError(f"rank {failed[0]} failed; its own message says why")


def _gather_rows(rows: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded, group=group)
    return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])


def prepare_model(model: nn.Module, config: TrainConfig, ranks: Ranks) -> None:
    """Make a model ready to train, in place: what is not to be trained is frozen, then (the order matters):

    1. *Activation checkpointing* of each block of the trunk, innermost: what it recomputes is the plain block, and the
       compiler sees the recomputation and can fuse it.
    2. *Compile* each block: the graph holds no collective, so that it does not break, and one compilation serves all
       blocks.
    3. *Sharding*, outermost: its hooks gather a block's parameters before the compiled block runs and give them back
       after it.

    Only the blocks of the trunk are gathered one by one. Everything else belongs to the root, which is gathered once a
    step: the collectives then are the same on every rank, whatever media its batch holds.
    """
    blocks: list[Any] = list(model.layers)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and _is_trained(name, model, config))
    if any(parameter.device.type != ranks.device.type for parameter in model.parameters()):
        model.to(
            ranks.device
        )  # not where it is there: tensors without memory (``train.memory``) cannot be moved
    if config.activation_checkpointing:
        for block in blocks:
            # Its forward, not a wrapper around it: names of parameters stay as they are.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if config.compile:
        for block in blocks:
            block.compile()
    if ranks.mesh is not None:
        _shard(model, blocks, ranks.mesh)


def _is_trained(name: str, model: Any, config: TrainConfig) -> bool:
    if config.trained == "spellers":
        parts = [f"{part}.{modality}." for modality in model.spellers for part in ("encoders", "spellers")]
        return name.startswith(tuple(parts))
    return config.trained == "all" or is_head(name)


def _shard(model: nn.Module, blocks: list[Any], mesh: DeviceMesh) -> None:
    # Everything travels in full precision: autocast alone chooses what each operation computes in, as on one device.
    # Parameters cast by FSDP would halve the gathering, but norms and embeddings would then train otherwise than there.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy}
    for block in blocks:
        fully_shard(block, **options)
    # FSDP2 takes no parameters without dimensions; those are kept whole on every rank (``Shards``).
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    fully_shard(model, **options, ignored_params=scalars)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by global counts: gradients are sums. Gloo knows no other reduction than a sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def use_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16: where asked for, and by default on a GPU that can."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass(frozen=True)
class Piece:
    """The rows of a tensor that this rank holds.

    Args:
        tensor: ``[num_rows, ...]``, sharing memory with the model.
        start: number of the first row.
        shape: of the whole tensor.
        is_saved: whether this rank is the one to save it (a tensor may be the same on several ranks).
    """

    tensor: Tensor
    start: int
    shape: torch.Size
    is_saved: bool


class Shards:
    """A model as one rank's optimiser, average and checkpoint see it: plain tensors with the names of the model.

    On one process they are the model's own. Under FSDP2 each parameter is the rows that this rank holds; AdamW and the
    average work on rows. Muon needs whole matrices: each belongs to one rank, which alone gets its whole gradient,
    holds its momentum and a second copy of its weights, and sends the rows of the new weights back. Gradients and
    weights travel once each, in one exchange for all matrices; nothing is computed twice.

    Args:
        is_whole: (name, parameter) -> whether the optimiser needs it whole.
    """

    def __init__(
        self, model: nn.Module, ranks: Ranks, is_whole: Callable[[str, nn.Parameter], bool] = lambda *_: False
    ) -> None:
        self.model, self.ranks = model, ranks
        self.parameters = dict(model.named_parameters())
        self.local: dict[str, nn.Parameter] = {n: _local(p) for n, p in self.parameters.items()}
        self.buffers = {n: value for n, value in model.state_dict().items() if n not in self.parameters}
        self.whole: dict[str, nn.Parameter] = {}
        self.owner: dict[str, int] = {}
        if ranks.mesh is not None:
            self.group = ranks.mesh["shard"].get_group()
            self.number, self.size = ranks.mesh["shard"].get_local_rank(), ranks.mesh["shard"].size()
            matrices = {name: p for name, p in self.parameters.items() if is_whole(name, p)}
            if matrices:
                self._assign(matrices)

    def _assign(self, matrices: dict[str, nn.Parameter]) -> None:
        """Share out whole matrices, largest first, each to the rank with the least so far."""
        load = [0] * self.size
        for name, parameter in sorted(matrices.items(), key=lambda item: (-item[1].numel(), item[0])):
            owner = min(range(self.size), key=load.__getitem__)
            load[owner] += parameter.numel()
            self.owner[name] = owner
        for name, value in self._to_owners({name: self.local[name].detach() for name in self.owner}).items():
            self.whole[name] = nn.Parameter(value)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What this rank's optimiser updates."""
        for name in self.parameters:
            if name not in self.owner:
                yield name, self.local[name]
            elif name in self.whole:
                yield name, self.whole[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The rows of every tensor of the model that this rank holds."""
        return {name: parameter.detach() for name, parameter in self.local.items()} | self.buffers

    def shape(self, name: str) -> torch.Size:
        """Of a whole tensor."""
        return (self.parameters.get(name) if name in self.parameters else self.buffers[name]).shape  # type: ignore[union-attr]

    def full(self, name: str, rows: Tensor) -> Tensor:
        """A whole tensor from the rows that lie beside those of a parameter on every rank."""
        if not isinstance(self.parameters.get(name), DTensor):
            return rows
        spans = [self._rows(name, number) for number in range(self.size)]
        return _gather_rows(rows, [stop - start for start, stop in spans], self.group)

    def piece(self, name: str, tensor: Tensor) -> Piece:
        """A tensor that lies beside the rows of a parameter (its average, its moments), with its place."""
        parameter = self.parameters.get(name)
        if not isinstance(parameter, DTensor):
            return Piece(tensor, 0, tensor.shape, self.ranks.is_main)
        assert self.ranks.mesh is not None
        is_first_copy = self.ranks.mesh["replicate"].get_local_rank() == 0
        start, stop = self._rows(name, self.number)
        if tensor.shape == parameter.shape:  # of a matrix that this rank owns, or one that fits it whole
            return Piece(tensor, 0, tensor.shape, is_first_copy)
        return Piece(tensor, start, parameter.shape, is_first_copy and stop > start)

    def clip_(self, max_norm: float) -> Tensor:
        """Scale gradients to a global norm of at most ``max_norm``; returns the norm, the same on every rank."""
        if self.ranks.mesh is None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        sharded: list[Tensor] = []
        repeated: list[Tensor] = []
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                is_sharded = isinstance(parameter, DTensor)
                (sharded if is_sharded else repeated).append(_local(parameter.grad).detach())
        square = nn.utils.get_total_norm(sharded).square()
        dist.all_reduce(square, group=self.group)
        norm = (square + nn.utils.get_total_norm(repeated).square()).sqrt()
        torch._foreach_mul_(sharded + repeated, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def give_gradients(self) -> None:
        """From the model to the parameters of ``named_parameters``."""
        if self.ranks.mesh is None:
            return
        rows = {}
        for name, parameter in self.parameters.items():
            grad = None if parameter.grad is None else _local(parameter.grad).detach()
            if name in self.owner:
                assert grad is not None, name
                rows[name] = grad
            else:
                self.local[name].grad = grad
        if self.owner:
            for name, grad in self._to_owners(rows).items():
                self.whole[name].grad = grad

    def take_weights(self) -> None:
        """From the parameters of ``named_parameters`` to the model."""
        if self.owner:
            for name, rows in self._from_owners().items():
                self.local[name].detach().copy_(rows)

    def give_weights(self) -> None:
        """From the model to the parameters of ``named_parameters``, after it was loaded."""
        if not self.owner:
            return
        for name, value in self._to_owners({n: self.local[n].detach() for n in self.owner}).items():
            self.whole[name].detach().copy_(value)

    def reshard(self) -> None:
        """Forget gathered parameters, whose rows have been changed."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for parameter in (*self.parameters.values(), *self.local.values(), *self.whole.values()):
            parameter.grad = None

    def _rows(self, name: str, number: int) -> tuple[int, int]:
        """First row, and one past the last, of a matrix on a rank of the shard group."""
        num_rows = self.parameters[name].shape[0]
        return _first_row(num_rows, number, self.size), _first_row(num_rows, number + 1, self.size)

    def _to_owners(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's rows of every whole matrix -> the whole matrices that this rank owns."""
        sent = [
            [rows[n] for n, owner in self.owner.items() if owner == number] for number in range(self.size)
        ]
        mine = [name for name, owner in self.owner.items() if owner == self.number]
        shapes = [
            [
                (b - a, *self.parameters[name].shape[1:])
                for name in mine
                for a, b in [self._rows(name, number)]
            ]
            for number in range(self.size)
        ]
        parts = self._exchange(sent, shapes)
        return {name: torch.cat([part[index] for part in parts]) for index, name in enumerate(mine)}

    def _from_owners(self) -> dict[str, Tensor]:
        """The whole matrices that this rank owns -> this rank's rows of every whole matrix."""
        sent = [
            [whole.detach()[slice(*self._rows(name, number))] for name, whole in self._owned()]
            for number in range(self.size)
        ]
        theirs = [[n for n, owner in self.owner.items() if owner == number] for number in range(self.size)]
        parts = self._exchange(sent, [[tuple(self.local[name].shape) for name in names] for names in theirs])
        return {
            name: part
            for names, found in zip(theirs, parts, strict=True)
            for name, part in zip(names, found, strict=True)
        }

    def _owned(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, self.whole[name]) for name, owner in self.owner.items() if owner == self.number]

    def _exchange(self, sent: list[list[Tensor]], shapes: list[list[tuple[int, ...]]]) -> list[list[Tensor]]:
        """Tensors for each rank of the shard group -> tensors from each, whose shapes are known."""
        sizes = [[torch.Size(shape).numel() for shape in of_rank] for of_rank in shapes]
        flat = torch.cat([tensor.flatten() for of_rank in sent for tensor in of_rank])
        received = flat.new_empty(sum(map(sum, sizes)))
        sent_sizes = [sum(tensor.numel() for tensor in of_rank) for of_rank in sent]
        dist.all_to_all_single(received, flat, list(map(sum, sizes)), sent_sizes, group=self.group)
        out = []
        for of_rank, part in zip(shapes, received.split(list(map(sum, sizes))), strict=True):
            pieces = part.split([torch.Size(shape).numel() for shape in of_rank])
            out.append([piece.view(shape) for piece, shape in zip(pieces, of_rank, strict=True)])
        return out


def _local(tensor: Any) -> Any:
    """The rows of a tensor that lie here: a parameter stays one and shares its memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    rows = cast(DTensor, tensor.detach()).to_local()
    return (
        nn.Parameter(rows, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rows
    )


def _first_row(num_rows: int, number: int, size: int) -> int:
    """FSDP2 cuts as ``torch.chunk`` does: equal numbers of rows, rounded up, as far as there are any."""
    return min(number * -(-num_rows // size), num_rows)
