"""The losses of one optimiser step: over all of its micro-batches, over all ranks, each by its own global count.

A step is split into ranks x micro-batches parts, and its losses do not depend on how: counts are added up before any
backward, and every pair is contrasted with all pairs of the step.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sensorium.config import RunConfig, TrainConfig
from sensorium.losses import Align, Loss, align_loss, compute_losses, count_items, pair_latents
from sensorium.model.flow import Noise, draw_noise
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.packing import Batch, map_arrays, share_a_group
from sensorium.train.parallel import Ranks, use_bfloat16


class Facts(NamedTuple):
    """What ranks tell each other of a step before they compute it.

    Args:
        counts: supervised items of each loss, of the whole step.
        num_pairs: pairs of each rank. num_groups: the most groups that a pair anywhere has.
        num_tokens, num_samples: of the whole step. amounts: what else was asked to be added up.
    """

    counts: dict[str, float]
    num_pairs: list[int]
    num_groups: int
    num_tokens: int
    num_samples: int
    amounts: dict[str, float]


def share_facts(
    batches: Sequence[Batch], config: RunConfig, ranks: Ranks, amounts: Mapping[str, float] | None = None
) -> Facts:
    """Count this rank's batches and learn of the others'.

    Args:
        amounts: more to add up over ranks, which all give the same names.
    """
    amounts = amounts or {}
    own = [count_items(batch, config.model, config.train.text_average) for batch in batches]
    shared = ranks.share(
        tokens=sum(batch.num_tokens for batch in batches),
        samples=sum(batch.num_visits - len(batch.bad) - len(batch.over_budget) for batch in batches),
        pairs=sum(len(batch.emb_a_M) for batch in batches),
        groups=max(batch.groups_MG.shape[1] for batch in batches),
        **{f"count_{name}": sum(counts[name] for counts in own) for name in own[0]},
        **{f"amount_{name}": value for name, value in amounts.items()},
    )
    return Facts(
        {name: sum(shared[f"count_{name}"]) for name in own[0]},
        [int(count) for count in shared["pairs"]],
        int(max(shared["groups"])),
        int(sum(shared["tokens"])),
        int(sum(shared["samples"])),
        {name: sum(shared[f"amount_{name}"]) for name in amounts},
    )


def total_loss(losses: dict[str, Loss], config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Each loss divided by its own count, then weighted and added."""
    means = {name: loss.sum / loss.count.clamp_min(1) for name, loss in losses.items()}
    zero = torch.zeros_like(means["text"])
    flow, spell = (
        sum((mean for name, mean in means.items() if name.startswith(kind)), zero)
        for kind in ("flow_", "spell_")
    )
    total = (
        config.w_text * means["text"]
        + config.w_flow * flow
        + config.w_spell * spell
        + config.w_align * means["align"]
        + config.z_loss * means["z"]
    )
    return total, means


def step_losses(
    model: Sensorium, batches: Sequence[Batch], facts: Facts, config: RunConfig, ranks: Ranks
) -> Iterator[dict[str, Loss]]:
    """Per micro-batch of this rank: (its sum, the whole step's count) of every loss, ready for backward.

    Where a step has several micro-batches and pairs to contrast, each is first run forward alone for its latents: a
    pair's gradient needs all of them (GradCache, arXiv 2101.06983).
    """
    names = list(facts.counts)
    counts = torch.tensor(list(facts.counts.values()), dtype=torch.float32).to(
        ranks.device, non_blocking=True
    )
    seed = config.train.seed
    noise = [draw_noise(batch, config.model, torch.Generator().manual_seed(seed)) for batch in batches]

    def inputs(number: int) -> tuple[Batch, dict[str, Noise]]:
        return map_arrays(
            (batches[number], noise[number]), lambda t: t.to(ranks.device, non_blocking=True), Tensor
        )

    def autocast() -> torch.autocast:
        half = use_bfloat16(config.train, ranks.device)
        return torch.autocast(ranks.device.type, torch.bfloat16, enabled=half)

    # Every rank leaves the trunk out, or none does: its blocks are gathered one by one.
    is_read = any(count for name, count in facts.counts.items() if not name.startswith("spell_"))
    encoders_only = config.train.trained == "spellers" and not is_read
    contrast = Contrast(batches, facts, config.model.align_loss, ranks)
    if len(batches) > 1 and any(facts.num_pairs):
        latents = []
        for number in range(len(batches)):
            with torch.no_grad(), autocast():
                batch, levels = inputs(number)
                latents.append(pair_latents(model, model(batch, levels, batch.read_R), batch))
        a_ML, b_ML = (torch.cat(side) for side in zip(*latents, strict=True))
        contrast.solve(a_ML, b_ML, model.logit_scale, model.logit_bias)
    for number in range(len(batches)):
        with autocast():
            batch, levels = inputs(number)
            align = contrast.align(number)
            losses = compute_losses(
                model, batch, levels, align, config.train.text_average, encoders_only=encoders_only
            )
        yield {name: losses[name]._replace(count=counts[n]) for n, name in enumerate(names)}


class Contrast:
    """The alignment loss of one step over the pairs of all ranks and micro-batches.

    Each rank computes the loss of its own pairs against all, and the gradient by all latents; gradients are added up
    over ranks. They enter a micro-batch's backward as a product with its latents, which has the same gradient: so no
    rank waits for another during backward.
    """

    def __init__(self, batches: Sequence[Batch], facts: Facts, kind: str, ranks: Ranks) -> None:
        self.kind, self.ranks, self.num_pairs = kind, ranks, facts.num_pairs
        self.sizes = [len(batch.emb_a_M) for batch in batches]
        self.is_alone = len(batches) * ranks.world_size == 1
        self.solution: Solution | None = None
        if not self.is_alone:
            padded = [F.pad(b.groups_MG, (0, facts.num_groups - b.groups_MG.shape[1])) for b in batches]
            own = torch.cat(padded)
            every = ranks.gather_rows(own, facts.num_pairs)
            self.first = sum(facts.num_pairs[: ranks.rank])
            positives_MG = share_a_group(own, every)
            positives_MG[range(len(own)), range(self.first, self.first + len(own))] = True
            self.positives_MG = positives_MG.to(ranks.device, non_blocking=True)

    def solve(self, a_ML: Tensor, b_ML: Tensor, scale: Tensor, bias: Tensor) -> None:
        """Loss and gradients, from the latents of all of this rank's pairs."""
        mine = slice(self.first, self.first + len(a_ML))
        with torch.enable_grad():
            a_GL, b_GL = (self.ranks.gather_rows(side.detach(), self.num_pairs) for side in (a_ML, b_ML))
            leaves = [tensor.detach().requires_grad_() for tensor in (a_GL, b_GL, scale, bias)]
            every_a, every_b, *pull = leaves
            loss = align_loss(
                every_a[mine],
                every_b[mine],
                self.positives_MG,
                pull[0],
                pull[1],
                self.kind,
                all_a_GL=every_a,
                all_b_GL=every_b,
            )
            grads = torch.autograd.grad(loss.sum, leaves)
        flat = self.ranks.sum_(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([leaf.numel() for leaf in leaves])
        a, b, *rest = (part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True))
        self.solution = Solution(loss.sum.detach(), a[mine], b[mine], *rest)

    def align(self, number: int) -> Align | None:
        """The alignment loss of a micro-batch, for ``compute_losses``; None where there is nothing but that."""
        return None if self.is_alone else lambda *inputs: self._loss(number, *inputs)

    def _loss(self, number: int, a_ML: Tensor, b_ML: Tensor, scale: Tensor, bias: Tensor) -> Loss:
        if self.solution is None:  # the only micro-batch: its own latents are all there are
            self.solve(a_ML, b_ML, scale, bias)
        assert self.solution is not None
        value, grad_a, grad_b, grad_scale, grad_bias = self.solution
        first = sum(self.sizes[:number])
        own = slice(first, first + self.sizes[number])
        product = (a_ML * grad_a[own]).sum() + (b_ML * grad_b[own]).sum()
        # The scale, its gradient and the value are of the whole step: they count once.
        once = float(number == 0)
        product = product + once * (scale * grad_scale + bias * grad_bias)
        return Loss(product + (once * value - product).detach(), value.new_tensor(float(self.sizes[number])))


class Solution(NamedTuple):
    """The loss of this rank's pairs, and the whole step's gradients by this rank's latents, by scale and bias."""

    value: Tensor
    a_ML: Tensor
    b_ML: Tensor
    scale: Tensor
    bias: Tensor
