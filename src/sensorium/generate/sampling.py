"""Sampling as pure functions: a token from logits, and a path from noise to a signal."""

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (z, t) -> dz/dt
Pin = Callable[[Tensor, float], Tensor]  # (z, t) -> z with what is known of the path put in place


def sample_token(
    logits_V: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> int:
    """One token id. Temperature 0 is greedy; top-p keeps the smallest set of at least that probability.

    top-k, then top-p of what the temperature made of all tokens, then min-p (arXiv 2407.01082). One number is drawn
    for each token and looked up in the cumulative distribution, so that a request uses its generator alike
    whatever its options.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    # Doubles, and the largest at 0: no temperature is so low that the quotient overflows.
    logits_V = logits_V.double()
    probabilities = torch.softmax((logits_V - logits_V.max()) / temperature, dim=-1)
    draw = torch.rand((), generator=generator, dtype=torch.float64)
    if top_p == 1 and top_k == 0 and min_p == 0:
        return _look_up(probabilities, draw)
    # Sorting a large vocabulary costs more than the rest: the likeliest tokens are enough nearly always.
    size = min(top_k or 128, len(probabilities))
    ranked, order = probabilities.topk(size)
    if not top_k and (ranked.sum() < top_p or ranked[-1] >= min_p * ranked[0] > 0):
        ranked, order = probabilities.sort(descending=True)
    keep = (ranked.cumsum(0) - ranked < top_p) & (ranked >= min_p * ranked[0])
    return int(order[_look_up(ranked * keep, draw)])


def _look_up(weights: Tensor, draw: Tensor) -> int:
    """The index whose share of the cumulative weights the draw in [0, 1) falls into."""
    cumulative = weights.cumsum(0)
    index = int(torch.searchsorted(cumulative, draw * cumulative[-1], right=True))
    # A draw within rounding of 1 must not fall behind the last token that has any weight.
    return min(index, int(weights.nonzero()[-1]))


def penalize(logits_V: Tensor, seen_V: Tensor, penalty: float) -> Tensor:
    """Positive logits of seen tokens are divided by the penalty and negative ones multiplied (arXiv 1909.05858)."""
    changed = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
    return torch.where(seen_V, changed, logits_V)


def walk(
    z: Tensor,
    times: Sequence[float],
    solver: Literal["euler", "heun"] = "euler",
    pin: Pin = lambda z, t: z,
) -> Generator[tuple[Tensor, float], Tensor, Tensor]:
    """Solve ``dz/dt = velocity(z, t)``: yields each (z, t) whose velocity it needs, returns z at the last time.

    Euler is exact on a constant velocity. Heun averages the slopes at both ends of a step and costs two
    evaluations; its last step is Euler, since the velocity at t = 1 is not defined.
    """
    for t, t_next in pairwise(times):
        v = yield z, t
        stepped = pin(z + (t_next - t) * v, t_next)
        if solver == "heun" and t_next < 1:
            stepped = pin(z + (t_next - t) * 0.5 * (v + (yield stepped, t_next)), t_next)
        z = stepped
    return z


def integrate(
    velocity: Velocity, z: Tensor, *, num_steps: int, solver: Literal["euler", "heun"] = "euler"
) -> Tensor:
    """From noise at t = 0 to signal at t = 1 with a known velocity; see ``walk``."""
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps}: expected at least 1")
    path = walk(z, torch.linspace(0, 1, num_steps + 1).tolist(), solver)
    try:
        at = next(path)
        while True:
            at = path.send(velocity(*at))
    except StopIteration as end:
        return end.value
